//! A token bucket per caller.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use crate::caller::Caller;

/// How often one caller may ask.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateLimit {
    /// Requests per second in the long run.
    pub per_second: f64,
    /// Requests at once: a node that starts asks for all its pods.
    pub burst: f64,
}

/// Callers remembered. One entry has some 100 bytes; callers are authenticated, so there are as many as nodes. Full
/// buckets are forgotten first, which changes nothing for their owners.
const CALLERS: usize = 16_384;

pub(crate) struct Limiter {
    limit: RateLimit,
    buckets: Mutex<HashMap<Caller, (f64, SystemTime)>>,
}

impl Limiter {
    pub(crate) fn new(limit: RateLimit) -> Self {
        Self { limit, buckets: Mutex::default() }
    }

    /// Takes one request from the caller's bucket, if there is one left.
    pub(crate) fn take(&self, caller: &Caller, now: SystemTime) -> bool {
        let RateLimit { per_second, burst } = self.limit;
        let level = |(left, then): (f64, SystemTime)| {
            // A clock that goes back gives nothing.
            let passed = now.duration_since(then).unwrap_or_default().as_secs_f64();
            (left + passed * per_second).min(burst)
        };
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= CALLERS && !buckets.contains_key(caller) {
            buckets.retain(|_, bucket| level(*bucket) < burst);
            if buckets.len() >= CALLERS {
                return false;
            }
        }
        let left = buckets.get(caller).map_or(burst, |bucket| level(*bucket));
        let granted = left >= 1.0;
        buckets.insert(caller.clone(), (if granted { left - 1.0 } else { left }, now));
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::MayIssue;
    use std::time::Duration;

    #[test]
    fn each_caller_has_a_burst_and_then_the_rate() {
        let limiter = Limiter::new(RateLimit { per_second: 2.0, burst: 3.0 });
        let caller = |node: &str| Caller {
            namespace: "culvert-system".to_owned(),
            service_account: "ztunnel".to_owned(),
            node: Some(node.to_owned()),
            pod: None,
            may: MayIssue::PodsOfItsNode,
            names: Vec::new(),
        };
        let (a, b, start) = (caller("a"), caller("b"), SystemTime::UNIX_EPOCH + Duration::from_secs(1));
        assert_eq!([0; 4].map(|_| limiter.take(&a, start)), [true, true, true, false]);
        assert!(limiter.take(&b, start));
        assert!(!limiter.take(&a, start + Duration::from_millis(400)));
        assert!(limiter.take(&a, start + Duration::from_millis(600)));
        assert!(!limiter.take(&a, start + Duration::from_millis(600)));
        assert_eq!([0; 4].map(|_| limiter.take(&a, start + Duration::from_secs(60))), [true, true, true, false]);
        assert!(!limiter.take(&a, start));
    }
}
