//! The order of work: each thing once at a time, at once when it was touched, later and later when it failed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// First and longest pause after a failure. A missing right or a full quota is not given in seconds, and yet a user who
/// mends it waits for us.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What is to be done, by key.
#[derive(Debug)]
pub(super) struct Turns<K> {
    due: BTreeMap<K, Instant>,
    /// With whether it was touched meanwhile.
    under_way: BTreeMap<K, bool>,
    failures: BTreeMap<K, u32>,
}

impl<K> Default for Turns<K> {
    fn default() -> Self {
        Self { due: BTreeMap::new(), under_way: BTreeMap::new(), failures: BTreeMap::new() }
    }
}

impl<K: Clone + Ord> Turns<K> {
    /// It was touched.
    pub(super) fn soon(&mut self, key: K, now: Instant) {
        match self.under_way.get_mut(&key) {
            Some(again) => *again = true,
            None => drop(self.due.insert(key, now)),
        }
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.due.values().min().copied()
    }

    /// Takes the one that has been due for longest.
    pub(super) fn take(&mut self, now: Instant) -> Option<K> {
        let (key, _) = self.due.iter().filter(|(_, due)| **due <= now).min_by_key(|(_, due)| **due)?;
        let key = key.clone();
        self.due.remove(&key);
        self.under_way.insert(key.clone(), false);
        Some(key)
    }

    /// It is done; `after`: it is due again by itself.
    pub(super) fn done(&mut self, key: K, after: Option<Duration>, now: Instant) {
        self.failures.remove(&key);
        self.land(key, after, now);
    }

    /// It failed, and is due again after the pause that is returned.
    pub(super) fn failed(&mut self, key: K, now: Instant) -> Duration {
        let failures = self.failures.entry(key.clone()).or_default();
        let pause = PAUSE.0.saturating_mul(1 << (*failures).min(6)).min(PAUSE.1);
        *failures = failures.saturating_add(1);
        self.land(key, Some(pause), now);
        pause
    }

    fn land(&mut self, key: K, after: Option<Duration>, now: Instant) {
        let touched = self.under_way.remove(&key).unwrap_or(false);
        match (touched, after) {
            (true, _) => drop(self.due.insert(key, now)),
            (false, Some(after)) => drop(self.due.insert(key, now + after)),
            (false, None) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_done_once_at_a_time_and_again_when_touched() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.soon("a", now);
        turns.soon("a", now);
        assert_eq!((turns.take(now), turns.take(now)), (Some("a"), None));
        turns.soon("a", now);
        assert_eq!((turns.next(), turns.take(now)), (None, None), "under way");
        turns.done("a", None, now);
        assert_eq!(turns.take(now), Some("a"));
        turns.done("a", Some(Duration::from_secs(10)), now);
        assert_eq!((turns.next(), turns.take(now)), (Some(now + Duration::from_secs(10)), None));
        turns.soon("a", now);
        assert_eq!(turns.take(now), Some("a"), "a touch does not wait");
    }

    #[test]
    fn what_fails_is_tried_later_and_later_and_does_not_stop_others() {
        let (mut turns, mut now) = (Turns::default(), Instant::now());
        turns.soon("a", now);
        let mut pauses = Vec::new();
        for _ in 0..8 {
            assert_eq!(turns.take(now), Some("a"));
            let pause = turns.failed("a", now);
            turns.soon("b", now);
            assert_eq!(turns.take(now), Some("b"));
            turns.done("b", None, now);
            now += pause;
            pauses.push(pause.as_secs());
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(turns.take(now), Some("a"));
        turns.done("a", None, now);
        turns.soon("a", now);
        assert_eq!(turns.take(now), Some("a"));
        assert_eq!(turns.failed("a", now).as_secs(), 1, "success forgets");
    }
}
