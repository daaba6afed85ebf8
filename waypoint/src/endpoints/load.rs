//! How much an endpoint has to do, and how fast it answers: peak-sensitive moving average of latencies.
//!
//! The cost of sending one more request somewhere is `latency x (requests there + 1) / capacity`. A latency above the
//! average counts at once, one below it slowly, so that an endpoint which becomes slow is avoided after one answer, and
//! trusted again after some time.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use super::Endpoint;

/// In this time an old latency loses two thirds of its weight: some garbage collections long, and shorter than a rollout.
const DECAY: Duration = Duration::from_secs(10);

/// What an endpoint that never answered is taken for, and the least that any counts as: whatever is faster is good enough, and
/// differences below it are noise of the machine. Without it a client that asks one request at a time would always get the
/// same endpoint, the one that was a little faster.
const UNKNOWN: Duration = Duration::from_millis(5);

/// What a failed connection counts as: long enough that others are preferred for some seconds.
const FAILED: Duration = Duration::from_secs(1);

/// Load of one endpoint.
#[derive(Default)]
pub(super) struct Load {
    active: Cell<u32>,
    /// Average in seconds, and when it was last moved.
    latency: Cell<Option<(f64, Instant)>>,
}

/// A request that is under way to an endpoint.
pub(crate) struct Ticket {
    endpoint: Rc<Endpoint>,
    began: Cell<Instant>,
}

impl Load {
    /// Requests that are under way.
    pub(super) fn active(&self) -> u32 {
        self.active.get()
    }

    /// What one more request would cost.
    pub(super) fn cost(&self, now: Instant, capacity: u32) -> f64 {
        let latency = self.latency.get().map_or(UNKNOWN.as_secs_f64(), |(average, at)| {
            // Untouched, it approaches the average of the unknown: an avoided endpoint is tried again.
            let weight = decay(now.saturating_duration_since(at));
            average * weight + UNKNOWN.as_secs_f64() * (1.0 - weight)
        });
        latency.max(UNKNOWN.as_secs_f64()) * f64::from(self.active.get() + 1) / f64::from(capacity.max(1))
    }

    fn observe(&self, latency: Duration, now: Instant) {
        let sample = latency.as_secs_f64();
        let average = match self.latency.get() {
            Some((average, at)) if sample < average => {
                let weight = decay(now.saturating_duration_since(at));
                average * weight + sample * (1.0 - weight)
            }
            _ => sample,
        };
        self.latency.set(Some((average, now)));
    }
}

/// How much an old value still weighs.
fn decay(age: Duration) -> f64 {
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

impl Ticket {
    pub(super) fn new(endpoint: Rc<Endpoint>) -> Self {
        endpoint.load.active.set(endpoint.load.active.get() + 1);
        Self { endpoint, began: Cell::new(Instant::now()) }
    }

    /// There is a connection, and the request is sent now. What a new connection costs says nothing of how fast the endpoint
    /// answers: whoever was dialled first would be avoided for seconds otherwise.
    pub(crate) fn sent(&self) {
        self.began.set(Instant::now());
    }

    /// The head of the answer is there.
    pub(crate) fn answered(&self) {
        let now = Instant::now();
        self.endpoint.load.observe(now - self.began.get(), now);
    }

    /// No connection came about, or it broke.
    pub(crate) fn failed(&self) {
        self.endpoint.load.observe(FAILED, Instant::now());
    }

    /// Where the request is.
    pub(crate) fn endpoint(&self) -> &Rc<Endpoint> {
        &self.endpoint
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let active = &self.endpoint.load.active;
        active.set(active.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_is_forgotten_slowly() {
        let load = Load::default();
        let start = Instant::now();
        let ms = Duration::from_millis;
        load.observe(ms(10), start);
        let cost = |at: Duration| load.cost(start + at, 1);
        assert!((cost(ms(0)) - 0.010).abs() < 1e-9);
        load.observe(ms(500), start + ms(1));
        assert!(cost(ms(1)) > 0.49);
        load.observe(ms(10), start + ms(2));
        assert!(cost(ms(2)) > 0.49, "one fast answer is no proof");
        assert!(cost(Duration::from_secs(60)) < 0.010, "after a minute it is tried again");
    }

    #[test]
    fn what_is_fast_enough_is_equally_good() {
        let (one, other) = (Load::default(), Load::default());
        let now = Instant::now();
        one.observe(Duration::from_micros(100), now);
        other.observe(Duration::from_millis(3), now);
        assert_eq!(one.cost(now, 1).to_bits(), other.cost(now, 1).to_bits());
    }

    #[test]
    fn capacity_and_what_is_under_way_divide_and_multiply() {
        let load = Load::default();
        let now = Instant::now();
        load.active.set(3);
        assert!((load.cost(now, 2) - UNKNOWN.as_secs_f64() * 4.0 / 2.0).abs() < 1e-9);
    }
}
