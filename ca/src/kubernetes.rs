//! The authority in a cluster: who calls (TokenReview), who runs where (a watch of pods), the key (a Secret), the roots (a
//! ConfigMap in every namespace).

#[cfg(test)]
#[path = "kubernetes/api_tests.rs"]
pub(crate) mod api;
mod board;
mod callers;
mod content;
mod foreign;
mod held;
mod informer;
mod pods;
mod retry;
mod roots;
pub mod rotate;
mod secret;

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ::kubernetes::client::{self, ClientError, Source};
use ::kubernetes::review::{Cached, Limits, TokenReviewer};
use chassis::Gate;
use chassis::readiness::Condition;
use identity::Clock;
use kube::Client;
use telemetry::Metrics;

use crate::authority::Ttl;
use crate::caller::{Authenticator, NodePods};
use crate::config::{Config, Kubernetes, SecretSource};
use crate::signers::Signers;

pub use content::ContentError;
pub use secret::SecretError;
pub(crate) use secret::SecretSigner;

/// What a cluster gives the service, and what runs beside it.
pub(crate) struct Cluster {
    client: Client,
    config: Kubernetes,
    pods: informer::PodInformer,
    reviews: Cached,
    published: Arc<roots::Published>,
    known: Condition,
}

/// The client that the configuration asks for.
///
/// # Errors
/// When it does not say where the API server is.
pub async fn connect(config: &Kubernetes) -> Result<Client, ClientError> {
    let source = match &config.kubeconfig {
        None => Source::InCluster,
        Some(path) => Source::Kubeconfig { path: path.clone(), context: config.context.clone() },
    };
    client::connect(&source, "culvert-ca").await
}

impl Cluster {
    pub(crate) fn new(client: Client, config: &Kubernetes, gate: &Gate, metrics: &Metrics) -> Self {
        let reviewer = Arc::new(TokenReviewer::new(client.clone(), config.audience.as_str()));
        let made = Self {
            client,
            config: config.clone(),
            pods: informer::PodInformer::new(informer::PATIENCE),
            reviews: Cached::new(reviewer, Limits::default()),
            published: Arc::default(),
            known: gate.condition("pods"),
        };
        made.count(metrics);
        made
    }

    pub(crate) fn authenticator(&self) -> Arc<dyn Authenticator> {
        let rules = callers::Rules::new(&self.config);
        Arc::new(callers::Callers::new(Arc::new(self.reviews.clone()), self.pods.clone(), rules))
    }

    pub(crate) fn node_pods(&self) -> Arc<dyn NodePods> {
        Arc::new(self.pods.clone())
    }

    /// Waits until the Secret holds an authority. What is wrong is told each time, and need not be a restart's matter:
    /// the API server may be late, a role or the Secret itself may come a moment after us.
    pub(crate) async fn authority(
        &self,
        source: &SecretSource,
        config: &Config,
        ttl: Ttl,
        clock: Arc<dyn Clock>,
    ) -> secret::SecretSigner {
        let trust_domain = config.trust_domain.clone();
        let mut place = secret::Place::new(self.client.clone(), source.clone(), trust_domain, ttl, clock.clone());
        let mut backoff = retry::Backoff::default();
        loop {
            match place.open().await {
                Ok(signer) => return signer,
                Err((again, error)) => {
                    tracing::error!(%error, "no authority yet; trying again");
                    place = again;
                    clock.sleep(backoff.next()).await;
                }
            }
        }
    }

    /// Follows pods and publishes roots, for ever.
    pub(crate) async fn run(&self, signers: Arc<dyn Signers>) -> Infallible {
        let authority = signers.watch();
        let bundle = authority.borrow().roots_pem().to_owned();
        let excluded = self.config.roots.excluded_namespaces.clone();
        let board = board::Board::new(bundle, self.config.compat.own_istio_names, excluded);
        tokio::select! {
            never = self.pods.follow(self.client.clone()) => match never {},
            never = self.tell() => match never {},
            never = roots::publish(self.client.clone(), board, authority, self.published.clone()) => match never {},
        }
    }

    /// Keeps the program's readiness true to what is known of pods.
    async fn tell(&self) -> Infallible {
        loop {
            self.pods.until(true).await;
            self.known.met();
            self.pods.until(false).await;
            self.known.unmet();
        }
    }

    fn count(&self, metrics: &Metrics) {
        let pods = self.pods.clone();
        metrics.gauge_fn("culvert_ca_pods", "Pods of the cluster that are known.", move || pods.len() as f64);
        let published = self.published.clone();
        metrics.counter_fn("culvert_ca_roots_published", "ConfigMaps with roots that were written.", move || {
            published.written.load(Ordering::Relaxed)
        });
        let published = self.published.clone();
        metrics.counter_fn("culvert_ca_roots_failed", "ConfigMaps with roots that could not be written.", move || {
            published.failed.load(Ordering::Relaxed)
        });
        let reviews = self.reviews.clone();
        metrics.counter_fn("culvert_ca_reviews_asked", "Tokens that the API server judged.", move || {
            reviews.counts().accepted + reviews.counts().refused
        });
        let reviews = self.reviews.clone();
        metrics.counter_fn("culvert_ca_reviews_remembered", "Tokens that were judged from memory.", move || {
            reviews.counts().remembered
        });
        let reviews = self.reviews.clone();
        metrics.counter_fn("culvert_ca_reviews_unavailable", "Tokens that could not be judged.", move || {
            reviews.counts().unavailable
        });
    }
}
