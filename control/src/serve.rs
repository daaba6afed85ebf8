//! Serves discovery over TLS on threads of its own.
//!
//! Threads share one listening socket and one store; a connection stays on the thread that accepted it. None accepts
//! before the program is ready: until then the kernel keeps callers waiting, and the readiness page keeps them away.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use chassis::{Gate, Signal, Workers, workers};
use identity::server::{Limits, ServerTls, serve};
use xds::server::{Authorise, Server};

/// Connections of one thread at most. A proxy has one for each of at most two generations; 4096 on each of two threads
/// are the 5 000 nodes that Kubernetes supports, should they all come to one replica.
const CONNECTIONS: usize = 4096;

/// Time for streams to end after the drain began. They end at once; this is for slow connections.
pub const DRAIN: Duration = Duration::from_secs(5);

/// A port that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} for discovery: {source}; is another control plane running, or the port taken?")]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// What the kernel says.
    pub source: io::Error,
}

/// A listening socket that does not accept yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens.
    ///
    /// # Errors
    /// When the port cannot be had.
    pub fn bind(address: SocketAddr) -> Result<Self, ListenError> {
        let bound = TcpListener::bind(address).and_then(|listener| {
            listener.set_nonblocking(true)?;
            let address = listener.local_addr()?;
            Ok(Self { listener, address })
        });
        bound.map_err(|source| ListenError { address, source })
    }

    /// Where it listens; the port is the real one when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts `threads` threads that serve as soon as the gate is open, until the drain. They hold the drain open.
    ///
    /// # Errors
    /// When a thread cannot be made or the socket not be shared.
    pub fn serve<A: Authorise>(
        self,
        threads: usize,
        server: &Server<A>,
        tls: Arc<ServerTls>,
        gate: &Gate,
        drain: &Signal,
    ) -> io::Result<Workers> {
        let (server, gate, drain) = (server.clone(), gate.clone(), drain.clone());
        let listener = Arc::new(self.listener);
        workers(threads, move |_| {
            let (listener, server, tls) = (listener.clone(), server.clone(), tls.clone());
            let (gate, drain) = (gate.clone(), drain.clone());
            let guard = drain.guard();
            async move {
                if let Err(error) = one(&listener, server, tls, &gate, &drain).await {
                    tracing::error!(%error, "discovery is not served any more");
                }
                drop(guard);
            }
        })
    }
}

async fn one<A: Authorise>(
    listener: &TcpListener,
    server: Server<A>,
    tls: Arc<ServerTls>,
    gate: &Gate,
    drain: &Signal,
) -> io::Result<()> {
    tokio::select! {
        () = gate.ready() => {}
        () = drain.draining() => return Ok(()),
    }
    let listener = tokio::net::TcpListener::from_std(listener.try_clone()?)?;
    let limits = Limits { connections: CONNECTIONS, drain: DRAIN, ..Limits::default() };
    serve(listener, tls, limits, server.into_service(), drain.draining()).await
}
