//! The pool's book-keeping: no I/O, no waiting.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::dial::Failure;
use super::types::{Bond, DialTimings, Evict, PoolKey, PoolStats};
use crate::client::Client;
use crate::limits::ClientLimits;
use crate::link::Seat;

/// Names a connection within a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TunnelId(u64);

/// One connection.
pub(super) struct Tunnel {
    id: TunnelId,
    client: Client,
    bond: Rc<dyn Bond>,
    timings: DialTimings,
    evicted: Rc<Cell<bool>>,
}

/// The right to open one stream on a connection.
pub(super) struct Lease {
    pub(super) id: TunnelId,
    pub(super) client: Client,
    pub(super) seat: Arc<Seat>,
    pub(super) bond: Rc<dyn Bond>,
    pub(super) timings: DialTimings,
    pub(super) reused: bool,
    evicted: Rc<Cell<bool>>,
}

impl Lease {
    /// Whether the connection was evicted since: its destination is said to be gone.
    pub(super) fn is_evicted(&self) -> bool {
        self.evicted.get()
    }
}

/// Somebody in line for a connection.
struct Waiter<E> {
    give: oneshot::Sender<Result<Lease, Failure<E>>>,
    /// The connection that has already refused this request.
    avoid: Option<TunnelId>,
}

/// The answer to a wish for a stream.
pub(super) struct Asked<E> {
    /// A connection, or where to wait for one.
    pub(super) lease: Result<Lease, oneshot::Receiver<Result<Lease, Failure<E>>>>,
    /// A dial to be started for this key.
    pub(super) dial: Option<Rc<PoolKey>>,
}

/// Everything of one key. `dialling` is none or the one dial under way and what eviction has to say of it.
struct Slot<E> {
    key: Rc<PoolKey>,
    tunnels: Vec<Tunnel>,
    waiters: VecDeque<Waiter<E>>,
    dialling: bool,
    /// Counts the dials, so that one can be told from the next.
    round: u64,
    evicted: Option<Evict>,
    no_spread_before: Option<Instant>,
}

pub(super) struct State<E> {
    slots: HashMap<Rc<PoolKey>, Slot<E>>,
    next: u64,
}

impl<E> Default for State<E> {
    fn default() -> Self {
        Self { slots: HashMap::new(), next: 0 }
    }
}

impl<E> State<E> {
    /// A connection with room, or a place in line.
    pub(super) fn ask(&mut self, key: &PoolKey, avoid: Option<TunnelId>, limits: &ClientLimits) -> Asked<E> {
        // Looked up by reference first: most streams find their key, and then it need not be cloned.
        let slot = match self.slots.get_mut(key) {
            Some(slot) => slot,
            None => {
                let key = Rc::new(key.clone());
                self.slots.entry(key.clone()).or_insert_with(|| Slot::new(key))
            }
        };
        // One whose certificates have expired carries its streams to their end, and no new one.
        slot.tunnels.retain(|t| t.client.is_usable() && t.bond.holds());
        let (lease, more) = match slot.pick(avoid, limits) {
            Some(tunnel) => {
                let busy = tunnel.is_busy(limits);
                let lease = tunnel.lease(true);
                (Ok(lease), busy && slot.may_spread(limits))
            }
            None => {
                let (give, wait) = oneshot::channel();
                slot.waiters.push_back(Waiter { give, avoid });
                (Err(wait), true)
            }
        };
        let dial = (more && !slot.dialling).then(|| slot.begin_dial());
        Asked { lease, dial }
    }

    /// A dial has come to its end. Tells whether another has to be started.
    pub(super) fn dialled(
        &mut self,
        key: &PoolKey,
        result: Result<(Client, Rc<dyn Bond>, DialTimings), Failure<E>>,
        limits: &ClientLimits,
    ) -> Dialled {
        self.next += 1;
        let id = TunnelId(self.next);
        let Some(slot) = self.slots.get_mut(key) else { return Dialled { id, again: None } };
        slot.dialling = false;
        let evicted = slot.evicted.take();
        let again = match result {
            Ok((client, ..)) if evicted == Some(Evict::Now) => {
                client.close();
                // Those who waited then have heard of it; these came later.
                (!slot.waiters.is_empty()).then(|| slot.begin_dial())
            }
            Ok((client, bond, timings)) => {
                let gone = Rc::new(Cell::new(evicted.is_some()));
                slot.tunnels.push(Tunnel { id, client, bond, timings, evicted: gone });
                slot.hand_out(limits);
                if evicted.is_some() {
                    // Those who asked before the eviction were served; nobody else will be.
                    slot.tunnels.retain(|t| t.id != id);
                }
                (!slot.waiters.is_empty()).then(|| slot.begin_dial())
            }
            Err(failure) => {
                slot.no_spread_before = Some(Instant::now() + limits.spread_pause);
                slot.tunnels.retain(|t| t.client.is_usable());
                slot.hand_out(limits);
                slot.fail(&failure);
                None
            }
        };
        self.forget_if_empty(key);
        Dialled { id, again }
    }

    /// A connection has ended.
    pub(super) fn ended(&mut self, key: &PoolKey, id: TunnelId) {
        if let Some(slot) = self.slots.get_mut(key) {
            slot.tunnels.retain(|t| t.id != id);
        }
        self.forget_if_empty(key);
    }

    /// Takes the connections of some keys out; the caller drops them outside of any borrow.
    ///
    /// Also tells which dials are under way, by key and round.
    pub(super) fn evict(
        &mut self,
        which: impl Fn(&PoolKey) -> bool,
        how: Evict,
    ) -> (Vec<Tunnel>, Vec<(Rc<PoolKey>, u64)>) {
        let (mut out, mut dials) = (Vec::new(), Vec::new());
        for slot in self.slots.values_mut().filter(|s| which(&s.key)) {
            out.append(&mut slot.tunnels);
            if how == Evict::Now {
                slot.fail(&Failure::Closed);
            }
            if slot.dialling {
                dials.push((slot.key.clone(), slot.round));
                // The harsher of two evictions holds.
                slot.evicted = match slot.evicted {
                    Some(Evict::Now) => Some(Evict::Now),
                    Some(Evict::WhenIdle) | None => Some(how),
                };
            }
        }
        self.slots.retain(|_, s| !s.is_empty());
        (out, dials)
    }

    /// Lets those who wait for a dial wait no longer, when it is still the same one.
    pub(super) fn give_up(&mut self, key: &PoolKey, round: u64) {
        if let Some(slot) = self.slots.get_mut(key).filter(|s| s.dialling && s.round == round && s.evicted.is_some()) {
            slot.fail(&Failure::TimedOut);
        }
        self.forget_if_empty(key);
    }

    pub(super) fn stats(&self, stats: &mut PoolStats) {
        stats.keys = self.slots.len();
        for slot in self.slots.values() {
            let usable = slot.tunnels.iter().filter(|t| t.client.is_usable());
            for tunnel in usable {
                stats.connections += 1;
                stats.streams += tunnel.client.streams();
            }
            stats.dialling += usize::from(slot.dialling);
            stats.waiting += slot.waiters.iter().filter(|w| !w.give.is_closed()).count();
        }
    }

    fn forget_if_empty(&mut self, key: &PoolKey) {
        if self.slots.get(key).is_some_and(Slot::is_empty) {
            self.slots.remove(key);
        }
    }
}

/// What follows from a dial's end.
pub(super) struct Dialled {
    /// The name of the new connection.
    pub(super) id: TunnelId,
    /// A dial to be started for those who still wait.
    pub(super) again: Option<Rc<PoolKey>>,
}

impl<E> Slot<E> {
    fn new(key: Rc<PoolKey>) -> Self {
        Self {
            key,
            tunnels: Vec::new(),
            waiters: VecDeque::new(),
            dialling: false,
            round: 0,
            evicted: None,
            no_spread_before: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.tunnels.is_empty() && self.waiters.is_empty() && !self.dialling
    }

    fn begin_dial(&mut self) -> Rc<PoolKey> {
        self.dialling = true;
        self.round += 1;
        self.key.clone()
    }

    /// The first connection that is not busy, so that at low load the later ones run idle and end; else the least used.
    fn pick(&self, avoid: Option<TunnelId>, limits: &ClientLimits) -> Option<&Tunnel> {
        let fit = || self.tunnels.iter().filter(|t| Some(t.id) != avoid && t.client.room() > 0);
        fit().find(|t| !t.is_busy(limits)).or_else(|| fit().min_by_key(|t| t.client.streams()))
    }

    fn may_spread(&self, limits: &ClientLimits) -> bool {
        self.tunnels.len() < limits.spread_connections && self.no_spread_before.is_none_or(|at| Instant::now() >= at)
    }

    /// Serves those who wait, in order, as far as there is room.
    fn hand_out(&mut self, limits: &ClientLimits) {
        while let Some(waiter) = self.waiters.pop_front() {
            if waiter.give.is_closed() {
                continue;
            }
            let Some(tunnel) = self.pick(waiter.avoid, limits) else {
                self.waiters.push_front(waiter);
                return;
            };
            // Whoever gave up meanwhile drops the lease, and its seat with it.
            drop(waiter.give.send(Ok(tunnel.lease(false))));
        }
    }

    fn fail(&mut self, failure: &Failure<E>) {
        for waiter in self.waiters.drain(..) {
            drop(waiter.give.send(Err(failure.clone())));
        }
    }
}

impl Tunnel {
    fn is_busy(&self, limits: &ClientLimits) -> bool {
        self.client.streams() >= limits.spread_streams || self.client.is_heavy()
    }

    fn lease(&self, reused: bool) -> Lease {
        Lease {
            id: self.id,
            client: self.client.clone(),
            seat: self.client.seat(),
            bond: self.bond.clone(),
            timings: self.timings,
            reused,
            evicted: self.evicted.clone(),
        }
    }

    /// Ends it.
    pub(super) fn evict(self, how: Evict) {
        self.evicted.set(true);
        match how {
            Evict::WhenIdle => self.client.retire(),
            Evict::Now => self.client.close(),
        }
    }
}

/// Counts since the start.
#[derive(Default)]
pub(super) struct Counters {
    opened: Cell<u64>,
    reused: Cell<u64>,
    dialled: Cell<u64>,
    dial_failures: Cell<u64>,
    retried: Cell<u64>,
}

impl Counters {
    pub(super) fn opened(&self, reused: bool) {
        self.opened.update(|n| n + 1);
        self.reused.update(|n| n + u64::from(reused));
    }

    pub(super) fn dialled(&self, ok: bool) {
        let counter = if ok { &self.dialled } else { &self.dial_failures };
        counter.update(|n| n + 1);
    }

    pub(super) fn retried(&self) {
        self.retried.update(|n| n + 1);
    }

    pub(super) fn stats(&self) -> PoolStats {
        PoolStats {
            opened: self.opened.get(),
            reused: self.reused.get(),
            dialled: self.dialled.get(),
            dial_failures: self.dial_failures.get(),
            retried: self.retried.get(),
            ..PoolStats::default()
        }
    }
}
