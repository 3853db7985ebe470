//! A connection by tokio-postgres whose messages are driven, and whose notices and notifications are kept.

use std::{future::poll_fn, sync::mpsc};

use tokio::{io::AsyncReadExt as _, net::TcpStream, task::JoinSet};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls, config::Host};

/// A client; dropping it ends the connection.
pub(crate) struct Session {
    client: Client,
    /// Where a request to cancel goes.
    address: (String, u16),
    messages: mpsc::Receiver<AsyncMessage>,
    /// Drives the connection; aborted when dropped.
    driver: JoinSet<()>,
}

impl std::ops::Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl std::ops::DerefMut for Session {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Session {
    pub(crate) async fn connect(url: &str) -> Self {
        Self::connect_with(url, |_| ()).await
    }

    pub(crate) async fn connect_with(url: &str, configure: impl FnOnce(&mut Config)) -> Self {
        let mut config: Config = url.parse().unwrap();
        configure(&mut config);
        let [Host::Tcp(host)] = config.get_hosts() else {
            panic!("one host, by TCP: {url}");
        };
        let address = (host.clone(), config.get_ports()[0]);
        let (client, mut connection) = config.connect(NoTls).await.unwrap();
        let (sender, messages) = mpsc::channel();
        let mut driver = JoinSet::new();
        driver.spawn(async move {
            // An error ends it and is told by whatever the client asks for next.
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                drop(sender.send(message));
            }
        });
        Self {
            client,
            address,
            messages,
            driver,
        }
    }

    /// Asks to cancel what runs, and waits until the other end has dealt with it, as libpq does.
    ///
    /// `CancelToken::cancel_query` is back as soon as the request is sent: it may still stop what the client asks
    /// for next.
    pub(crate) async fn cancel(&self) {
        let (host, port) = &self.address;
        let mut stream = TcpStream::connect((host.as_str(), *port)).await.unwrap();
        let token = self.client.cancel_token();
        token.cancel_query_raw(&mut stream, NoTls).await.unwrap();
        let rest = stream.read_to_end(&mut Vec::new()).await;
        assert_eq!(rest.unwrap(), 0, "nothing answers a request to cancel");
    }

    /// The notices and notifications since the last call.
    pub(crate) fn messages(&self) -> Vec<AsyncMessage> {
        self.messages.try_iter().collect()
    }

    /// Says goodbye (Terminate) and waits until the connection is closed.
    pub(crate) async fn close(self) {
        let Self {
            client,
            mut driver,
            messages,
            ..
        } = self;
        drop(client);
        driver.join_next().await;
        drop(messages);
    }

    /// Vanishes without a goodbye, in the middle of whatever is going on.
    pub(crate) async fn vanish(mut self) {
        self.driver.shutdown().await;
    }
}
