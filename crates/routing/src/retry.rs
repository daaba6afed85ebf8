//! When a request is sent again (gateway-api.md 3.4).

use std::time::{Duration, Instant};

use crate::mistake::Workbench;
use crate::model::Retry;

/// When a request is sent again, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryRule {
    /// Tries beyond the first.
    pub attempts: u32,
    /// Ascending.
    codes: Vec<u16>,
    backoff: Option<Duration>,
}

/// How one attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// There was no connection: refused, timed out, or its TLS handshake failed. Nothing was sent.
    NotConnected,
    /// The backend said that it did nothing with the request: HTTP/2 REFUSED_STREAM, or a GOAWAY of an older stream.
    Refused,
    /// The connection or the stream ended after the request was sent; it may have been processed.
    Reset,
    /// The attempt took longer than the rule's `backendRequest`.
    TimedOut,
    /// An answer with this status.
    Status(u16),
    /// An answer that is nothing but trailers with this gRPC status. One that ends a stream of messages is no ending of
    /// this kind: the client has seen messages already.
    Grpc(u8),
}

/// gRPC's UNAVAILABLE: the call was not processed (grpc/statuscodes.md).
const GRPC_UNAVAILABLE: u8 = 14;

/// The status that stands for an attempt that took too long.
const GATEWAY_TIMEOUT: u16 = 504;

/// Base of the wait before a try when the rule names none (Envoy's default, which users know).
const BACKOFF: Duration = Duration::from_millis(25);

/// By how much the wait may grow over its base (as Envoy's default has it).
const BACKOFF_GROWTH: u32 = 10;

impl RetryRule {
    pub(crate) fn new(bench: &mut Workbench, retry: &Retry) -> Option<Self> {
        let mut codes = Vec::with_capacity(retry.codes.len());
        for (i, code) in retry.codes.iter().enumerate() {
            match u16::try_from(*code) {
                Ok(code @ 400..=599) => codes.push(code),
                _ => bench.note(&format!("retry.codes[{i}]"), format!("{code} is not a status code of 400 to 599")),
            }
        }
        codes.sort_unstable();
        Some(Self { attempts: retry.attempts, codes, backoff: retry.backoff.filter(|b| !b.is_zero()) })
    }

    /// Whether to try again, after `tries` attempts of which the last one ended so. `whole`: the request can still be sent
    /// as it came, because nothing of its body was sent, or all of it was kept.
    ///
    /// What surely was not processed is tried again whenever the rule has a `retry`; an answer only when its code is listed.
    /// An attempt that took too long counts as 504. A request that may have been processed without an answer is
    /// not repeated.
    pub fn again(&self, tries: u32, ending: Ending, whole: bool) -> bool {
        let listed = |code: u16| self.codes.binary_search(&code).is_ok();
        let retriable = match ending {
            Ending::NotConnected | Ending::Refused => true,
            Ending::Reset => false,
            Ending::TimedOut => listed(GATEWAY_TIMEOUT),
            Ending::Status(code) => listed(code),
            Ending::Grpc(code) => code == GRPC_UNAVAILABLE,
        };
        retriable && whole && tries <= self.attempts
    }

    /// How long to wait after `tries` attempts, by a random number.
    ///
    /// A rule's `backoff` is the least wait (GEP-1731): base, twice the base, … up to ten times, and up to half of it more.
    /// Without one: anything up to 25 ms, 50 ms, … 250 ms.
    pub fn wait(&self, tries: u32, random: u32) -> Duration {
        let growth = 1_u32.checked_shl(tries.saturating_sub(1)).unwrap_or(u32::MAX).min(BACKOFF_GROWTH);
        let share = f64::from(random) / f64::from(u32::MAX);
        match self.backoff {
            None => (BACKOFF * growth).mul_f64(share),
            Some(base) => {
                let least = base.saturating_mul(growth);
                least.saturating_add((least / 2).mul_f64(share))
            }
        }
    }
}

/// How many retries the traffic to one destination allows, so that retries never multiply the load of one that fails
/// (GEP-3388): a share of the requests of the last seconds, and always a few. One for each destination.
#[derive(Clone, Debug)]
pub struct Budget {
    percent: u32,
    /// Retries of one second that are always allowed.
    least: u32,
    interval: Duration,
    /// Those of the interval in which something was sent, the oldest first.
    seconds: Vec<Second>,
}

#[derive(Clone, Copy, Debug)]
struct Second {
    began: Instant,
    requests: u32,
    retries: u32,
}

/// Share of requests (GEP-3388, default of `budget.percent`).
const BUDGET_PERCENT: u32 = 20;

/// Over which time (GEP-3388, default of `budget.interval`).
const BUDGET_INTERVAL: u64 = 10;

/// Retries of one second that are always allowed (GEP-3388, default of `minRetryRate`).
const BUDGET_LEAST: u32 = 10;

const SECOND: Duration = Duration::from_secs(1);

impl Default for Budget {
    fn default() -> Self {
        Self::new(BUDGET_PERCENT, BUDGET_INTERVAL, BUDGET_LEAST)
    }
}

impl Budget {
    /// `percent` of the requests of the last `interval` seconds, and always `least` a second.
    pub fn new(percent: u32, interval: u64, least: u32) -> Self {
        // An hour at most: each second has a counter of its own.
        Self { percent, least, interval: Duration::from_secs(interval.clamp(1, 3600)), seconds: Vec::new() }
    }

    /// Counts a request (not a retry).
    pub fn request(&mut self, now: Instant) {
        let second = self.second(now);
        second.requests = second.requests.saturating_add(1);
    }

    /// Takes a retry; false when there is none left. Then the last answer stands.
    pub fn take(&mut self, now: Instant) -> bool {
        self.second(now);
        let sum = |count: fn(&Second) -> u32| self.seconds.iter().map(|s| u64::from(count(s))).sum::<u64>();
        let share = sum(|s| s.requests) * u64::from(self.percent) / 100;
        let in_this_second = self.seconds.last().map_or(0, |s| s.retries);
        let allowed = sum(|s| s.retries) < share || in_this_second < self.least;
        if allowed {
            let second = self.second(now);
            second.retries = second.retries.saturating_add(1);
        }
        allowed
    }

    /// The counters of the current second, with those that are too old gone.
    fn second(&mut self, now: Instant) -> &mut Second {
        self.seconds.retain(|s| now.saturating_duration_since(s.began) < self.interval);
        let current = self.seconds.last().is_some_and(|s| now.saturating_duration_since(s.began) < SECOND);
        if !current {
            self.seconds.push(Second { began: now, requests: 0, retries: 0 });
        }
        let last = self.seconds.len() - 1;
        &mut self.seconds[last]
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
