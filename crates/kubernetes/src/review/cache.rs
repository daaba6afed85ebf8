//! What was answered a moment ago. Pure: the time is handed in.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use super::{Denied, Reviewed};

/// A token's SHA-256. The cache holds no token, and a look-up tells nothing by the time that it takes.
pub(super) type Digest = [u8; 32];

/// How long an accepted token is remembered. A token dies with its pod, its service account or its Secret, and nobody
/// tells us: this is how long a dead one may live on. A node that starts asks for all its pods within seconds, so more
/// would save little.
const ACCEPTED: Duration = Duration::from_secs(30);

/// How long a refused one is. Short, since a refusal may be over soon (a service account that was made just now, an API
/// server that did not know the key yet), and long enough that who repeats himself costs one question in five seconds.
const REFUSED: Duration = Duration::from_secs(5);

/// Answers of each kind that are remembered: as many as nodes in the largest clusters (Kubernetes is tested to 5 000)
/// with as many waypoints. Some 300 bytes each.
const ENTRIES: usize = 10_000;

/// Two memories, so that a flood of bad tokens cannot drive out the good ones.
#[derive(Default)]
pub(super) struct Cache {
    accepted: Memory<Reviewed>,
    refused: Memory<Denied>,
}

impl Cache {
    pub(super) fn get(&self, key: &Digest, now: Instant) -> Option<Result<Reviewed, Denied>> {
        let accepted = self.accepted.get(key, now).map(Ok);
        accepted.or_else(|| self.refused.get(key, now).map(Err))
    }

    /// Remembers an answer; `wall` is the same moment as `now`, by the clock that tokens know.
    pub(super) fn put(&mut self, key: Digest, answer: &Result<Reviewed, Denied>, now: Instant, wall: SystemTime) {
        match answer {
            Ok(reviewed) => {
                let left = reviewed.expires.map(|end| end.duration_since(wall).unwrap_or_default());
                let life = left.unwrap_or(ACCEPTED).min(ACCEPTED);
                self.accepted.put(key, reviewed.clone(), now + life);
            }
            Err(denied) => self.refused.put(key, denied.clone(), now + REFUSED),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.accepted.entries.len() + self.refused.entries.len()
    }
}

struct Memory<T> {
    entries: HashMap<Digest, (T, Instant)>,
    /// Keys by age, the oldest first. A key that was put twice is in it twice.
    order: VecDeque<(Digest, Instant)>,
}

impl<T> Default for Memory<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T: Clone> Memory<T> {
    fn get(&self, key: &Digest, now: Instant) -> Option<T> {
        self.entries.get(key).filter(|(_, until)| now < *until).map(|(answer, _)| answer.clone())
    }

    fn put(&mut self, key: Digest, answer: T, until: Instant) {
        self.entries.insert(key, (answer, until));
        self.order.push_back((key, until));
        // Twice: keys that were put again leave their first mark behind.
        while self.entries.len() > ENTRIES || self.order.len() > 2 * ENTRIES {
            let Some((oldest, was)) = self.order.pop_front() else { return };
            if self.entries.get(&oldest).is_some_and(|(_, until)| *until == was) {
                self.entries.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Digest {
        let mut key = Digest::default();
        key[..8].copy_from_slice(&number.to_le_bytes());
        key
    }

    fn reviewed(expires: Option<SystemTime>) -> Result<Reviewed, Denied> {
        let text = || "x".to_owned();
        Ok(Reviewed { namespace: text(), service_account: text(), pod: None, node: None, expires })
    }

    #[test]
    fn answers_end_and_never_outlive_their_token() {
        let (mut cache, now, wall) = (Cache::default(), Instant::now(), SystemTime::UNIX_EPOCH + ACCEPTED);
        let seconds = Duration::from_secs;
        cache.put(key(1), &reviewed(None), now, wall);
        cache.put(key(2), &reviewed(Some(wall + seconds(3))), now, wall);
        cache.put(key(3), &reviewed(Some(wall - seconds(1))), now, wall);
        cache.put(key(4), &Err(Denied::Expired), now, wall);
        let known = |cache: &Cache, at: u64| [1, 2, 3, 4].map(|i| cache.get(&key(i), now + seconds(at)).is_some());
        assert_eq!(known(&cache, 0), [true, true, false, true]);
        assert_eq!(known(&cache, 3), [true, false, false, true]);
        assert_eq!(known(&cache, 5), [true, false, false, false]);
        assert_eq!(known(&cache, 29), [true, false, false, false]);
        assert_eq!(known(&cache, 30), [false; 4]);
    }

    #[test]
    fn a_flood_of_bad_tokens_costs_a_bounded_space_and_drives_out_no_good_one() {
        let (mut cache, now, wall) = (Cache::default(), Instant::now(), SystemTime::UNIX_EPOCH);
        cache.put(key(0), &reviewed(None), now, wall);
        for number in 1..5 * ENTRIES {
            cache.put(key(number), &Err(Denied::Expired), now, wall);
            // Somebody repeats himself.
            cache.put(key(1), &Err(Denied::Expired), now, wall);
        }
        assert!(cache.len() <= ENTRIES + 1, "{}", cache.len());
        assert!(cache.refused.order.len() <= 2 * ENTRIES);
        assert!(cache.get(&key(0), now).is_some());
        assert!(cache.get(&key(5 * ENTRIES - 1), now).is_some());
        assert!(cache.get(&key(2), now).is_none());
    }
}
