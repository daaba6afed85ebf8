//! The deployer: makes waypoints of Gateways.
//!
//! ```text
//! watches ──Event──► Seen ──Task──► Turns ──► Hands: overlays, plan (pure), apply, delete, judge (pure), status
//! ```
//! Only the leader does it. Every task is done from what was seen last, and doing it again does no harm; one that fails
//! waits by itself, so that a broken Gateway never stops others. Objects go with their Gateway by owner references: nothing
//! is to be done when one is deleted.

mod class;
mod fault;
mod hands;
mod judge;
mod listener;
mod merge;
mod overlay;
mod plan;
mod pod;
mod seen;
mod turns;
mod watches;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use telemetry::metrics::CounterFamily;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::apply::{Ask, Waiting};
use crate::config::Mesh;
use crate::config::waypoint::Waypoint;
use hands::{After, Hands, Trouble};
use seen::{Name, Seen, Task};
use turns::Turns;

/// Tasks under way at a time, each a handful of calls. More would only fill the API server's queue for us.
const AT_ONCE: usize = 4;

/// Events between watches and us: a list comes faster than it is taken in, and waits here.
const FEED: usize = 256;

/// How often is asked where a waypoint is wanted that nobody made. An event for each change would ask more often during a
/// rollout; and to serve within 10 s leaves 8 s for the pods.
const WANTED: Duration = Duration::from_secs(2);

/// What the deployer needs.
pub struct Deployer {
    /// The API server.
    pub client: Client,
    /// Whether we are the one who deploys.
    pub leader: watch::Receiver<bool>,
    /// Settings.
    pub values: Waypoint,
    /// Names of the mesh.
    pub mesh: Mesh,
    /// Services past whose waypoint nodes may still go.
    pub waiting: watch::Receiver<Waiting>,
    /// The owner of the world, who knows where a waypoint is wanted.
    pub asks: mpsc::Sender<Ask>,
    /// Counts tasks by result.
    pub done: CounterFamily,
}

/// One task that has ended.
type Done = (Task, Result<After, Trouble>);

impl Deployer {
    /// Deploys while we lead, until nobody says any more who leads.
    pub async fn run(mut self) {
        loop {
            while !*self.leader.borrow_and_update() {
                if self.leader.changed().await.is_err() {
                    return;
                }
            }
            if !self.lead().await {
                return;
            }
        }
    }

    /// Deploys until we do not lead any more, and says whether somebody still tells us who leads. What is under way then is
    /// called off; the next leader looks at everything.
    async fn lead(&mut self) -> bool {
        let (feed, mut fed) = mpsc::channel(FEED);
        let mut watches = watches::start(&self.client, &feed);
        let hands = Hands {
            client: self.client.clone(),
            values: Arc::new(self.values.clone()),
            mesh: Arc::new(self.mesh.clone()),
            asks: self.asks.clone(),
        };
        let mut wanted = interval(WANTED);
        wanted.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Seen::new(self.values.own_istio_names);
        let mut turns = Turns::default();
        let mut under_way: JoinSet<Done> = JoinSet::new();
        let mut waiting = by_gateway(&self.waiting.borrow_and_update());
        loop {
            let next = turns.next().filter(|_| seen.complete() && under_way.len() < AT_ONCE);
            tokio::select! {
                changed = self.leader.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    if !*self.leader.borrow_and_update() {
                        return true;
                    }
                }
                Some(event) = fed.recv() => {
                    let now = Instant::now();
                    seen.apply(event).into_iter().for_each(|task| turns.soon(task, now));
                }
                Ok(()) = self.waiting.changed() => {
                    let now = by_gateway(&self.waiting.borrow_and_update());
                    let before = std::mem::replace(&mut waiting, now);
                    // Those that wait no more as well.
                    for (name, _) in before.into_iter().chain(waiting.clone()) {
                        turns.soon(Task::Gateway(name), Instant::now());
                    }
                }
                _ = wanted.tick(), if seen.complete() => turns.soon(Task::Automatic, Instant::now()),
                Some(ended) = under_way.join_next() => match ended {
                    Ok((task, result)) => self.ended(&mut turns, task, result),
                    Err(error) => tracing::error!(%error, "deploying a waypoint ended by itself"),
                },
                Some(ended) = watches.join_next() => {
                    // Without one of them we would act on what is no longer so; led anew, we list anew.
                    tracing::error!(?ended, "a watch of what concerns waypoints ended");
                    return true;
                }
                () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    if let Some(task) = turns.take(Instant::now()) {
                        begin(&mut under_way, &hands, &seen, &waiting, task);
                    }
                }
            }
        }
    }

    fn ended(&self, turns: &mut Turns<Task>, task: Task, result: Result<After, Trouble>) {
        let now = Instant::now();
        match result {
            Ok(after) => {
                self.done.with(&["done"]).inc();
                turns.done(task, after, now);
            }
            Err(error) => {
                self.done.with(&["failed"]).inc();
                let pause = turns.failed(task.clone(), now);
                tracing::warn!(?task, %error, again_in = ?pause, "a waypoint is not as it should be");
            }
        }
    }
}

/// The services that wait, `namespace/name`, by their Gateway.
fn by_gateway(waiting: &Waiting) -> BTreeMap<Name, Vec<String>> {
    let mut all = BTreeMap::<Name, Vec<String>>::new();
    for (service, (namespace, name)) in &waiting.services {
        let services = all.entry((namespace.to_string(), name.to_string())).or_default();
        services.push(format!("{}/{}", service.namespace, service.name));
    }
    all
}

/// Begins a task with what is known now.
fn begin(under_way: &mut JoinSet<Done>, hands: &Hands, seen: &Seen, waiting: &BTreeMap<Name, Vec<String>>, task: Task) {
    let hands = hands.clone();
    match &task {
        Task::Automatic => {
            under_way.spawn(async move { (task, hands.automatic().await) });
        }
        Task::Classes => {
            let (classes, istio_names) = (seen.classes(), seen.istio_names());
            under_way.spawn(async move { (task, hands.classes(&classes, istio_names).await) });
        }
        Task::Gateway(name) => {
            let mut scene = seen.scene(name);
            if let (Some(scene), Some(services)) = (&mut scene, waiting.get(name)) {
                scene.waiting.clone_from(services);
            }
            under_way.spawn(async move {
                let result = match scene {
                    Some(scene) => hands.gateway(&scene).await,
                    None => Ok(None),
                };
                (task, result)
            });
        }
    }
}

#[cfg(test)]
mod tests;
