//! The life of one identity: ask, hold, renew.
//!
//! ```text
//! asking --issued--> holding --a third of its life--> asking
//!    ^  \--failed--> waiting (what is held stays valid) --backoff--+
//!    +--------------------------------------------------------------+
//! ```

use std::sync::Arc;
use std::time::Duration;

use mesh::Identity;
use tokio::sync::watch;

use super::{Shared, backoff};
use crate::certificate::Certificate;
use crate::issued::{self, Unusable};
use crate::key::{Key, KeyError};
use crate::signer::SignError;

/// What everybody sees of an identity.
#[derive(Clone, Default)]
pub(super) struct Progress {
    pub(super) current: Option<Arc<Certificate>>,
    pub(super) last_error: Option<Arc<str>>,
}

/// How badly it is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// No connection waits yet.
    Soon,
    /// A connection waits.
    Now,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("the CA did not answer within {} s", .0.as_secs())]
    Silent(Duration),
}

/// How long one request may take; gRPC over a live channel answers within milliseconds, and a CA under a burst of a
/// whole node's pods within seconds.
const ANSWER: Duration = Duration::from_secs(10);

/// Runs until it is aborted.
pub(super) async fn keep(
    shared: Arc<Shared>,
    identity: Identity,
    progress: watch::Sender<Progress>,
    mut wanted: watch::Receiver<Wanted>,
) {
    let mut failures = 0_u32;
    loop {
        match ask(&shared, &identity, &mut wanted).await {
            Ok(certificate) => {
                failures = 0;
                let life = certificate.not_after().duration_since(certificate.issued()).unwrap_or_default();
                let wait = backoff::renewal(life, rand::random());
                tracing::debug!(%identity, serial = certificate.serial(), renew_in = ?wait, "certificate issued");
                progress.send_replace(Progress { current: Some(Arc::new(certificate)), last_error: None });
                shared.clock.sleep(wait).await;
            }
            Err(error) => {
                failures = failures.saturating_add(1);
                let now = shared.clock.now();
                let held = progress.borrow().current.clone();
                let left = held.map(|c| c.not_after().duration_since(now).unwrap_or_default());
                let wait = backoff::retry(failures, left, rand::random());
                warn(&identity, &error, failures, wait, left);
                progress.send_modify(|p| p.last_error = Some(error.to_string().into()));
                shared.clock.sleep(wait).await;
            }
        }
    }
}

async fn ask(
    shared: &Shared,
    identity: &Identity,
    wanted: &mut watch::Receiver<Wanted>,
) -> Result<Certificate, Failed> {
    // Prefetches queue among themselves first; the closed-semaphore error cannot happen, they are never closed.
    let _low = tokio::select! {
        slot = shared.prefetch_slots.acquire() => slot.ok(),
        _ = wanted.wait_for(|w| *w == Wanted::Now) => None,
    };
    let _slot = shared.slots.acquire().await.ok();
    // A new key each time: an old one that leaked is of no use after the next renewal.
    let key = Key::generate()?;
    let csr = key.csr_pem(identity)?;
    let signed = tokio::time::timeout(ANSWER, shared.signer.sign(identity, &csr, shared.config.ttl));
    let chain = signed.await.map_err(|_| Failed::Silent(ANSWER))??;
    Ok(issued::accept(identity, &key, chain, shared.clock.now(), shared.crl.clone())?)
}

fn warn(identity: &Identity, error: &Failed, failures: u32, retry_in: Duration, left: Option<Duration>) {
    match left {
        Some(left) if !left.is_zero() => tracing::warn!(
            %identity, %error, failures, ?retry_in, valid_for = ?left, "certificate not renewed; the old one stays in use"
        ),
        _ => tracing::warn!(%identity, %error, failures, ?retry_in, "no valid certificate"),
    }
}
