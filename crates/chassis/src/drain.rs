//! Drain: stop taking new work, let the old end, force what is left after a deadline (hbone.md 11).
//!
//! ```text
//! Running --begin(deadline)--> Draining --all guards gone--> done
//!                                 |--deadline or force()--> Forced --all guards gone, or GRACE--> done
//! ```

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

/// How long forced connections have to notice: their tasks only need to be polled once, so a second is generous, and it
/// still fits into the second that Istio's deadline leaves before the kubelet kills.
pub const GRACE: Duration = Duration::from_secs(1);

/// Where a program is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Takes work.
    Running,
    /// Takes no new work; the old may run until then.
    Draining(Instant),
    /// Everything ends now.
    Forced,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// All work ended by itself.
    Clean,
    /// Some work had to be forced; so much of it had not noticed at the end.
    Forced {
        /// Guards that were still held.
        left: usize,
    },
}

/// Begins and ends the drain of a program. Clones share it.
#[derive(Clone, Debug)]
pub struct Drain {
    state: Arc<watch::Sender<State>>,
    guards: Arc<watch::Sender<usize>>,
}

/// The side of those who are drained. Clones share it.
#[derive(Clone, Debug)]
pub struct Signal {
    state: watch::Receiver<State>,
    // Keeps the channel open: a drain handle that is dropped must not look like a drain.
    _open: Arc<watch::Sender<State>>,
    guards: Arc<watch::Sender<usize>>,
}

/// Work that the drain waits for; dropped when the work has ended.
#[derive(Debug)]
pub struct Guard(Arc<watch::Sender<usize>>);

impl Default for Drain {
    fn default() -> Self {
        Self::new()
    }
}

impl Drain {
    /// A program that runs.
    pub fn new() -> Self {
        Self { state: Arc::new(watch::Sender::new(State::Running)), guards: Arc::new(watch::Sender::new(0)) }
    }

    /// The side of those who are drained.
    pub fn signal(&self) -> Signal {
        Signal { state: self.state.subscribe(), _open: self.state.clone(), guards: self.guards.clone() }
    }

    /// Where the program is.
    pub fn state(&self) -> State {
        *self.state.borrow()
    }

    /// Begins the drain. Later calls can shorten the deadline, never lengthen it. Must be called on a runtime, whose
    /// clock it uses.
    pub fn begin(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.state.send_if_modified(|state| {
            let begins = match *state {
                State::Running => true,
                State::Draining(earlier) => until < earlier,
                State::Forced => false,
            };
            if begins {
                *state = State::Draining(until);
            }
            begins
        });
    }

    /// Ends everything now.
    pub fn force(&self) {
        self.state.send_if_modified(|state| {
            let changes = *state != State::Forced;
            *state = State::Forced;
            changes
        });
    }

    /// How much work is held.
    pub fn guards(&self) -> usize {
        *self.guards.borrow()
    }

    /// Waits for the drain to begin and to end. At the deadline it forces by itself.
    pub async fn ended(&self) -> Ended {
        let mut state = self.state.subscribe();
        let mut guards = self.guards.subscribe();
        loop {
            let now = *state.borrow_and_update();
            match now {
                State::Running => {
                    // Cannot close: the sender lives in `self`.
                    state.changed().await.ok();
                }
                State::Draining(until) => {
                    tokio::select! {
                        () = none(&mut guards) => return Ended::Clean,
                        changed = timeout_at(until, state.changed()) => if changed.is_err() {
                            self.force();
                        },
                    }
                }
                State::Forced => {
                    let gone = timeout(GRACE, none(&mut guards)).await.is_ok();
                    return Ended::Forced { left: if gone { 0 } else { self.guards() } };
                }
            }
        }
    }
}

impl Signal {
    /// Holds the drain open until the guard is dropped.
    pub fn guard(&self) -> Guard {
        self.guards.send_modify(|n| *n += 1);
        Guard(self.guards.clone())
    }

    /// Whether new work should still be taken.
    pub fn is_running(&self) -> bool {
        *self.state.borrow() == State::Running
    }

    /// Waits until no new work should be taken.
    pub async fn draining(&self) {
        self.wait(|state| state != State::Running).await;
    }

    /// Waits until everything must end.
    pub async fn forced(&self) {
        self.wait(|state| state == State::Forced).await;
    }

    async fn wait(&self, wanted: impl Fn(State) -> bool) {
        let mut state = self.state.clone();
        // Cannot close: the sender lives in `self`.
        state.wait_for(|state| wanted(*state)).await.map(drop).ok();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.send_modify(|n| *n = n.saturating_sub(1));
    }
}

async fn none(guards: &mut watch::Receiver<usize>) {
    // Cannot close: the sender lives in the drain.
    guards.wait_for(|n| *n == 0).await.map(drop).ok();
}

/// The deadline of a drain (hbone.md 11): as configured, else somewhat before the kubelet kills, else five seconds.
pub fn deadline(configured: Option<Duration>, grace_period: Option<Duration>) -> Duration {
    let seconds = Duration::from_secs;
    configured.unwrap_or_else(|| match grace_period {
        Some(grace) if grace > seconds(10) => grace - seconds(5),
        Some(grace) => grace.saturating_sub(seconds(1)).max(seconds(1)),
        None => seconds(5),
    })
}

#[cfg(test)]
#[path = "drain_tests.rs"]
mod tests;
