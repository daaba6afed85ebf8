//! One question per token and moment, and a bounded number of questions at once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::{BoxFuture, FutureExt, Shared};
use tokio::sync::Semaphore;

use super::cache::{Cache, Digest};
use super::{ReviewError, Reviewed, Reviewer, Reviewing};

type Answer = Result<Reviewed, ReviewError>;

/// How much is asked for at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Questions to the API server at a time.
    pub at_once: usize,
    /// How long a caller waits for its turn.
    pub patience: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // 32: at 5 ms a question some 6 000 callers a second, and a small part of the API server's 400 mutating calls at
        // once. Five seconds: half of what callers themselves wait.
        Self { at_once: 32, patience: Duration::from_secs(5) }
    }
}

/// How often what was done, since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered from memory, or together with somebody else's question.
    pub remembered: u64,
    /// Asked, and accepted.
    pub accepted: u64,
    /// Asked, and refused.
    pub refused: u64,
    /// Not answered.
    pub unavailable: u64,
}

/// Remembers what a reviewer said. Clones share the memory.
#[derive(Clone)]
pub struct Cached(Arc<Inner>);

struct Inner {
    reviewer: Arc<dyn Reviewer>,
    limits: Limits,
    turns: Semaphore,
    state: Mutex<State>,
    counts: [AtomicU64; 4],
}

#[derive(Default)]
struct State {
    cache: Cache,
    asked: HashMap<Digest, Shared<BoxFuture<'static, Answer>>>,
}

impl Cached {
    /// In front of `reviewer`.
    pub fn new(reviewer: Arc<dyn Reviewer>, limits: Limits) -> Self {
        let turns = Semaphore::new(limits.at_once.max(1));
        Self(Arc::new(Inner { reviewer, limits, turns, state: Mutex::default(), counts: Default::default() }))
    }

    /// How often what was done.
    pub fn counts(&self) -> Counts {
        let [remembered, accepted, refused, unavailable] =
            [0, 1, 2, 3].map(|i: usize| self.0.counts[i].load(Ordering::Relaxed));
        Counts { remembered, accepted, refused, unavailable }
    }

    /// Answers that are remembered now, some of them over.
    pub fn remembered(&self) -> usize {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).cache.len()
    }

    /// Questions that are open now.
    pub fn open(&self) -> usize {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner).asked.len()
    }

    async fn answer(&self, token: &str) -> Answer {
        let mut key = Digest::default();
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let shared = {
            let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = state.cache.get(&key, Instant::now()) {
                self.0.count(0);
                return known.map_err(ReviewError::Denied);
            }
            let waiting = state.asked.get(&key).cloned();
            if waiting.is_some() {
                self.0.count(0);
            }
            // A question that is shared goes on when the caller who began it goes away.
            waiting.unwrap_or_else(|| {
                let asked = ask(self.0.clone(), key, token.to_owned()).boxed().shared();
                state.asked.insert(key, asked.clone());
                asked
            })
        };
        let mut abandoned = Abandoned { inner: &self.0, key, armed: true };
        let answer = shared.await;
        abandoned.armed = false;
        answer
    }
}

/// Forgets a question that nobody waits for any more: all its callers were cancelled.
struct Abandoned<'a> {
    inner: &'a Inner,
    key: Digest,
    armed: bool,
}

impl Drop for Abandoned<'_> {
    fn drop(&mut self) {
        if !self.armed {
            return;
        }
        let mut state = self.inner.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Ours is dropped already; the map's own share is left.
        if state.asked.get(&self.key).and_then(Shared::strong_count).is_some_and(|count| count <= 1) {
            state.asked.remove(&self.key);
        }
    }
}

async fn ask(inner: Arc<Inner>, key: Digest, token: String) -> Answer {
    let answer = match tokio::time::timeout(inner.limits.patience, inner.turns.acquire()).await {
        Ok(Ok(_turn)) => inner.reviewer.review(&token).await,
        // The semaphore is never closed; both ends mean that there was no turn.
        Ok(Err(_)) | Err(_) => Err(ReviewError::Unavailable("too many questions are open".to_owned())),
    };
    let mut state = inner.state.lock().unwrap_or_else(PoisonError::into_inner);
    state.asked.remove(&key);
    let known = match &answer {
        Ok(reviewed) => Some((1, Ok(reviewed.clone()))),
        Err(ReviewError::Denied(denied)) => Some((2, Err(denied.clone()))),
        Err(ReviewError::Unavailable(_)) => None,
    };
    inner.count(known.as_ref().map_or(3, |(kind, _)| *kind));
    if let Some((_, known)) = known {
        state.cache.put(key, &known, Instant::now(), SystemTime::now());
    }
    answer
}

impl Inner {
    fn count(&self, kind: usize) {
        self.counts[kind].fetch_add(1, Ordering::Relaxed);
    }
}

impl Reviewer for Cached {
    fn review<'a>(&'a self, token: &'a str) -> Reviewing<'a> {
        Box::pin(self.answer(token))
    }
}
