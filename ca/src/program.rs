//! The program: from its configuration to its end.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use document::Mistakes;
use identity::server::{Limits, ServerTls, ServerTlsError, serve};
use identity::{Clock, SystemClock};
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use crate::audit::Audit;
use crate::authority::{Authority, AuthorityError, AuthorityFiles, ServerCertificate, Ttl};
use crate::config::{AboveMax, Config, PluggedFiles};
use crate::limit::RateLimit;
use crate::service::{CaService, Parts};
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
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    #[error("cannot listen on {address}: {source}; is another ca running, or the port taken?")]
    Listen { address: SocketAddr, source: io::Error },
}

/// A certificate authority that listens and does not answer yet.
pub struct Ca {
    config: Config,
    authority: Arc<Authority>,
    listener: TcpListener,
    address: SocketAddr,
    tls: Arc<ServerTls>,
    service: CaService,
}

impl Ca {
    /// Reads or makes the authority, reads the files of callers and pods, makes the server certificate, writes the root
    /// for clients, listens. Must be called on a tokio runtime.
    ///
    /// # Errors
    /// Whatever keeps it from serving, before anything is served.
    pub async fn prepare(config: Config, audit: Arc<dyn Audit>) -> Result<Self, ProgramError> {
        let now = SystemClock.now();
        let ttl = Ttl {
            default: config.ttl.default.get(),
            max: config.ttl.max.get(),
            clamp: config.ttl.above_max == AboveMax::Shorten,
        };
        let authority = Arc::new(Authority::new(&config.trust_domain, source(&config, now)?, ttl, now)?);
        let parts = Parts {
            authority: authority.clone(),
            authenticator: Arc::new(TokenFile::open(config.token_file.clone()).map_err(ProgramError::Document)?),
            pods: Arc::new(PodFile::open(config.pod_file.clone()).map_err(ProgramError::Document)?),
            clusters: config.clusters.clone(),
            rate: RateLimit { per_second: config.rate_limit.per_second.into(), burst: config.rate_limit.burst.into() },
            audit,
            clock: Arc::new(SystemClock),
        };
        let own = authority.issue_server(&config.server_names, SERVER_LIFE, now)?;
        let tls = Arc::new(ServerTls::from_pem(&own.chain, &own.key)?);
        let failed = |source| ProgramError::Listen { address: config.listen, source };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        if let Some(path) = &config.root_output {
            store::write_whole(path, authority.roots_pem().as_bytes(), 0o644)?;
        }
        write_server_files(&config, &authority, now)?;
        Ok(Self { authority, listener, address, tls, service: CaService::new(parts), config })
    }

    /// Where it listens; the port is the real one when 0 was configured.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What signs.
    pub fn authority(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// Answers until `shutdown` completes and the open calls have ended.
    ///
    /// # Errors
    /// When the listener breaks.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> io::Result<()> {
        let Self { config, authority, listener, tls, service, .. } = self;
        tokio::select! {
            ended = serve(listener, tls.clone(), Limits::default(), service.into_server(), shutdown) => ended,
            never = renew(&config, &authority, &tls) => match never {},
        }
    }
}

/// Reads the files that `--check` cannot see wrong by shape alone.
///
/// # Errors
/// The mistakes of the token and pod files, or an authority that cannot be used. Makes nothing.
pub fn check(config: &Config) -> Result<(), ProgramError> {
    drop(TokenFile::open(config.token_file.clone()).map_err(ProgramError::Document)?);
    drop(PodFile::open(config.pod_file.clone()).map_err(ProgramError::Document)?);
    let now = SystemClock.now();
    let exists = config.authority.folder.as_ref().is_none_or(|folder| folder.join("authority").exists());
    if exists {
        let ttl = Ttl { default: config.ttl.default.get(), max: config.ttl.max.get(), clamp: false };
        drop(Authority::new(&config.trust_domain, source(config, now)?, ttl, now)?);
    }
    Ok(())
}

/// Makes the server certificates again, each time after a third of their life.
async fn renew(config: &Config, authority: &Authority, tls: &ServerTls) -> std::convert::Infallible {
    let mut wait = SERVER_LIFE / 3;
    loop {
        tokio::time::sleep(wait).await;
        let now = SystemClock.now();
        let renewed = authority
            .issue_server(&config.server_names, SERVER_LIFE, now)
            .map_err(ProgramError::from)
            .and_then(|own| Ok(tls.replace(&own.chain, &own.key)?))
            .and_then(|()| write_server_files(config, authority, now));
        wait = match renewed {
            Ok(()) => SERVER_LIFE / 3,
            Err(error) => {
                tracing::warn!(%error, "server certificates not renewed");
                SERVER_RETRY
            }
        };
    }
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

fn source(config: &Config, now: SystemTime) -> Result<AuthorityFiles, ProgramError> {
    match (&config.authority.folder, &config.authority.files) {
        (_, Some(files)) => plugged(files),
        (Some(folder), None) => Ok(store::open_or_make(folder, &config.trust_domain, now)?),
        // `Check` has refused it.
        (None, None) => Err(AuthorityError::Part { part: "authority", why: "no source configured".to_owned() }.into()),
    }
}

fn plugged(files: &PluggedFiles) -> Result<AuthorityFiles, ProgramError> {
    let read = |path: &Path| {
        std::fs::read_to_string(path).map_err(|source| ProgramError::Read { path: path.to_owned(), source })
    };
    Ok(AuthorityFiles {
        certificate: read(&files.certificate)?,
        key: Zeroizing::new(read(&files.key)?),
        chain: files.chain.as_deref().map(read).transpose()?.unwrap_or_default(),
        roots: read(&files.roots)?,
    })
}

#[cfg(test)]
#[path = "program_tests.rs"]
mod tests;
