//! `metrics_listen`: /metrics, /livez and /readyz over HTTP/1.1.
//!
//! Asks PostgreSQL nothing and waits for no pool, so it answers when nothing else does. Does not know what
//! the metrics are. Whoever connects costs one small buffer for [`PATIENCE`] at most, whatever it sends or
//! does not read: a connection serves one request, and when there are too many the oldest is closed. Only
//! one text is made at a time, and not on a thread that serves clients.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, rt, server::conn::http1,
    service::service_fn,
};
use tokio::{sync::Semaphore, task::spawn_blocking, time::timeout};

use super::{Pooler, StartError, control::Lifecycle, serve::listen_options};
use crate::net::{Accepted, Listener, Stream, bind_tcp};

/// How long a connection may last: an answer takes milliseconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// Connections at the same time: a scraper or two, and probes.
const MAX_CONNECTIONS: usize = 32;
/// Most bytes of a request; the least that hyper can do with.
const BUFFER: usize = 8192;

/// Version 0.0.4 of the text format.
const TEXT_FORMAT: &str = "text/plain; version=0.0.4; charset=utf-8";
const PLAIN: &str = "text/plain; charset=utf-8";

/// Opens the listener that the configuration asks for.
pub(super) fn listen(pooler: &Pooler) -> Result<Option<Listener>, StartError> {
    let config = pooler.config();
    let Some(address) = config.process.metrics_listen else {
        return Ok(None);
    };
    let host = address.ip().to_string();
    let bound = bind_tcp(&host, address.port(), &listen_options(&config))?;
    let listener = bound.into_iter().next().map(|bound| bound.into_listener());
    listener.transpose().map_err(StartError::Worker)
}

/// Answers requests until the future is dropped.
pub(super) async fn serve(pooler: Arc<Pooler>, listener: Listener) {
    tracing::info!("listening on http://{}/metrics", listener.address());
    let tasks = pooler.tasks.clone();
    let endpoint = Rc::new(Endpoint {
        pooler,
        making: Arc::new(Semaphore::new(1)),
    });
    let mut connections = VecDeque::new();
    loop {
        let Accepted { stream, .. } = listener.accept().await;
        connections.retain(|it: &tokio::task::JoinHandle<()>| !it.is_finished());
        if connections.len() >= MAX_CONNECTIONS
            && let Some(oldest) = connections.pop_front()
        {
            oldest.abort();
        }
        connections.push_back(tasks.spawn_local(connection(Rc::clone(&endpoint), stream)));
    }
}

/// What all connections answer from.
struct Endpoint {
    pooler: Arc<Pooler>,
    /// Who holds it makes the metrics.
    making: Arc<Semaphore>,
}

async fn connection(endpoint: Rc<Endpoint>, stream: Stream) {
    let service = service_fn(|request| endpoint.answer(request));
    let serving = http1::Builder::new()
        .keep_alive(false)
        .half_close(true)
        .header_read_timeout(None)
        .max_buf_size(BUFFER)
        .serve_connection(Socket(stream), service);
    match timeout(PATIENCE, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "metrics: connection broke"),
        Err(_) => tracing::debug!(after = ?PATIENCE, "metrics: connection closed"),
    }
}

impl Endpoint {
    /// # Cancel safety
    /// Metrics that nobody waits for any more are made to their end.
    async fn answer(&self, request: Request<Incoming>) -> Result<Response<String>, Infallible> {
        let is_known = ["/metrics", "/livez", "/readyz"].contains(&request.uri().path());
        if !is_known {
            return Ok(response(StatusCode::NOT_FOUND, "not found"));
        }
        if ![Method::GET, Method::HEAD].contains(request.method()) {
            let mut response = response(StatusCode::METHOD_NOT_ALLOWED, "GET is allowed");
            let allowed = header::HeaderValue::from_static("GET, HEAD");
            response.headers_mut().insert(header::ALLOW, allowed);
            return Ok(response);
        }
        Ok(match request.uri().path() {
            "/metrics" => self.metrics().await,
            "/readyz" => readiness(*self.pooler.lifecycle.borrow()),
            _ => response(StatusCode::OK, "alive"),
        })
    }

    async fn metrics(&self) -> Response<String> {
        let turn = Arc::clone(&self.making).acquire_owned().await;
        let console = Arc::clone(&self.pooler.console);
        let made = spawn_blocking(move || {
            let metrics = console.metrics();
            drop(turn);
            metrics
        });
        match made.await {
            Ok(text) => of_type(TEXT_FORMAT, Response::new(text)),
            Err(error) => {
                tracing::error!(%error, "cannot make the metrics");
                response(StatusCode::INTERNAL_SERVER_ERROR, "see the log")
            }
        }
    }
}

/// Whether clients that come now are let in.
fn readiness(lifecycle: Lifecycle) -> Response<String> {
    let why = match lifecycle {
        Lifecycle::Serving => return response(StatusCode::OK, "ready"),
        Lifecycle::Draining => "draining",
        Lifecycle::WaitingForClients => "shutting down when all clients have left",
        Lifecycle::WaitingForServers => "shutting down when all servers are free",
    };
    response(StatusCode::SERVICE_UNAVAILABLE, why)
}

fn response(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(format!("{text}\n"));
    *response.status_mut() = status;
    of_type(PLAIN, response)
}

fn of_type(content_type: &'static str, mut response: Response<String>) -> Response<String> {
    let headers = response.headers_mut();
    let content_type = header::HeaderValue::from_static(content_type);
    headers.insert(header::CONTENT_TYPE, content_type);
    response
}

/// A connection as hyper wants it.
struct Socket(Stream);

impl rt::Read for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut buffer: rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = [0; 2048];
        let most = bytes.len().min(buffer.remaining());
        let count = ready!(self.0.poll_read(cx, &mut bytes[..most]))?;
        buffer.put_slice(&bytes[..count]);
        Poll::Ready(Ok(()))
    }
}

impl rt::Write for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_shutdown(cx)
    }
}
