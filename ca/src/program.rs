//! The program: from its configuration to its end.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::kubernetes::client::ClientError;
use chassis::Gate;
use document::Mistakes;
use identity::server::{Limits, ServerTls, ServerTlsError, serve};
use identity::{Clock, SystemClock};
use telemetry::Metrics;
use tokio::net::TcpListener;

use crate::audit::Audit;
use crate::authority::{Authority, AuthorityError, ServerCertificate, Ttl};
use crate::caller::{Authenticator, NodePods};
use crate::config::{AboveMax, AuthoritySource, Config};
use crate::kubernetes::{self, Cluster, SecretSigner};
use crate::limit::RateLimit;
use crate::service::{CaService, Parts};
use crate::signers::{self, Fixed, Followed, Signers};
use crate::store::{self, StoreError};
use crate::tokens::{PodFile, TokenFile};

/// Life of the server certificates that we make; they are made again after a third of it.
const SERVER_LIFE: Duration = Duration::from_secs(30 * 86_400);

/// After a failure to renew a server certificate, which has 20 days left then.
const SERVER_RETRY: Duration = Duration::from_secs(60);

/// The program could not start. The texts name the file and the remedy.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum ProgramError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    #[error("{0}")]
    Document(Mistakes),
    #[error("{}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("tokenFile and podFile are needed where there is no kubernetes")]
    NoLists,
    #[error(transparent)]
    Cluster(#[from] ClientError),
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    #[error("cannot listen on {address}: {source}; is another ca running, or the port taken?")]
    Listen { address: SocketAddr, source: io::Error },
}

/// A certificate authority that listens and does not answer yet.
pub struct Ca {
    config: Config,
    signers: Arc<dyn Signers>,
    beside: Beside,
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<ServerTls>,
    service: CaService,
}

/// Who says who calls, and who runs where.
type Known = (Arc<dyn Authenticator>, Arc<dyn NodePods>);

/// What runs beside the service, as far as the configuration has it.
#[derive(Default)]
struct Beside {
    cluster: Option<Cluster>,
    secret: Option<Arc<SecretSigner>>,
    files: Option<Arc<Followed>>,
}

impl Ca {
    /// Reads or makes the authority, makes ready to know callers and pods, makes the server certificate, writes the root
    /// for clients, listens. Must be called on a tokio runtime. In a cluster it waits until the authority can be read.
    ///
    /// # Errors
    /// Whatever keeps it from serving, before anything is served.
    pub async fn prepare(
        config: Config,
        audit: Arc<dyn Audit>,
        gate: &Gate,
        metrics: &Metrics,
    ) -> Result<Self, ProgramError> {
        let client = match &config.kubernetes {
            Some(kubernetes) => Some(kubernetes::connect(kubernetes).await?),
            None => None,
        };
        Self::with(config, client, audit, gate, metrics).await
    }

    /// As [`Ca::prepare`], with the client for the cluster.
    async fn with(
        config: Config,
        client: Option<kube::Client>,
        audit: Arc<dyn Audit>,
        gate: &Gate,
        metrics: &Metrics,
    ) -> Result<Self, ProgramError> {
        let mut beside = Beside::default();
        let made = client.zip(config.kubernetes.as_ref());
        beside.cluster = made.map(|(client, kubernetes)| Cluster::new(client, kubernetes, gate, metrics));
        let usable = gate.condition("authority");
        let signers = beside.signers(&config).await?;
        usable.met();
        let signs = signers.clone();
        metrics.gauge_fn("culvert_ca_signer_expiry_seconds", "End of the signing certificate, Unix time.", move || {
            signs.now().not_after().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
        });
        stages(metrics, &signers);
        let (authenticator, pods) = beside.callers_and_pods(&config)?;
        let parts = Parts {
            signers: signers.clone(),
            authenticator,
            pods,
            clusters: config.clusters.clone(),
            rate: RateLimit { per_second: config.rate_limit.per_second.into(), burst: config.rate_limit.burst.into() },
            audit,
            clock: Arc::new(SystemClock),
        };
        let (authority, now) = (signers.now(), SystemClock.now());
        let own = authority.issue_server(&config.server_names, SERVER_LIFE, now)?;
        let tls = Arc::new(ServerTls::from_pem(&own.chain, &own.key)?);
        let failed = |source| ProgramError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        write_files(&config, &authority, now)?;
        Ok(Self { signers, beside, listener, address, tls, service: CaService::new(parts), config })
    }

    /// Where it listens; the port is the real one when 0 was configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What signs.
    pub fn signers(&self) -> &Arc<dyn Signers> {
        &self.signers
    }

    /// Answers until `shutdown` completes and the open calls have ended.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let Self { config, signers, beside, listener, tls, service, .. } = self;
        tokio::select! {
            ended = serve(listener, tls.clone(), Limits::default(), service.into_server(), shutdown) => ended,
            never = renew(&config, &*signers, &tls) => match never {},
            never = beside.run(signers.clone()) => match never {},
        }
    }
}

impl Beside {
    /// Where the key comes from. What has to be followed is kept.
    async fn signers(&mut self, config: &Config) -> Result<Arc<dyn Signers>, ProgramError> {
        let (ttl, clock) = (ttl(config), Arc::new(SystemClock));
        let AuthoritySource { folder, files, secret } = &config.authority;
        if let (Some(source), Some(cluster)) = (secret, &self.cluster) {
            let signer = Arc::new(cluster.authority(source, config, ttl, clock).await);
            self.secret = Some(signer.clone());
            return Ok(signer);
        }
        if let Some(files) = files {
            let followed = Arc::new(Followed::open(files.clone(), &config.trust_domain, ttl, clock)?);
            self.files = Some(followed.clone());
            return Ok(followed);
        }
        // `Check` has refused a configuration with none.
        let none = || AuthorityError::Part { part: "authority", why: "no source configured".to_owned() };
        let now = clock.now();
        let files = store::open_or_make(folder.as_ref().ok_or_else(none)?, &config.trust_domain, now)?;
        Ok(Arc::new(Fixed::new(Authority::new(&config.trust_domain, files, ttl, now)?)))
    }

    fn callers_and_pods(&self, config: &Config) -> Result<Known, ProgramError> {
        if let Some(cluster) = &self.cluster {
            return Ok((cluster.authenticator(), cluster.node_pods()));
        }
        let (tokens, pods) = (lists(&config.token_file)?, lists(&config.pod_file)?);
        Ok((
            Arc::new(TokenFile::open(tokens).map_err(ProgramError::Document)?),
            Arc::new(PodFile::open(pods).map_err(ProgramError::Document)?),
        ))
    }

    async fn run(&self, signers: Arc<dyn Signers>) -> Infallible {
        let cluster = async {
            match &self.cluster {
                Some(cluster) => cluster.run(signers).await,
                None => std::future::pending().await,
            }
        };
        let secret = async {
            match &self.secret {
                Some(secret) => secret.follow().await,
                None => std::future::pending().await,
            }
        };
        let files = async {
            match &self.files {
                Some(files) => files.follow().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            never = cluster => never,
            never = secret => never,
            never = files => never,
        }
    }
}

/// Tells how another root is being taken up.
fn stages(metrics: &Metrics, signers: &Arc<dyn Signers>) {
    let signs = signers.clone();
    let help = "How a root that its owner replaced is taken up: 0 steady, 1 published beside the former, 2 signing, the \
                former still trusted.";
    metrics.gauge_fn("culvert_ca_root_stage", help, move || signs.stage().number().into());
    let signs = signers.clone();
    let help = "Unix time at which that stage ends; 0 in the stage 0.";
    metrics.gauge_fn("culvert_ca_root_stage_end_seconds", help, move || {
        let end = signs.stage().next().unwrap_or(SystemTime::UNIX_EPOCH);
        end.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
    });
}

/// Reads the files that `--check` cannot see wrong by shape alone.
///
/// # Errors
/// The mistakes of the token and pod files, or an authority that cannot be used. Makes nothing, asks no cluster.
pub fn check(config: &Config) -> Result<(), ProgramError> {
    if config.kubernetes.is_none() {
        drop(Beside::default().callers_and_pods(config)?);
    }
    let now = SystemClock.now();
    let AuthoritySource { folder, files, .. } = &config.authority;
    let read = match (folder, files) {
        (_, Some(files)) => Some(signers::plugged(files)?),
        (Some(folder), None) if folder.join("authority").exists() => {
            Some(store::open_or_make(folder, &config.trust_domain, now)?)
        }
        _ => None,
    };
    if let Some(files) = read {
        drop(Authority::new(&config.trust_domain, files, ttl(config), now)?);
    }
    Ok(())
}

fn ttl(config: &Config) -> Ttl {
    Ttl {
        default: config.ttl.default.get(),
        max: config.ttl.max.get(),
        clamp: config.ttl.above_max == AboveMax::Shorten,
    }
}

/// A file of callers or pods; `Check` has refused a configuration without it.
fn lists(file: &Option<PathBuf>) -> Result<PathBuf, ProgramError> {
    file.clone().ok_or(ProgramError::NoLists)
}

/// Makes the server certificates again: after a third of their life, and at once when another authority signs, since a
/// client may trust its root alone a moment later.
async fn renew(config: &Config, signers: &dyn Signers, tls: &ServerTls) -> Infallible {
    let mut changes = signers.watch();
    let mut wait = SERVER_LIFE / 3;
    loop {
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            // The signers outlive this; should the channel close, the timer is left.
            Ok(()) = changes.changed() => {}
        }
        let (authority, now) = (signers.now(), SystemClock.now());
        let renewed = authority
            .issue_server(&config.server_names, SERVER_LIFE, now)
            .map_err(ProgramError::from)
            .and_then(|own| Ok(tls.replace(&own.chain, &own.key)?))
            .and_then(|()| write_files(config, &authority, now));
        wait = match renewed {
            Ok(()) => SERVER_LIFE / 3,
            Err(error) => {
                tracing::warn!(%error, "server certificates not renewed");
                SERVER_RETRY
            }
        };
    }
}

/// The roots for clients, and the certificates of other servers, where the configuration names files for them.
fn write_files(config: &Config, authority: &Authority, now: SystemTime) -> Result<(), ProgramError> {
    if let Some(path) = &config.root_output {
        store::write_whole(path, authority.roots_pem().as_bytes(), 0o644)?;
    }
    write_server_files(config, authority, now)
}

fn write_server_files(config: &Config, authority: &Authority, now: SystemTime) -> Result<(), ProgramError> {
    for files in &config.server_certificates {
        let ServerCertificate { chain, key, not_after } = authority.issue_server(&files.names, SERVER_LIFE, now)?;
        // The key first: a reader that sees a mismatch keeps what it has and looks again when the chain changes.
        store::write_whole(&files.key, key.as_bytes(), 0o600)?;
        store::write_whole(&files.certificate, chain.as_bytes(), 0o644)?;
        let days = not_after.duration_since(now).unwrap_or_default().as_secs() / 86_400;
        tracing::info!(names = ?files.names, certificate = %files.certificate.display(), days, "server certificate written");
    }
    Ok(())
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
