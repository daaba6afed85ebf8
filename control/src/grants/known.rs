//! Remembers accepted tokens for the time when nobody can review them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use kubernetes::review::{ReviewError, Reviewed, Reviewer, Reviewing};

/// Tokens remembered at most. One or two a node and, as tokens are renewed, two at a time: 20 000 is beyond the 5 000
/// nodes that Kubernetes supports, and takes some 4 MB.
const MOST: usize = 20_000;

/// A reviewer that is always asked first. While it cannot answer, tokens that it accepted less than `outage` ago are
/// accepted again, until they expire by themselves: proxies reconnect during an outage of the API server, and nothing
/// new is let in.
pub struct Known {
    reviewer: Arc<dyn Reviewer>,
    outage: Duration,
    accepted: Mutex<HashMap<Vec<u8>, (Instant, Reviewed)>>,
}

impl Known {
    /// In front of `reviewer`.
    pub fn new(reviewer: Arc<dyn Reviewer>, outage: Duration) -> Self {
        Self { reviewer, outage, accepted: Mutex::default() }
    }

    async fn ask(&self, token: &str) -> Result<Reviewed, ReviewError> {
        // As a digest: a memory dump holds no token.
        let key = digest(&SHA256, token.as_bytes()).as_ref().to_vec();
        let answer = self.reviewer.review(token).await;
        let mut accepted = self.accepted.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Ok(reviewed) => {
                if accepted.len() >= MOST {
                    accepted.retain(|_, (at, _)| at.elapsed() < self.outage);
                }
                if accepted.len() < MOST || accepted.contains_key(&key) {
                    accepted.insert(key, (Instant::now(), reviewed.clone()));
                }
                Ok(reviewed)
            }
            Err(ReviewError::Denied(denied)) => {
                accepted.remove(&key);
                Err(denied.into())
            }
            Err(unavailable) => {
                let known = accepted.get(&key).filter(|(at, reviewed)| {
                    at.elapsed() < self.outage && reviewed.expires.is_none_or(|end| end > SystemTime::now())
                });
                let Some((at, reviewed)) = known else { return Err(unavailable) };
                let age = at.elapsed().as_secs();
                tracing::warn!(pod = ?reviewed.pod, age, reason = %unavailable, "a token is taken on trust");
                Ok(reviewed.clone())
            }
        }
    }
}

impl Reviewer for Known {
    fn review<'a>(&'a self, token: &'a str) -> Reviewing<'a> {
        Box::pin(self.ask(token))
    }
}
