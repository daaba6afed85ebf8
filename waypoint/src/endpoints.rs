//! The endpoints of services as one worker uses them, and how one is chosen for a request.
//!
//! What is known of an endpoint (its load, how fast it answers, whether it failed, connections that are kept) is each
//! worker's own: no request waits for another worker, and what few of them learn less often they also use less often.

mod load;
mod outlier;
mod pick;

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use directory::{Candidate, Snapshot};
use hbone::PoolKey;
use mesh::{Identity, Service, Workload};
use routing::Budget;

pub(crate) use load::Ticket;
pub(crate) use outlier::Outliers;
pub(crate) use pick::{Balance, Chosen, Wish};

use crate::upstream::Kept;
use load::Load;
use outlier::Failures;

/// One endpoint of one port.
pub(crate) struct Endpoint {
    pub(crate) workload: Arc<Workload>,
    /// Its address and target port.
    pub(crate) at: SocketAddr,
    /// How a tunnel to it is found; `None`: plain TCP.
    pub(crate) tunnel: Option<PoolKey>,
    /// Connections to it.
    pub(crate) kept: Kept,
    load: Load,
    failures: Failures,
}

/// The endpoints of a service port, best first in nothing: one of them is chosen for each request.
pub(crate) struct Set {
    pub(crate) service: Arc<Service>,
    pub(crate) list: Vec<Rc<Endpoint>>,
    /// How many retries are allowed.
    pub(crate) budget: RefCell<Budget>,
    /// Turns of round robin.
    next: Cell<usize>,
}

/// A port, the view that its set was made from, and the set.
type OnPort = (u16, u64, Rc<Set>);

/// All endpoints in use.
#[derive(Default)]
pub(crate) struct Endpoints {
    /// By key of the service.
    sets: HashMap<Arc<str>, Vec<OnPort>>,
    /// Workloads that were addressed by themselves.
    single: HashMap<SocketAddr, (u64, Rc<Endpoint>)>,
}

/// What endpoints are looked for in.
pub(crate) struct View<'a> {
    pub(crate) directory: &'a Snapshot,
    /// Our own workload: near and far are measured from it.
    pub(crate) own: &'a Workload,
    /// Whom we speak as.
    pub(crate) identity: &'a Identity,
    pub(crate) turn: u64,
}

impl Endpoints {
    /// The endpoints of a service port; `None` when discovery does not know the service. One without endpoints is empty.
    pub(crate) fn of(&mut self, view: &View<'_>, key: &str, port: u16) -> Option<Rc<Set>> {
        if let Some((_, turn, set)) = self.sets.get(key).and_then(|ports| ports.iter().find(|(p, ..)| *p == port))
            && *turn == view.turn
        {
            return Some(set.clone());
        }
        let Some(service) = view.directory.service(key) else {
            self.sets.remove(key);
            return None;
        };
        let ports = match self.sets.get_mut(key) {
            Some(ports) => ports,
            None => self.sets.entry(key.into()).or_default(),
        };
        let known = ports.iter_mut().find(|(p, ..)| *p == port);
        let before = known.as_ref().map(|(.., set)| set.clone());
        let set = Set::new(view, &service, port, before.as_deref());
        match known {
            Some(entry) => (entry.1, entry.2) = (view.turn, set.clone()),
            None => ports.push((port, view.turn, set.clone())),
        }
        Some(set)
    }

    /// A workload that was addressed by itself.
    pub(crate) fn single(&mut self, view: &View<'_>, workload: &Arc<Workload>, at: SocketAddr) -> Rc<Endpoint> {
        let candidate = Candidate::new(workload.clone(), None, at);
        let before = self.single.get(&at).map(|(_, endpoint)| endpoint.clone());
        let endpoint = Endpoint::of(candidate, view.identity, before.as_slice());
        self.single.insert(at, (view.turn, endpoint.clone()));
        endpoint
    }

    /// Closes what nobody has used for long, and forgets services that are gone.
    pub(crate) fn sweep(&mut self) {
        let now = Instant::now();
        for set in self.sets.values().flatten().map(|(.., set)| set) {
            set.list.iter().for_each(|endpoint| endpoint.kept.sweep(now));
        }
        self.single.retain(|_, (_, endpoint)| {
            endpoint.kept.sweep(now);
            !endpoint.kept.is_empty() || endpoint.load.active() > 0
        });
    }
}

impl Set {
    fn new(view: &View<'_>, service: &Arc<Service>, port: u16, before: Option<&Self>) -> Rc<Self> {
        let near = view.own.addresses.first().copied().unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let found = view.directory.candidates(view.own, service, port, near);
        let old = before.map_or(&[][..], |set| &set.list);
        let list = found.into_iter().map(|candidate| Endpoint::of(candidate, view.identity, old)).collect();
        let budget = before.map_or_else(Budget::default, |set| set.budget.borrow().clone());
        let next = before.map_or(0, |set| set.next.get());
        Rc::new(Self { service: service.clone(), list, budget: RefCell::new(budget), next: Cell::new(next) })
    }
}

impl Endpoint {
    /// The endpoint of a candidate: the one that was there before, when it is still the same.
    fn of(candidate: Candidate, own: &Identity, before: &[Rc<Self>]) -> Rc<Self> {
        if let Some(same) = before.iter().find(|endpoint| endpoint.is(&candidate)) {
            return same.clone();
        }
        let Candidate { workload, at, tunnel, expected } = candidate;
        let tunnel = tunnel.map(|tunnel| PoolKey {
            destination: workload.uid.clone(),
            source: own.clone(),
            tunnel,
            expected: expected.into(),
            source_ip: None,
        });
        Rc::new(Self {
            workload,
            at,
            tunnel,
            kept: Kept::default(),
            load: Load::default(),
            failures: Failures::default(),
        })
    }

    fn is(&self, candidate: &Candidate) -> bool {
        let tunnel = match (&self.tunnel, candidate.tunnel) {
            (Some(key), Some(tunnel)) => key.tunnel == tunnel && *key.expected == *candidate.expected,
            (None, None) => true,
            _ => false,
        };
        tunnel && self.at == candidate.at && *self.workload == *candidate.workload
    }

    /// Counts a request in.
    pub(crate) fn enter(self: &Rc<Self>) -> Ticket {
        Ticket::new(self.clone())
    }
}
