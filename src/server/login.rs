//! How a pool's server connections come to be, and how their queries are cancelled.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Server, ServerRecord,
    cancel::{CancelError, CancelTarget},
    connect::{self, ConnectTarget},
    connect_error::{ConnectError, ConnectFailure},
    connection::LoggedIn,
    derivations::Derivations,
    recover::{self, RecoverError},
};
use crate::{
    auth::Credentials,
    net::{Address, Resolver},
    protocol::startup,
    session::{ServerState, Settings},
};

/// Everything that a login needs.
#[derive(Clone, Debug)]
pub struct ServerLogin {
    /// To what, and as whom.
    pub target: ConnectTarget,
    /// With what proof.
    pub credentials: Credentials,
    /// Who finds the host.
    pub resolver: Arc<Resolver>,
    /// Who computes keys.
    pub derivations: Arc<Derivations>,
    /// `cancel_wait_timeout`.
    pub cancel_timeout: Option<Duration>,
    /// `max_prepared_statements`.
    pub max_prepared_statements: usize,
    /// SQL that every new connection runs first.
    pub connect_query: Option<String>,
}

#[cfg(test)]
impl ServerLogin {
    /// A login to nowhere, for tests of what needs a pool and no server.
    pub(crate) fn nowhere() -> Arc<Self> {
        let directory = "/nonexistent/pgweir".into();
        let timeout = Duration::from_secs(1);
        Arc::new(Self {
            target: ConnectTarget {
                address: Address::Unix { directory, port: 1 },
                at: None,
                user: String::new(),
                database: String::new(),
                parameters: Vec::new(),
                sslmode: crate::config::SslMode::Disable,
                connector: None,
                tcp: crate::net::TcpOptions {
                    keepalive: None,
                    user_timeout: None,
                    socket_buffer: None,
                },
                protocol: startup::ProtocolVersion::V3_0,
                timeout,
                max_iterations: 1,
            },
            credentials: Credentials::None,
            resolver: Arc::new(Resolver::new(timeout, timeout)),
            derivations: Arc::new(Derivations::new(1, 1, [0; 32])),
            cancel_timeout: None,
            max_prepared_statements: 0,
            connect_query: None,
        })
    }
}

/// What the server told at login.
pub type Parameters = Arc<[(Box<[u8]>, Box<[u8]>)]>;

impl ServerLogin {
    /// Whether connections made by `other` are as good.
    pub fn is_same(&self, other: &Self) -> bool {
        let key = |login: &Self| {
            let target = &login.target;
            (
                target.address.clone(),
                target.user.clone(),
                target.database.clone(),
                target.sslmode,
                login.connect_query.clone(),
                login.max_prepared_statements,
            )
        };
        key(self) == key(other)
    }

    /// A new connection, ready for its first client. `id` is never used twice.
    ///
    /// # Cancel safety
    /// Dropping the future closes the connection.
    pub async fn log_in(
        self: &Arc<Self>,
        id: u64,
        defaults: &Arc<Settings>,
    ) -> Result<(Box<Server>, Parameters), ConnectError> {
        let (resolver, derivations) = (&self.resolver, &self.derivations);
        let connected =
            connect::connect(&self.target, resolver, &self.credentials, derivations).await?;
        let key = connected.key;
        let process_id = key.as_ref().map_or(0, |key| key.process_id);
        let (host, port) = match &self.target.address {
            Address::Tcp { host, port } => (host.clone(), *port),
            Address::Unix { directory, port } => (directory.display().to_string(), *port),
        };
        let record = ServerRecord::new(id, host, port, process_id, &connected.stream);
        let user = self.target.user.as_bytes();
        let state = ServerState::new(user, Arc::clone(defaults), self.max_prepared_statements);
        let cancel = CancelTarget {
            login: Arc::clone(self),
            at: connected.address,
            process_id,
            secret: key.map(|key| key.secret.into()).unwrap_or_default(),
        };
        let server = LoggedIn {
            stream: connected.stream,
            state,
            cancel,
            record,
        };
        let parameters = connected
            .parameters
            .into_iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        let mut server = Server::new(server, Instant::now(), 0);
        if let Some(query) = &self.connect_query {
            let run = recover::run(&mut server, query.as_bytes());
            let limit = self.target.timeout;
            tokio::time::timeout(limit, run)
                .await
                .unwrap_or(Err(RecoverError::Timeout(limit)))
                .map_err(|error| self.connect_query_failed(error))?;
        }
        Ok((server, parameters))
    }

    fn connect_query_failed(&self, error: RecoverError) -> ConnectError {
        ConnectError {
            server: self.target.address.to_string().into(),
            user: self.target.user.as_str().into(),
            database: self.target.database.as_str().into(),
            failure: ConnectFailure::ConnectQuery(Box::new(error)),
        }
    }

    /// Sends a cancel request and waits until the server has closed the connection.
    pub(super) async fn send_cancel(&self, cancel: &CancelTarget) -> Result<(), CancelError> {
        let target = ConnectTarget {
            at: cancel.at,
            ..self.target.clone()
        };
        let mut framed = connect::open(&target, &self.resolver)
            .await
            .map_err(CancelError::Connect)?;
        let request = startup::cancel_request(cancel.process_id, &cancel.secret);
        framed.write(&request).await.map_err(CancelError::Io)?;
        match framed.first_byte().await {
            // It has nothing to say; closing is its answer.
            Ok(_) | Err(_) => Ok(()),
        }
    }
}
