//! What is asked of discovery: the services that routes lead to for as long as they do, and addresses that callers come
//! from or name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use xds::client::Handle;

/// How long a request waits for discovery to answer for an address that nobody asked for yet (hbone.md 5).
const HOLD: Duration = proxy::HOLD;

/// Addresses of callers that are followed. Beyond, what callers' own proxies say of them has to do. One costs some hundred
/// bytes here and at the control plane.
const CALLERS: usize = 20_000;

/// What is asked, and what is answered.
#[derive(Default)]
pub(crate) struct Addresses {
    state: Mutex<State>,
    orders: OnceLock<mpsc::UnboundedSender<Order>>,
    /// Rung when answers came.
    answers: Notify,
}

#[derive(Default)]
struct State {
    /// By name of a service: how many bound services want it.
    services: BTreeMap<Arc<str>, usize>,
    /// Addresses that were asked for.
    addresses: BTreeSet<Arc<str>>,
    /// What was answered, in any way.
    answered: BTreeSet<Arc<str>>,
    /// Discovery has named every service that is bound to us.
    named: bool,
}

enum Order {
    Ask(Arc<str>),
    Release(Arc<str>),
}

impl Addresses {
    /// Follows services that a bound service needs, and releases those that it needed before.
    pub(crate) fn follow(&self, before: &[Arc<str>], now: &[Arc<str>]) {
        let mut orders = Vec::new();
        let mut state = self.lock();
        for name in now {
            let count = state.services.entry(name.clone()).or_default();
            *count += 1;
            if *count == 1 {
                orders.push(Order::Ask(name.clone()));
            }
        }
        for name in before {
            if let Some(count) = state.services.get_mut(name) {
                *count -= 1;
                if *count == 0 {
                    state.services.remove(name);
                    state.answered.remove(name);
                    orders.push(Order::Release(name.clone()));
                }
            }
        }
        drop(state);
        orders.into_iter().for_each(|order| self.send(order));
    }

    /// Whether something is followed as a service.
    pub(crate) fn is_followed(&self, name: &str) -> bool {
        self.lock().services.contains_key(name)
    }

    /// Asks for an address (`network/ip`) without waiting for the answer.
    pub(crate) fn hint(&self, name: &str) {
        let mut state = self.lock();
        if state.addresses.len() >= CALLERS || state.addresses.contains(name) {
            return;
        }
        let name: Arc<str> = name.into();
        state.addresses.insert(name.clone());
        drop(state);
        self.send(Order::Ask(name));
    }

    /// Waits until an address (`network/ip`) was answered for, for at most [`HOLD`].
    pub(crate) async fn known(&self, name: &str) {
        self.hint(name);
        self.until(|state| state.answered.contains(name)).await;
    }

    /// Discovery has named every service that is bound to us: what has to be asked for is known.
    pub(crate) fn named(&self) {
        self.lock().named = true;
        self.answers.notify_waiters();
    }

    /// Waits until discovery has named every bound service, and every followed one was answered for.
    pub(crate) async fn settled(&self) {
        loop {
            let answers = self.answers.notified();
            let mut answers = std::pin::pin!(answers);
            answers.as_mut().enable();
            if self.lock().is_settled() {
                return;
            }
            answers.await;
        }
    }

    /// Takes answers.
    pub(crate) fn answered(&self, names: &[Arc<str>]) {
        if names.is_empty() {
            return;
        }
        let mut state = self.lock();
        for name in names {
            if state.services.contains_key(name) || state.addresses.contains(name) {
                state.answered.insert(name.clone());
            }
        }
        drop(state);
        self.answers.notify_waiters();
    }

    /// Carries what is asked to discovery, for ever.
    pub(crate) async fn carry(&self, discovery: &Handle) {
        let (sender, mut orders) = mpsc::unbounded_channel();
        // What was asked before anybody carried it.
        let early: Vec<_> = {
            let state = self.lock();
            state.services.keys().chain(&state.addresses).cloned().map(Order::Ask).collect()
        };
        if self.orders.set(sender.clone()).is_err() {
            tracing::warn!("what is asked of discovery is carried already");
            return;
        }
        // Names that were asked for in between come twice, which costs an answer and no more.
        early.into_iter().for_each(|order| drop(sender.send(order)));
        while let Some(order) = orders.recv().await {
            let sent = match order {
                Order::Ask(name) => discovery.demand(proto::ADDRESS_TYPE, name).await,
                Order::Release(name) => discovery.release(proto::ADDRESS_TYPE, name).await,
            };
            if let Err(error) = sent {
                tracing::warn!(%error, "nothing more is asked of discovery");
                return;
            }
        }
    }

    async fn until(&self, done: impl Fn(&State) -> bool) {
        let wait = async {
            loop {
                let answers = self.answers.notified();
                let mut answers = std::pin::pin!(answers);
                answers.as_mut().enable();
                if done(&self.lock()) {
                    return;
                }
                answers.await;
            }
        };
        if tokio::time::timeout(HOLD, wait).await.is_err() {
            tracing::debug!("discovery did not answer for an address in time");
        }
    }

    fn send(&self, order: Order) {
        if let Some(orders) = self.orders.get()
            && orders.send(order).is_err()
        {
            tracing::debug!("discovery is not followed any more");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn is_settled(&self) -> bool {
        self.named && self.services.keys().all(|name| self.answered.contains(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<Arc<str>> {
        list.iter().map(|n| Arc::from(*n)).collect()
    }

    #[tokio::test]
    async fn services_are_followed_as_long_as_one_needs_them() {
        let addresses = Addresses::default();
        addresses.follow(&[], &names(&["s/a", "s/b"]));
        addresses.follow(&[], &names(&["s/b", "s/c"]));
        addresses.follow(&names(&["s/a", "s/b"]), &names(&["s/a"]));
        let followed = |n| addresses.is_followed(n);
        assert_eq!(["s/a", "s/b", "s/c"].map(followed), [true, true, true]);
        addresses.follow(&names(&["s/b", "s/c"]), &[]);
        assert_eq!(["s/a", "s/b", "s/c"].map(followed), [true, false, false]);
        addresses.named();
        assert!(!addresses.lock().is_settled());
        addresses.answered(&names(&["s/a", "s/unknown"]));
        addresses.settled().await;
        assert_eq!(addresses.lock().answered.len(), 1, "what nobody asked for is not kept");
    }

    #[tokio::test]
    async fn an_address_is_waited_for_until_it_is_answered() {
        let addresses = Arc::new(Addresses::default());
        let waiting = tokio::spawn({
            let addresses = addresses.clone();
            async move { addresses.known("/10.0.0.1").await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        addresses.answered(&names(&["/10.0.0.1"]));
        waiting.await.unwrap();
        // Answered for good.
        addresses.known("/10.0.0.1").await;
    }
}
