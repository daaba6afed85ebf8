//! The server certificate of discovery: asked from the mesh's CA with our own token, renewed in time, put in place without
//! touching a connection; or read from files that somebody else renews.
//!
//! ```text
//!  Asking ──answer good──► Holding ──a third of its life is over──► Asking (and still holding)
//!    ▲  └─ failed: again after 1 s, doubling to 60 s                     │
//!    └──────────────── expired: not ready any more ◄────────────────────-┘
//! ```

#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use chassis::readiness::Condition;
use identity::channel::{ChannelConfig, ChannelError, TrustedRoots};
use identity::server::{ServerTls, ServerTlsError, Validity};
use identity::{GrpcSigner, GrpcSignerConfig, Key, KeyError, SignError, Signer};
use mesh::Identity;
use telemetry::metrics::Gauge;

use crate::config::{Ca, CertificateFiles};

/// First and longest pause after a failure. The CA is in the same cluster, and until the first certificate is there no
/// proxy is served; a minute later on is 1 / 960 of what a certificate of a day has left.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// How long one question may take. A CA signs in milliseconds.
const ANSWER: Duration = Duration::from_secs(10);

/// How often a certificate in files is looked at for its end: it is read again by itself, at each connection.
const LOOK: Duration = Duration::from_secs(60);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each text says what the variant and its fields are")]
pub enum TlsError {
    #[error("{0}; check certificate.ca.address")]
    Channel(#[from] ChannelError),
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("{0}")]
    Sign(#[from] SignError),
    #[error("the CA did not answer within {}s", ANSWER.as_secs())]
    Late,
    #[error(transparent)]
    Tls(#[from] ServerTlsError),
    #[error("certificate.ca.serviceAccount is no service account: {0}")]
    Identity(String),
}

/// Keeps a certificate in place.
pub struct Renewal {
    signer: Arc<dyn Signer>,
    identity: Identity,
    names: Vec<String>,
    ttl: Duration,
    tls: Arc<ServerTls>,
    ready: Condition,
    expiry: Gauge,
}

impl Renewal {
    /// Prepares to ask the CA. Must be called on a runtime.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(
        config: &Ca,
        trust_domain: &str,
        cluster_id: &str,
        ready: Condition,
        expiry: Gauge,
    ) -> Result<Self, TlsError> {
        let signer = GrpcSigner::new(GrpcSignerConfig {
            channel: ChannelConfig {
                alt_name: config.alt_name.clone(),
                ..ChannelConfig::new(&config.address, TrustedRoots::File(config.root_file.clone()))
            },
            token_file: Some(config.token_file.clone()),
            cluster_id: cluster_id.to_owned(),
            headers: Vec::new(),
            // For ourselves: the CA knows from the token who we are, and from its configuration which names we have.
            impersonate: false,
        })?;
        let (namespace, account) = config.service_account.split_once('/').unwrap_or(("", &config.service_account));
        let identity =
            Identity::new(trust_domain, namespace, account).map_err(|e| TlsError::Identity(e.to_string()))?;
        let (names, ttl) = (config.names.clone(), config.ttl.get());
        Ok(Self::with(Arc::new(signer), identity, names, ttl, ready, expiry))
    }

    fn with(
        signer: Arc<dyn Signer>,
        identity: Identity,
        names: Vec<String>,
        ttl: Duration,
        ready: Condition,
        expiry: Gauge,
    ) -> Self {
        Self { signer, identity, names, ttl, tls: Arc::new(ServerTls::empty()), ready, expiry }
    }

    /// Where the certificate is put.
    pub fn tls(&self) -> Arc<ServerTls> {
        self.tls.clone()
    }

    /// Keeps it renewed, for ever.
    pub async fn run(self) -> Infallible {
        let mut held: Option<Validity> = None;
        let mut pause = PAUSE.0;
        loop {
            let wait = match self.renew().await {
                Ok(validity) => {
                    pause = PAUSE.0;
                    held = Some(validity);
                    self.ready.met();
                    self.expiry.set(unix(validity.not_after));
                    let left = until(validity.not_after);
                    tracing::info!(names = ?self.names, hours = left.as_secs() / 3600, "server certificate in place");
                    // Never in a busy circle, however short a life the CA grants.
                    (life(&validity) / 3).max(PAUSE.0)
                }
                Err(error) => {
                    tracing::warn!(%error, again_in = ?pause, "no server certificate from the CA");
                    let wait = pause.mul_f64(rand::random_range(0.8..1.2));
                    pause = (pause * 2).min(PAUSE.1);
                    wait
                }
            };
            self.wait(wait, held.as_ref()).await;
        }
    }

    /// Waits, and withdraws readiness if the certificate ends meanwhile.
    async fn wait(&self, wait: Duration, held: Option<&Validity>) {
        let next = tokio::time::sleep(wait);
        let Some(left) = held.map(|validity| until(validity.not_after)) else { return next.await };
        tokio::pin!(next);
        tokio::select! {
            () = &mut next => {}
            () = tokio::time::sleep(left) => {
                self.ready.unmet();
                tracing::error!("the server certificate has expired; proxies cannot connect until the CA answers");
                next.await;
            }
        }
    }

    async fn renew(&self) -> Result<Validity, TlsError> {
        let key = Key::generate()?;
        let csr = key.csr_pem(&self.identity)?;
        let asked = self.signer.sign(&self.identity, &csr, self.ttl);
        let chain = tokio::time::timeout(ANSWER, asked).await.map_err(|_| TlsError::Late)??;
        let sent: Vec<String> = std::iter::once(chain.leaf).chain(chain.intermediates).collect();
        Ok(self.tls.install(&sent.concat(), &key, &self.names)?)
    }
}

/// Looks after a certificate in files: ready while it can be used.
///
/// # Errors
/// When the files cannot be used now.
pub fn from_files(files: &CertificateFiles) -> Result<Arc<ServerTls>, TlsError> {
    Ok(Arc::new(ServerTls::from_files(&files.certificate, &files.key)?))
}

/// How often [`watch_files`] looks.
pub async fn watch_files(tls: Arc<ServerTls>, ready: Condition) -> Infallible {
    loop {
        match tls.config() {
            Ok(_) => ready.met(),
            Err(error) => {
                tracing::warn!(%error, "server certificate");
                ready.unmet();
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

fn life(validity: &Validity) -> Duration {
    // From now on, not from notBefore, which CAs put some minutes back for the sake of slow clocks.
    until(validity.not_after)
}

fn until(end: SystemTime) -> Duration {
    end.duration_since(SystemTime::now()).unwrap_or_default()
}

fn unix(time: SystemTime) -> i64 {
    let seconds = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    i64::try_from(seconds).unwrap_or(i64::MAX)
}
