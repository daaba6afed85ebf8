//! TLS for our own gRPC services: a server certificate by DNS name, no client certificate (callers show tokens).

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tonic::body::Body;
use tonic::codegen::http::{Request, Response};
use zeroize::Zeroizing;

use crate::certificate::ALPN_H2;
use crate::chain::certificates;
use crate::key::Key;
use crate::provider::provider;
use crate::reload::Reloaded;

mod leaf;

pub use leaf::Validity;

/// A server's certificate and key.
pub struct ServerTls {
    files: Option<(PathBuf, PathBuf, Reloaded<Arc<ServerConfig>>)>,
    made: ArcSwapOption<ServerConfig>,
}

/// A server certificate cannot be used. Each says which file or part, and why.
#[derive(Clone, Debug, thiserror::Error)]
#[error("server certificate: {0}")]
pub struct ServerTlsError(String);

/// Bounds of [`serve`].
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at a time; more wait in the kernel's backlog. Default 1024: some hundred nodes with a channel per
    /// proxy generation.
    pub connections: usize,
    /// Time for a handshake. Default 10 s.
    pub handshake: Duration,
    /// Calls at a time on one connection. Default 100, the least that RFC 9113 6.5.2 recommends.
    pub streams: u32,
    /// Time that open calls get after shutdown began. Default 10 s.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections: 1024, handshake: Duration::from_secs(10), streams: 100, drain: Duration::from_secs(10) }
    }
}

/// The address of the caller, put into the extensions of each request.
#[derive(Clone, Copy, Debug)]
pub struct RemoteAddr(pub SocketAddr);

impl ServerTls {
    /// From PEM files that are looked at for each new connection. Fails now if they are not usable now; a later change
    /// for the worse keeps the former certificate, with a warning.
    ///
    /// # Errors
    /// When a file cannot be read or parsed, or key and certificate do not belong together.
    pub fn from_files(chain: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Result<Self, ServerTlsError> {
        let (chain, key) = (chain.into(), key.into());
        let reloaded = Reloaded::new(vec![chain.clone(), key.clone()]);
        let made = Self { files: Some((chain, key, reloaded)), made: ArcSwapOption::empty() };
        made.config()?;
        Ok(made)
    }

    /// From PEM text. [`ServerTls::replace`] puts a newer one in its place.
    ///
    /// # Errors
    /// When it cannot be parsed, or key and certificate do not belong together.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, ServerTlsError> {
        let config = server_config(chain.as_bytes(), key.as_bytes())?;
        Ok(Self { files: None, made: ArcSwapOption::from(Some(config)) })
    }

    /// Without a certificate; handshakes fail until [`ServerTls::install`] brings one.
    pub fn empty() -> Self {
        Self { files: None, made: ArcSwapOption::empty() }
    }

    /// Puts a certificate for one of our own keys in place, for connections from now on, if it is good for a server of
    /// all these names.
    ///
    /// # Errors
    /// When the chain cannot be parsed, is for another key, or lacks a name; the former stays.
    pub fn install(&self, chain: &str, key: &Key, names: &[String]) -> Result<Validity, ServerTlsError> {
        let chain = certificates(chain.as_bytes()).map_err(ServerTlsError)?;
        let validity = leaf::judge(&chain, names).map_err(ServerTlsError)?;
        let certified = CertifiedKey::new(chain, key.for_tls());
        certified.keys_match().map_err(|e| ServerTlsError(format!("it is not for our key: {e}")))?;
        self.made.store(Some(configured(certified)?));
        Ok(validity)
    }

    /// Puts another certificate in place, for connections from now on.
    ///
    /// # Errors
    /// As [`ServerTls::from_pem`]; the former stays.
    pub fn replace(&self, chain: &str, key: &str) -> Result<(), ServerTlsError> {
        self.made.store(Some(server_config(chain.as_bytes(), key.as_bytes())?));
        Ok(())
    }

    /// The configuration for a new connection.
    ///
    /// # Errors
    /// When no usable certificate was ever read.
    pub fn config(&self) -> Result<Arc<ServerConfig>, ServerTlsError> {
        if let Some(made) = self.made.load_full() {
            return Ok(made);
        }
        let Some((chain, key, reloaded)) = &self.files else { return Err(ServerTlsError("none".to_owned())) };
        reloaded.get(|| {
            let read =
                |file: &PathBuf| std::fs::read(file).map_err(|e| ServerTlsError(format!("{}: {e}", file.display())));
            server_config(&read(chain)?, &Zeroizing::new(read(key)?))
        })
    }
}

/// Serves gRPC over TLS until `shutdown` completes and the calls that are open then have ended, or `limits.drain` is over.
///
/// # Errors
/// When the listener breaks for good. Failures of single connections are logged at debug.
pub async fn serve<S>(
    listener: TcpListener,
    tls: Arc<ServerTls>,
    limits: Limits,
    service: S,
    shutdown: impl Future<Output = ()>,
) -> io::Result<()>
where
    S: tower_service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    let slots = Arc::new(Semaphore::new(limits.connections));
    let (stop, stopped) = watch::channel(false);
    let mut open = JoinSet::new();
    tokio::pin!(shutdown);
    loop {
        let accepted = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = open.join_next(), if !open.is_empty() => continue,
            accepted = accept(&listener, &slots) => accepted?,
        };
        let Some((slot, tcp, remote)) = accepted else { continue };
        let (tls, limits, service, stopped) = (tls.clone(), limits.clone(), service.clone(), stopped.clone());
        open.spawn(async move {
            if let Err(error) = connection(tcp, remote, &tls, &limits, service, stopped).await {
                tracing::debug!(%remote, %error, "connection ended");
            }
            drop(slot);
        });
    }
    drop(listener);
    stop.send_replace(true);
    let all = async { while open.join_next().await.is_some() {} };
    if tokio::time::timeout(limits.drain, all).await.is_err() {
        tracing::info!("connections cut: the drain time is over");
    }
    Ok(())
}

type Accepted = Option<(tokio::sync::OwnedSemaphorePermit, TcpStream, SocketAddr)>;

async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> io::Result<Accepted> {
    // Never closed, so this cannot fail.
    let slot = slots.clone().acquire_owned().await.map_err(io::Error::other)?;
    match listener.accept().await {
        Ok((tcp, remote)) => Ok(Some((slot, tcp, remote))),
        // The peer gave up between SYN and accept, or descriptors are short: neither is the end of the listener.
        Err(e) if matches!(e.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) => Ok(None),
        Err(e) if e.raw_os_error().is_some_and(|code| code == EMFILE || code == ENFILE) => {
            tracing::warn!(error = %e, "no descriptor left for a new connection; raise the limit of open files");
            // There is no event to wait for: another part of the process must close something first.
            tokio::time::sleep(Duration::from_millis(100)).await;
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// errno(3) on Linux: the process's and the system's descriptors are used up.
const EMFILE: i32 = 24;
const ENFILE: i32 = 23;

async fn connection<S>(
    tcp: TcpStream,
    remote: SocketAddr,
    tls: &ServerTls,
    limits: &Limits,
    service: S,
    mut stopped: watch::Receiver<bool>,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
where
    S: tower_service::Service<Request<Incoming>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    tcp.set_nodelay(true)?;
    let acceptor = TlsAcceptor::from(tls.config()?);
    let stream = tokio::time::timeout(limits.handshake, acceptor.accept(tcp)).await??;
    let named = WithRemote { remote, inner: service };
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.streams)
        // 16 KiB: a token of some KiB and room.
        .max_header_list_size(16 << 10)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    let served = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(named));
    tokio::pin!(served);
    tokio::select! {
        ended = &mut served => return Ok(ended?),
        _ = stopped.wait_for(|stop| *stop) => served.as_mut().graceful_shutdown(),
    }
    Ok(served.await?)
}

#[derive(Clone)]
struct WithRemote<S> {
    remote: SocketAddr,
    inner: S,
}

impl<S: tower_service::Service<Request<Incoming>>> tower_service::Service<Request<Incoming>> for WithRemote<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> S::Future {
        request.extensions_mut().insert(RemoteAddr(self.remote));
        self.inner.call(request)
    }
}

fn server_config(chain: &[u8], key: &[u8]) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let chain = certificates(chain).map_err(ServerTlsError)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| ServerTlsError(format!("the key cannot be read: {e}")))?;
    let provider = provider();
    let certified = CertifiedKey::from_der(chain, key, &provider)
        .map_err(|e| ServerTlsError(format!("key and certificate cannot be used together: {e}")))?;
    configured(certified)
}

fn configured(certified: CertifiedKey) -> Result<Arc<ServerConfig>, ServerTlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|e| ServerTlsError(e.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![ALPN_H2.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}
