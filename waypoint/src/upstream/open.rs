//! A new connection to an endpoint.

use std::time::Duration;

use hbone::{Baggage, Head, Headers, OpenError, TunnelStream};
use hyper_util::rt::TokioIo;
use mesh::Outcome;
use net::socket::{self, ConnectOptions};
use proxy::dial::{CONNECT, DialError};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::Fault;
use crate::endpoints::Endpoint;
use crate::here::Worker;
use crate::io::{TunnelIo, UpstreamIo};

/// A connection to an endpoint as it was opened.
pub(crate) enum Stream {
    /// A stream of a tunnel.
    Tunnel(TunnelStream),
    /// A workload without a tunnel.
    Plain(TcpStream),
}

/// Opens a connection to an endpoint. `host` is the name of the service, for the far proxy's metrics.
pub(crate) async fn open(
    worker: &Worker,
    endpoint: &Endpoint,
    host: Option<&str>,
    patience: Duration,
) -> Result<Stream, Fault> {
    let Some(key) = &endpoint.tunnel else {
        let options = ConnectOptions { to: endpoint.at, source: None, mark: None, timeout: patience.min(CONNECT) };
        let connected = socket::connect(None, &options).await;
        return connected.map(Stream::Plain).map_err(|e| Fault::new(Outcome::ConnectUnreachable, e.to_string()));
    };
    let headers = Headers {
        baggage: Baggage::from(&*worker.own()),
        forwarded_host: host.map(str::to_owned),
        ..Headers::default()
    };
    let head = Head { authority: endpoint.at.to_string(), headers };
    match timeout(patience, worker.tunnels.open(key, &head)).await {
        Ok(Ok(opened)) => Ok(Stream::Tunnel(opened.stream)),
        Ok(Err(error)) => Err(fault(&error)),
        Err(_) => {
            Err(Fault::new(Outcome::ConnectTimedOut, format!("no connection to {} within {patience:?}", endpoint.at)))
        }
    }
}

fn fault(error: &OpenError<DialError>) -> Fault {
    let outcome = match error {
        OpenError::Refused(401) => Outcome::PolicyDenied,
        OpenError::TimedOut(_) => Outcome::ConnectTimedOut,
        OpenError::Dial(dial) if matches!(**dial, DialError::Slow | DialError::Tls(_)) => Outcome::TlsFailed,
        OpenError::Dial(dial)
            if matches!(**dial, DialError::Identity(_) | DialError::Config(_) | DialError::Own(_)) =>
        {
            Outcome::IdentityUnavailable
        }
        OpenError::Lost | OpenError::Closed => Outcome::TunnelLost,
        _ => Outcome::ConnectUnreachable,
    };
    Fault::new(outcome, error.to_string())
}

impl Stream {
    /// For the HTTP library.
    pub(super) fn into_io(self, http2: bool) -> UpstreamIo {
        match self {
            Self::Tunnel(stream) => {
                let (recv, send) = stream.split();
                let io = TunnelIo::new(recv, send, bytes::Bytes::new());
                UpstreamIo::Tunnel(if http2 { io.together() } else { io })
            }
            Self::Plain(stream) => UpstreamIo::Plain(TokioIo::new(stream)),
        }
    }
}
