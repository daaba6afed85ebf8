//! Bounds of requests.
//!
//! The generic cell rate algorithm: a bound is one instant, "when the bucket would be full again". It needs no timer, and
//! a bound that has not been used for a while is equal to a new one, so that forgetting it changes nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model;

/// A bound of requests with its state, shared by all workers.
#[derive(Debug)]
pub struct LocalRate {
    bound: Bound,
    per_identity: bool,
    state: Mutex<State>,
}

/// How many requests in which time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Bound {
    /// Between two requests at the steady rate; `None` = no request at all.
    interval: Option<Duration>,
    /// How far ahead of the steady rate: the burst without its first request.
    ahead: Duration,
}

#[derive(Debug, Default)]
struct State {
    /// When everything that was let through is paid for. Of callers without an identity, or of all.
    shared: Option<Instant>,
    by_identity: HashMap<Box<str>, Instant>,
}

/// Identities with a bound of their own at one time. More than a cluster has service accounts that call one Service; above it
/// newcomers share one bound, so that memory is bounded, too.
const IDENTITIES: usize = 10_000;

impl LocalRate {
    /// A bound that nothing counts against yet.
    ///
    /// # Errors
    /// When no time is given in which the requests are counted.
    pub fn new(rate: &model::LocalRate) -> Result<Self, &'static str> {
        if rate.per.is_zero() {
            return Err("the time in which requests are counted is 0; give one, as in 1s");
        }
        let interval = rate.per.checked_div(rate.requests);
        let burst = if rate.burst == 0 { rate.requests } else { rate.burst };
        let ahead = interval.unwrap_or_default().saturating_mul(burst.saturating_sub(1));
        let bound = Bound { interval, ahead };
        Ok(Self { bound, per_identity: rate.per_identity, state: Mutex::default() })
    }

    /// Whether it bounds as another one does, whatever each has counted.
    pub fn bounds_as(&self, other: &Self) -> bool {
        (self.bound, self.per_identity) == (other.bound, other.per_identity)
    }

    /// Takes a request of this caller at this time. `now` may go back by a little between workers.
    ///
    /// # Errors
    /// Above the bound: how long until one more would pass.
    pub fn take(&self, now: Instant, identity: Option<&str>) -> Result<(), Duration> {
        // A map of instants is whole after every single step.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(identity) = identity.filter(|_| self.per_identity) else {
            state.shared = Some(self.bound.pass(now, state.shared)?);
            return Ok(());
        };
        if let Some(paid) = state.by_identity.get_mut(identity) {
            *paid = self.bound.pass(now, Some(*paid))?;
            return Ok(());
        }
        if state.by_identity.len() >= IDENTITIES {
            state.by_identity.retain(|_, paid| *paid > now);
        }
        if state.by_identity.len() >= IDENTITIES {
            state.shared = Some(self.bound.pass(now, state.shared)?);
            return Ok(());
        }
        let paid = self.bound.pass(now, None)?;
        state.by_identity.insert(identity.into(), paid);
        Ok(())
    }
}

impl Bound {
    /// The instant at which everything is paid for after one more request.
    fn pass(self, now: Instant, paid: Option<Instant>) -> Result<Instant, Duration> {
        let Some(interval) = self.interval else { return Err(Duration::from_secs(1)) };
        let from = paid.map_or(now, |p| p.max(now));
        let early = from.saturating_duration_since(now);
        match early.checked_sub(self.ahead) {
            None | Some(Duration::ZERO) => Ok(from + interval),
            Some(wait) => Err(wait),
        }
    }
}
