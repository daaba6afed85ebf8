//! One connection of a caller's application: what is spoken on it decides who carries it.
//!
//! ```text
//! carry ─ detect ─┬─ HTTP/1, HTTP/2 ──▶ web::serve ───▶ for each request: exchange
//!                 ├─ TLS, other ──────▶ tcp::carry
//!                 └─ silent client ───▶ tcp::greet: the server may speak first; whoever does, decides
//! ```

use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use hbone::{Broken, RecvHalf, SendHalf, TunnelStream};
use mesh::TraceContext;
use routing::Routes;
use routing::model::Protocol;

use crate::bound::Bound;
use crate::detect::{self, Spoken};
use crate::here::Worker;
use crate::io::TunnelIo;
use crate::target::{Kind, Target};
use crate::tunnel::Tunnel;
use crate::{tcp, web};

/// One connection of a caller's application.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) tunnel: Rc<Tunnel>,
    pub(crate) target: Target,
    /// The trace that the caller's proxy began for the connection.
    pub(crate) trace: Option<TraceContext>,
}

/// The caller's end, and what was read of it already.
pub(crate) struct Client {
    pub(crate) recv: RecvHalf,
    pub(crate) send: SendHalf,
    pub(crate) held: Bytes,
}

impl Connection {
    pub(crate) fn new(worker: Rc<Worker>, tunnel: Rc<Tunnel>, target: Target, trace: Option<TraceContext>) -> Self {
        Self { worker, tunnel, target, trace }
    }

    /// What is bound to us under the target's key, at this moment.
    pub(crate) fn bound(&self) -> Option<Arc<Bound>> {
        self.target.bound(&self.worker.tables())
    }

    /// How the port is spoken, as it is declared or as its routes say.
    fn declared(&self) -> Protocol {
        let Some(bound) = self.bound() else { return Protocol::Detect };
        let Kind::Service(_) = &self.target.kind else { return Protocol::Detect };
        let port = self.target.port();
        match (bound.router.routes(port, Some(self.tunnel.caller.namespace())), bound.protocol(port)) {
            (Some(Routes::Tcp(_)), _) => Protocol::Tcp,
            (Some(Routes::Tls(_)), _) => Protocol::Tls,
            (_, declared) => declared,
        }
    }
}

impl Client {
    /// Waits for more of what the client sends. `false`: it has ended its direction.
    pub(crate) async fn more(&mut self) -> Result<bool, Broken> {
        let Some(bytes) = self.recv.data().await? else { return Ok(false) };
        if self.held.is_empty() {
            self.held = bytes;
        } else {
            let mut all = BytesMut::with_capacity(self.held.len() + bytes.len());
            all.extend_from_slice(&self.held);
            all.extend_from_slice(&bytes);
            self.held = all.freeze();
        }
        Ok(true)
    }

    pub(crate) fn into_io(self) -> TunnelIo {
        TunnelIo::new(self.recv, self.send, self.held)
    }
}

/// Carries a connection to its end.
pub(crate) async fn carry(connection: Rc<Connection>, stream: TunnelStream) {
    let (recv, send) = stream.split();
    let mut client = Client { recv, send, held: Bytes::new() };
    let silence = connection.worker.shared.config.detection.0;
    match detect::detect(&mut client, connection.declared(), silence).await {
        Ok(spoken) => dispatch(connection, client, spoken).await,
        Err(broken) => {
            tracing::debug!(%broken, peer = %connection.tunnel.peer, "the client left before it said anything")
        }
    }
}

/// Hands a connection to whoever carries what is spoken on it.
pub(crate) async fn dispatch(connection: Rc<Connection>, client: Client, spoken: Spoken) {
    match spoken {
        Spoken::Http1 => web::serve(connection, client, false).await,
        Spoken::Http2 => web::serve(connection, client, true).await,
        Spoken::Opaque(server_name) => tcp::carry(&connection, client, server_name).await,
        // Boxed: it leads back here, once.
        Spoken::Silent => Box::pin(tcp::greet(connection, client)).await,
    }
}
