//! New tunnels: TCP from inside the pod, then TLS with the pod's certificate.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hbone::{Dial, DialTimings, Dialled, OpenError, PoolKey};
use identity::stream::{self, HandshakeError, SecureStream};
use mesh::Outcome;
use net::socket::{self, ConnectError, ConnectOptions};
use telemetry::Record;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bond::{Certificates, Revocable};
use crate::here::Shared;
use crate::outbound::CONNECT;
use crate::pod::Pod;

/// TLS with a peer that has accepted the TCP connection: as long as the connection itself (hbone.md 10).
const TLS: Duration = Duration::from_secs(10);

/// Dials for one pod.
pub(crate) struct PodDialer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pod: Arc<Pod>,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot reach the tunnel's end: {0}")]
    Connect(#[from] ConnectError),
    #[error("TLS cannot be set up: {0}")]
    Config(#[from] identity::ConfigError),
    #[error("no certificate for the workload: {0}")]
    Identity(#[from] identity::Unavailable),
    #[error("our own certificate: {0}")]
    Own(#[from] identity::SpiffeFault),
    #[error("the peer did not finish its TLS handshake within {TLS:?}")]
    Slow,
    #[error("TLS: {0}")]
    Tls(#[from] HandshakeError),
}

impl Dial for PodDialer {
    type Io = Revocable<SecureStream<TcpStream>>;
    type Error = DialError;

    async fn dial(&self, key: &PoolKey) -> Result<Dialled<Self::Io>, DialError> {
        let certificate = self.shared.identities.certificate(&key.source).await?;
        let began = Instant::now();
        let options =
            ConnectOptions { to: key.tunnel.0, source: None, mark: self.shared.egress_mark(), timeout: CONNECT };
        let tcp = socket::connect(Some(self.pod.netns()), &options).await?;
        let connected = Instant::now();
        let config = certificate.client_config(&key.expected)?;
        let (io, peer) = timeout(TLS, stream::connect(tcp, config)).await.map_err(|_| DialError::Slow)??;
        let timings = DialTimings { connect: connected - began, tls: connected.elapsed() };
        let ours = certificate.peer()?;
        let bond = Certificates { ours, theirs: peer, revocations: self.shared.identities.revocations() };
        // Without a file of revoked certificates nothing is ever revoked, and nobody has to be asked at every read.
        let end = self.shared.config.crl_file.as_ref().map(|_| Box::pin(bond.until_revoked()) as Pin<Box<_>>);
        Ok(Dialled { io: Revocable::new(io, end), bond: Rc::new(bond), timings })
    }
}

/// What a failed TCP connection means for the record.
pub(crate) fn outcome(error: &ConnectError, record: &mut Record) -> Outcome {
    record.error(error.to_string());
    of_connect(error)
}

/// What a stream that could not be opened means for the record.
pub(crate) fn open_outcome(error: &OpenError<DialError>, record: &mut Record) -> Outcome {
    record.error(error.to_string());
    match error {
        OpenError::Authority => Outcome::BadRequest,
        OpenError::Closed => Outcome::TunnelLost,
        OpenError::Dial(dial) => match &**dial {
            DialError::Connect(connect) => of_connect(connect),
            DialError::Config(_) | DialError::Identity(_) | DialError::Own(_) => Outcome::IdentityUnavailable,
            DialError::Slow | DialError::Tls(_) => Outcome::TlsFailed,
        },
        OpenError::Handshake(_) => Outcome::H2HandshakeFailed,
        OpenError::Lost => Outcome::TunnelLost,
        OpenError::Refused(401) => Outcome::PolicyDenied,
        OpenError::Refused(_) | OpenError::Reset => Outcome::TunnelRefused,
        OpenError::TimedOut(_) => Outcome::ConnectTimedOut,
    }
}

fn of_connect(error: &ConnectError) -> Outcome {
    match error {
        ConnectError::Refused { .. } => Outcome::ConnectRefused,
        ConnectError::TimedOut { .. } => Outcome::ConnectTimedOut,
        ConnectError::Exhausted(_) => Outcome::BudgetExhausted,
        ConnectError::Unreachable { .. }
        | ConnectError::Source { .. }
        | ConnectError::Forbidden { .. }
        | ConnectError::Setup(_)
        | ConnectError::Other { .. } => Outcome::ConnectUnreachable,
    }
}
