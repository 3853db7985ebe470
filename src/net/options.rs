//! Socket options of TCP connections, for both legs.
//!
//! Linux lets an accepted socket inherit them from its listener, so a login costs no call for them.

use std::{io, os::fd::AsFd, time::Duration};

use socket2::{SockRef, TcpKeepalive};

/// What is set on every TCP socket beside `TCP_NODELAY`, which is always on: a pooler that waits to fill a segment
/// adds a delayed acknowledgement to each query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpOptions {
    /// `tcp_keepalive`; `None` switches probes off.
    pub keepalive: Option<Keepalive>,
    /// `tcp_user_timeout`: how long sent bytes may stay unacknowledged. `None` is the kernel's default.
    pub user_timeout: Option<Duration>,
    /// `tcp_socket_buffer`: bytes of `SO_SNDBUF` and `SO_RCVBUF`. `None` lets the kernel tune them.
    pub socket_buffer: Option<usize>,
}

/// Intervals of keepalive probes; `None` is the kernel's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keepalive {
    /// `tcp_keepidle`: silence before the first probe.
    pub idle: Option<Duration>,
    /// `tcp_keepintvl`: between two probes.
    pub interval: Option<Duration>,
    /// `tcp_keepcnt`: unanswered probes before the connection is dead.
    pub count: Option<u32>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        Self {
            keepalive: Some(Keepalive::default()),
            user_timeout: None,
            socket_buffer: None,
        }
    }
}

impl TcpOptions {
    /// Sets all options on a TCP socket, connected or listening.
    pub fn apply(&self, socket: &impl AsFd) -> io::Result<()> {
        let socket = SockRef::from(socket);
        socket.set_tcp_nodelay(true)?;
        match self.keepalive {
            None => socket.set_keepalive(false)?,
            Some(keepalive) => socket.set_tcp_keepalive(&keepalive.probes())?,
        }
        socket.set_tcp_user_timeout(self.user_timeout)?;
        if let Some(bytes) = self.socket_buffer {
            socket.set_send_buffer_size(bytes)?;
            socket.set_recv_buffer_size(bytes)?;
        }
        Ok(())
    }
}

impl Keepalive {
    fn probes(self) -> TcpKeepalive {
        let mut probes = TcpKeepalive::new();
        if let Some(idle) = self.idle {
            probes = probes.with_time(idle);
        }
        if let Some(interval) = self.interval {
            probes = probes.with_interval(interval);
        }
        if let Some(count) = self.count {
            probes = probes.with_retries(count);
        }
        probes
    }
}
