//! Whether a program is ready, and if not, what is missing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use tokio::sync::watch;

/// Named conditions; ready when all of them hold. Clones share them.
#[derive(Clone, Debug)]
pub struct Gate(Arc<watch::Sender<BTreeMap<&'static str, bool>>>);

/// One condition of a gate. Dropping it changes nothing: a condition that is not met stays missing, so that a task that
/// dies before it is ready cannot make the program look ready.
#[derive(Clone, Debug)]
pub struct Condition {
    name: &'static str,
    gate: Gate,
}

/// The conditions that do not hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotReady(pub Vec<&'static str>);

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "not ready, waiting for: {}", self.0.join(", "))
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

impl Gate {
    /// A gate without conditions, which is ready.
    pub fn new() -> Self {
        Self(Arc::new(watch::Sender::new(BTreeMap::new())))
    }

    /// Adds a condition that does not hold yet. The same name twice is one condition.
    pub fn condition(&self, name: &'static str) -> Condition {
        self.0.send_modify(|all| {
            all.entry(name).or_insert(false);
        });
        Condition { name, gate: self.clone() }
    }

    /// Whether all conditions hold.
    ///
    /// # Errors
    /// The conditions that do not.
    pub fn state(&self) -> Result<(), NotReady> {
        missing(&self.0.borrow())
    }

    /// Waits until all conditions hold.
    pub async fn ready(&self) {
        let mut changes = self.0.subscribe();
        // The sender lives in `self`, so the channel cannot close while we wait.
        changes.wait_for(|all| missing(all).is_ok()).await.map(drop).ok();
    }
}

impl Condition {
    /// The condition holds.
    pub fn met(&self) {
        self.set(true);
    }

    /// The condition does not hold any more.
    pub fn unmet(&self) {
        self.set(false);
    }

    fn set(&self, holds: bool) {
        let name = self.name;
        let changed = self.gate.0.send_if_modified(|all| all.insert(name, holds) != Some(holds));
        if changed {
            match self.gate.state() {
                Ok(()) => tracing::info!("ready"),
                Err(missing) => tracing::info!(condition = name, holds, "{missing}"),
            }
        }
    }
}

fn missing(all: &BTreeMap<&'static str, bool>) -> Result<(), NotReady> {
    let missing: Vec<_> = all.iter().filter(|(_, holds)| !**holds).map(|(name, _)| *name).collect();
    if missing.is_empty() { Ok(()) } else { Err(NotReady(missing)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_names_what_is_missing_until_nothing_is() {
        let gate = Gate::new();
        assert_eq!(gate.state(), Ok(()));
        let discovery = gate.condition("discovery");
        let pods = gate.condition("pod hand-over");
        assert_eq!(gate.state().unwrap_err().to_string(), "not ready, waiting for: discovery, pod hand-over");
        discovery.met();
        assert_eq!(gate.state(), Err(NotReady(vec!["pod hand-over"])));
        pods.met();
        assert_eq!(gate.state(), Ok(()));
        discovery.unmet();
        drop(discovery);
        assert_eq!(gate.state(), Err(NotReady(vec!["discovery"])));
        gate.condition("discovery").met();
        assert_eq!(gate.state(), Ok(()));
    }

    #[tokio::test]
    async fn waiting_ends_with_the_last_condition() {
        let gate = Gate::new();
        let (a, b) = (gate.condition("a"), gate.condition("b"));
        let waiting = tokio::spawn({
            let gate = gate.clone();
            async move { gate.ready().await }
        });
        a.met();
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        b.met();
        waiting.await.unwrap();
    }
}
