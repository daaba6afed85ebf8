//! New tunnels: TCP to the next hop's HBONE port, then TLS with a certificate of ours.

use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use hbone::{DialTimings, Dialled, OpenError, PoolKey};
use identity::Manager;
use identity::stream::{self, HandshakeError, SecureStream};
use mesh::Outcome;
use net::NetNs;
use net::socket::{self, ConnectError, ConnectOptions};
use telemetry::Record;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::bond::{Certificates, Revocable};

/// How long a plain TCP connection to the next hop may take. Istio's value (hbone.md 5).
pub const CONNECT: Duration = Duration::from_secs(10);

/// TLS with a peer that has accepted the TCP connection: as long as the connection itself (hbone.md 10).
const TLS: Duration = Duration::from_secs(10);

/// What a tunnel is carried by.
pub type Transport = Revocable<SecureStream<TcpStream>>;

/// How a dialler of tunnels goes about it.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    /// Whose certificates are shown.
    pub identities: &'a Manager,
    /// Where the socket is made; `None`: where the program is.
    pub netns: Option<&'a NetNs>,
    /// Mark of the socket.
    pub mark: Option<u32>,
    /// Whether certificates may be revoked while the tunnel lives. Without a file of revoked certificates nothing ever
    /// is, and nobody has to be asked at every read.
    pub revocable: bool,
}

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// No TCP connection.
    #[error("cannot reach the tunnel's end: {0}")]
    Connect(#[from] ConnectError),
    /// Our side of TLS.
    #[error("TLS cannot be set up: {0}")]
    Config(#[from] identity::ConfigError),
    /// There is no certificate to show.
    #[error("no certificate for the workload: {0}")]
    Identity(#[from] identity::Unavailable),
    /// Our certificate cannot be read.
    #[error("our own certificate: {0}")]
    Own(#[from] identity::SpiffeFault),
    /// TLS was begun and not ended.
    #[error("the peer did not finish its TLS handshake within {TLS:?}")]
    Slow,
    /// TLS failed.
    #[error("TLS: {0}")]
    Tls(#[from] HandshakeError),
}

/// Dials the tunnel that `key` names, as its source.
///
/// # Errors
/// See [`DialError`].
pub async fn dial(way: Way<'_>, key: &PoolKey) -> Result<Dialled<Transport>, DialError> {
    let certificate = way.identities.certificate(&key.source).await?;
    let began = Instant::now();
    let options = ConnectOptions { to: key.tunnel.0, source: None, mark: way.mark, timeout: CONNECT };
    let tcp = socket::connect(way.netns, &options).await?;
    let connected = Instant::now();
    let config = certificate.client_config(&key.expected)?;
    let (io, peer) = timeout(TLS, stream::connect(tcp, config)).await.map_err(|_| DialError::Slow)??;
    let timings = DialTimings { connect: connected - began, tls: connected.elapsed() };
    let ours = certificate.peer()?;
    let bond = Certificates { ours, theirs: peer, revocations: way.identities.revocations() };
    let end = way.revocable.then(|| Box::pin(bond.until_revoked()) as Pin<Box<_>>);
    Ok(Dialled { io: Revocable::new(io, end), bond: Rc::new(bond), timings })
}

/// What a failed TCP connection means for the record.
pub fn outcome(error: &ConnectError, record: &mut Record) -> Outcome {
    record.error(error.to_string());
    of_connect(error)
}

/// What a stream that could not be opened means for the record.
pub fn open_outcome(error: &OpenError<DialError>, record: &mut Record) -> Outcome {
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
