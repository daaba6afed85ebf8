//! Which endpoint a request goes to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::rc::Rc;
use std::time::Instant;

use super::{Endpoint, Set};

/// How endpoints take turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Balance {
    /// Of two chosen at random, the one where the request costs less.
    #[default]
    LeastLoad,
    /// In turns.
    RoundRobin,
    /// At random.
    Random,
    /// The same for the same hash, as long as the endpoint is there.
    Hash,
}

/// What is looked for.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Wish<'a> {
    pub(crate) balance: Balance,
    /// For [`Balance::Hash`]; without one it is as [`Balance::Random`].
    pub(crate) hash: Option<u64>,
    /// Uid of the workload that the client wants to stay with.
    pub(crate) stay_with: Option<&'a str>,
}

/// Endpoints that were tried for this request already: another one is taken where there is one.
#[derive(Default)]
pub(crate) struct Chosen(Vec<Rc<Endpoint>>);

impl Chosen {
    pub(crate) fn add(&mut self, endpoint: &Rc<Endpoint>) {
        self.0.push(endpoint.clone());
    }

    fn has(&self, endpoint: &Rc<Endpoint>) -> bool {
        self.0.iter().any(|e| Rc::ptr_eq(e, endpoint))
    }
}

impl Set {
    /// Chooses one; `None` when there is none at all. Those that are left out for their failures are used when there are
    /// no others: a service that fails for everybody must not look like one without endpoints.
    pub(crate) fn pick(&self, wish: Wish<'_>, tried: &Chosen) -> Option<Rc<Endpoint>> {
        let now = Instant::now();
        if let Some(uid) = wish.stay_with
            && let Some(same) = self.list.iter().find(|e| *e.workload.uid == *uid && !tried.has(e))
        {
            return Some(same.clone());
        }
        let good = |e: &Rc<Endpoint>| !e.is_ejected(now) && !tried.has(e);
        // The usual case is decided without looking at all of them.
        let first = self.propose(wish, now, &good);
        if let Some(found) = first.filter(|e| good(e)) {
            return Some(found.clone());
        }
        let of = |list: Vec<&Rc<Endpoint>>| cheapest(&list, now).cloned();
        let all = || self.list.iter();
        of(all().filter(|e| good(e)).collect())
            .or_else(|| of(all().filter(|e| !tried.has(e)).collect()))
            .or_else(|| of(all().collect()))
    }

    fn propose(&self, wish: Wish<'_>, now: Instant, good: &dyn Fn(&Rc<Endpoint>) -> bool) -> Option<&Rc<Endpoint>> {
        let count = self.list.len();
        if count < 2 {
            return self.list.first();
        }
        let random = || self.list.get(fastrand::usize(..count));
        match (wish.balance, wish.hash) {
            (Balance::LeastLoad, _) => {
                let one = fastrand::usize(..count);
                // Another one, each as likely as the others.
                let other = (one + 1 + fastrand::usize(..count - 1)) % count;
                let (one, other) = (&self.list[one], &self.list[other]);
                match (good(one), good(other)) {
                    (true, false) => Some(one),
                    (false, _) => Some(other),
                    (true, true) => Some(if cost(one, now) <= cost(other, now) { one } else { other }),
                }
            }
            (Balance::RoundRobin, _) => {
                let next = self.next.get();
                self.next.set(next.wrapping_add(1));
                self.list.get(next % count)
            }
            // Rendezvous hashing: an endpoint that comes or goes moves only its own share.
            (Balance::Hash, Some(hash)) => {
                let usable = self.list.iter().filter(|e| good(e));
                usable.max_by_key(|e| mixed(hash, &e.workload.uid))
            }
            (Balance::Random, _) | (Balance::Hash, None) => random(),
        }
    }
}

fn cheapest<'a>(list: &[&'a Rc<Endpoint>], now: Instant) -> Option<&'a Rc<Endpoint>> {
    // Begun anywhere, so that equals share.
    let start = fastrand::usize(..list.len().max(1));
    let around = list.iter().cycle().skip(start).take(list.len());
    around.min_by(|a, b| cost(a, now).total_cmp(&cost(b, now))).copied()
}

fn cost(endpoint: &Endpoint, now: Instant) -> f64 {
    endpoint.load.cost(now, endpoint.workload.capacity)
}

fn mixed(hash: u64, uid: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (hash, uid).hash(&mut hasher);
    hasher.finish()
}
