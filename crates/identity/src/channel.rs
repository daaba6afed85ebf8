//! gRPC channels of our own: TLS 1.3 with ordinary DNS names, no client certificate.
//!
//! `tonic` here has no TLS of its own (its features would pull a second provider or native roots), so the connector is
//! made of tokio-rustls. The channel connects when first used and again after it broke; the file of roots is looked at
//! for each new connection.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::codegen::http::Uri;
use tonic::transport::Endpoint;

use crate::certificate::ALPN_H2;
use crate::chain::certificates;
use crate::provider::provider;
use crate::reload::Reloaded;

/// A channel for generated clients: `tower::Service<http::Request<tonic::body::Body>>`, cheap to clone.
pub type GrpcChannel = tonic::transport::Channel;

/// Whom to trust.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TrustedRoots {
    /// A PEM file, read again when it changes.
    File(PathBuf),
    /// PEM text.
    Pem(String),
    /// The machine's bundle.
    System,
}

/// A place to call.
#[derive(Clone, Debug)]
pub struct ChannelConfig {
    /// `https://host:port`, or `host:port`, which means the same. `http://` only as [`ChannelConfig::plaintext_loopback`] says.
    pub address: String,
    /// Whom to trust.
    pub roots: TrustedRoots,
    /// The name to verify in place of the address's host (`ALT_CA_HOSTNAME`, `ALT_XDS_HOSTNAME`).
    pub alt_name: Option<String>,
    /// Allows `http://` when the host is a loopback address or `localhost` (an OTLP collector in the same pod).
    pub plaintext_loopback: bool,
    /// For address look-up, connection and handshake together. Default 5 s: a control plane is in the same cluster, and
    /// the caller tries again.
    pub connect_timeout: Duration,
}

impl ChannelConfig {
    /// A place that speaks TLS.
    pub fn new(address: impl Into<String>, roots: TrustedRoots) -> Self {
        Self {
            address: address.into(),
            roots,
            alt_name: None,
            plaintext_loopback: false,
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// A channel cannot be made from its configuration.
#[derive(Debug, thiserror::Error)]
pub enum ChannelError {
    /// The address is not `https://host:port`.
    #[error("{address:?} is not an address of the form https://host:port: {why}")]
    Address {
        /// As it came.
        address: String,
        /// What is wrong.
        why: &'static str,
    },
    /// The address would be spoken to in clear.
    #[error("{address:?} would be spoken to in clear; use https://")]
    Plaintext {
        /// As it came.
        address: String,
    },
    /// The name to verify is no DNS name or IP address.
    #[error("{name:?} is not a name that a certificate can have")]
    Name {
        /// As it came.
        name: String,
    },
    /// A header cannot be sent.
    #[error("{name:?} is not a header that gRPC metadata can carry")]
    Header {
        /// Its name.
        name: String,
    },
}

/// An HTTP/2 ping is sent after 30 s of silence, also without calls, because middle boxes forget idle flows after
/// minutes; a dead peer is noticed 10 s later.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// A place without a port means this one (ca.md 1).
const DEFAULT_PORT: u16 = 15012;

/// Where distributions keep their bundle.
const SYSTEM_BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
];

/// Makes a channel; it connects when it is first used. Must be called on a tokio runtime.
///
/// # Errors
/// When the configuration is malformed or plain text is not allowed.
pub fn grpc_channel(config: &ChannelConfig) -> Result<GrpcChannel, ChannelError> {
    let connector = Connector::new(config)?;
    let authority = connector.0.authority();
    let scheme = if connector.0.tls.is_some() { "https" } else { "http" };
    let address = |why| ChannelError::Address { address: config.address.clone(), why };
    let origin: Uri = format!("{scheme}://{authority}").parse().map_err(|_| address("not a URI"))?;
    // tonic refuses https without its own TLS; the scheme of the requests is that of the origin.
    let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(|_| address("not a URI"))?;
    Ok(endpoint
        .origin(origin)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector))
}

#[derive(Clone)]
struct Connector(Arc<Target>);

struct Target {
    host: String,
    port: u16,
    connect_timeout: Duration,
    tls: Option<Tls>,
}

struct Tls {
    name: ServerName<'static>,
    roots: TrustedRoots,
    config: Reloaded<Arc<ClientConfig>>,
}

impl Connector {
    fn new(config: &ChannelConfig) -> Result<Self, ChannelError> {
        let bad = |why| ChannelError::Address { address: config.address.clone(), why };
        let text =
            if config.address.contains("://") { config.address.clone() } else { format!("https://{}", config.address) };
        let uri: Uri = text.parse().map_err(|_| bad("not a URI"))?;
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(|| bad("it has no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let tls = match uri.scheme_str() {
            Some("https") => {
                let name = config.alt_name.clone().unwrap_or_else(|| host.clone());
                let name = ServerName::try_from(name.clone()).map_err(|_| ChannelError::Name { name })?;
                let files = match &config.roots {
                    TrustedRoots::File(file) => vec![file.clone()],
                    TrustedRoots::Pem(_) | TrustedRoots::System => Vec::new(),
                };
                Some(Tls { name, roots: config.roots.clone(), config: Reloaded::new(files) })
            }
            Some("http") if config.plaintext_loopback && is_loopback(&host) => None,
            Some("http") => return Err(ChannelError::Plaintext { address: config.address.clone() }),
            _ => return Err(bad("the scheme is not https")),
        };
        let port = uri.port_u16().unwrap_or(DEFAULT_PORT);
        Ok(Self(Arc::new(Target { host, port, connect_timeout: config.connect_timeout, tls })))
    }
}

impl Target {
    fn authority(&self) -> String {
        if self.host.contains(':') {
            format!("[{}]:{}", self.host, self.port)
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }

    async fn connect(&self) -> io::Result<Stream> {
        let tcp = TcpStream::connect((self.host.as_str(), self.port)).await?;
        // Small gRPC messages must not wait for an acknowledgement.
        tcp.set_nodelay(true)?;
        let Some(tls) = &self.tls else { return Ok(Stream::Plain(tcp)) };
        let config = tls.config.get(|| client_config(&tls.roots)).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(tls.name.clone(), tcp).await?;
        if stream.get_ref().1.alpn_protocol() != Some(ALPN_H2) {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the server does not speak HTTP/2 (ALPN h2)"));
        }
        Ok(Stream::Tls(Box::new(stream)))
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let target = self.0.clone();
        Box::pin(async move {
            let place = || format!("{}:{}", target.host, target.port);
            match tokio::time::timeout(target.connect_timeout, target.connect()).await {
                Ok(Ok(stream)) => Ok(TokioIo::new(stream)),
                Ok(Err(e)) => Err(io::Error::new(e.kind(), format!("{}: {e}", place()))),
                Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("{}: no connection in time", place()))),
            }
        })
    }
}

/// Reads roots.
pub(crate) fn root_store(roots: &TrustedRoots) -> Result<RootCertStore, String> {
    let pem = match roots {
        TrustedRoots::Pem(pem) => pem.clone().into_bytes(),
        TrustedRoots::File(file) => std::fs::read(file).map_err(|e| format!("root file {}: {e}", file.display()))?,
        TrustedRoots::System => {
            let bundle = SYSTEM_BUNDLES.iter().find_map(|file| std::fs::read(file).ok());
            bundle.ok_or("this machine has no bundle of roots; name a root file")?
        }
    };
    let mut store = RootCertStore::empty();
    // A machine's bundle may hold what rustls cannot use; the rest of it still counts.
    let (good, _) = store.add_parsable_certificates(certificates(&pem)?);
    if good == 0 {
        return Err("no usable root certificate".to_owned());
    }
    Ok(store)
}

fn client_config(roots: &TrustedRoots) -> Result<Arc<ClientConfig>, String> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| e.to_string())?
        .with_root_certificates(root_store(roots)?)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    Ok(Arc::new(config))
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// TLS or, where that was allowed, plain text.
enum Stream {
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
    Plain(TcpStream),
}

mod stream;

#[cfg(test)]
#[path = "channel_tests.rs"]
mod tests;
