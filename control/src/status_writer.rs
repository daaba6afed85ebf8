//! Says on objects what their owners should know: conditions, addresses, Events. Only the leader does.
//!
//! [`Queue`] is the order of work, without clock and network: the newest words per object, pauses after failures. Writing
//! reads the object first and writes only what differs, so that a new leader may go over everything again.

mod queue;
mod words;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kubernetes::client::{CallError, call};
use kubernetes::status::{self, StatusError, Written};
use telemetry::metrics::CounterFamily;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::apply::{Ask, Words};
use crate::object::Key;
use crate::world::Status;
use queue::Queue;

/// Field manager of conditions and reporter of Events.
pub const MANAGER: &str = "culvert-control";

/// Writes under way at a time. At 20 a second and some milliseconds each there is rarely more than one; a slow API server
/// must not be given more.
const AT_ONCE: usize = 4;

/// Events remembered as told, so that they are not told again. When they are too many all are forgotten, and a few may be
/// told twice: at 100 bytes each they take a megabyte.
const TOLD: usize = 10_000;

/// What the writer needs.
pub struct Writer {
    /// The API server.
    pub client: Client,
    /// Our name among the replicas, for Events.
    pub me: String,
    /// Whether we are the one who writes.
    pub leader: watch::Receiver<bool>,
    /// What is to be said.
    pub words: mpsc::UnboundedReceiver<Words>,
    /// The owner of the world.
    pub asks: mpsc::Sender<Ask>,
    /// Writes in a second.
    pub rate: u32,
    /// Counts by result.
    pub written: CounterFamily,
}

/// One write that has ended.
type Done = (Key, Status, Result<(), WriteError>);

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error(transparent)]
    Event(#[from] CallError),
}

impl Writer {
    /// Writes until nobody says anything any more.
    pub async fn run(mut self) {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(self.me.clone()) };
        let recorder = Recorder::new(self.client.clone(), reporter);
        let mut told = Told::default();
        let mut queue = Queue::default();
        let mut under_way: JoinSet<Done> = JoinSet::new();
        let mut pace = interval(Duration::from_secs(1) / self.rate.max(1));
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let leads = *self.leader.borrow();
            let next = queue.due();
            let may = leads && under_way.len() < AT_ONCE;
            tokio::select! {
                words = self.words.recv() => match words {
                    Some(words) if leads => queue.extend(words::statuses(words)),
                    // Another replica says it.
                    Some(_) => {}
                    None => return,
                },
                changed = self.leader.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    queue = Queue::default();
                    if *self.leader.borrow_and_update() {
                        queue.extend(self.everything().await);
                    }
                }
                Some(ended) = under_way.join_next() => match ended {
                    Ok((key, status, result)) => self.ended(&mut queue, key, status, result),
                    Err(error) => tracing::error!(%error, "a status write ended by itself"),
                },
                // First the time of the next one, then a turn at the pace.
                () = async { sleep_until(next.unwrap_or_else(Instant::now)).await; pace.tick().await; },
                    if may && next.is_some() =>
                {
                    if let Some((key, status)) = queue.take(Instant::now()) {
                        let events = told.untold(&key, &status);
                        let (client, recorder) = (self.client.clone(), recorder.clone());
                        under_way.spawn(async move {
                            let result = write(&client, &recorder, &key, &status, &events).await;
                            (key, status, result)
                        });
                    }
                }
            }
        }
    }

    /// What is to be said on every object.
    async fn everything(&self) -> Vec<Status> {
        let (to, answer) = oneshot::channel();
        if self.asks.send(Ask::Statuses(to)).await.is_err() {
            return Vec::new();
        }
        // An owner of the world that has gone means that the program is ending.
        answer.await.unwrap_or_default()
    }

    fn ended(&self, queue: &mut Queue, key: Key, status: Status, result: Result<(), WriteError>) {
        match result {
            Ok(()) => {
                self.written.with(&["written"]).inc();
                queue.done(&key);
            }
            Err(error) => {
                self.written.with(&["failed"]).inc();
                let pause = queue.failed(key, status, Instant::now());
                tracing::warn!(%error, again_in = ?pause, "status not written");
            }
        }
    }
}

/// Events that were told.
#[derive(Debug, Default)]
struct Told(HashMap<(Key, String), HashSet<String>>);

impl Told {
    /// The events of a status that were not told of this object before.
    fn untold(&mut self, key: &Key, status: &Status) -> Vec<crate::world::Event> {
        if self.0.len() >= TOLD {
            self.0.clear();
        }
        let object = (key.clone(), status.uid.to_string());
        if status.events.is_empty() {
            // Nothing is wrong any more: if it goes wrong again, that is news.
            self.0.remove(&object);
            return Vec::new();
        }
        let now: HashSet<String> = status.events.iter().map(|e| e.message.clone()).collect();
        let before = self.0.insert(object, now).unwrap_or_default();
        status.events.iter().filter(|e| !before.contains(&e.message)).cloned().collect()
    }
}

async fn write(
    client: &Client,
    recorder: &Recorder,
    key: &Key,
    status: &Status,
    events: &[crate::world::Event],
) -> Result<(), WriteError> {
    if let Some((target, all)) = words::parents(key, status) {
        let written = status::write_parents(client, &target, &all).await?;
        tracing::debug!(object = %key, ?written, "status of its parents");
        if written == Written::Gone {
            return Ok(());
        }
    }
    if let Some((target, wanted)) = words::wanted(key, status) {
        let written = status::write(client, MANAGER, &target, &wanted, &words::owned()).await?;
        tracing::debug!(object = %key, ?written, "status");
        if written == Written::Gone {
            return Ok(());
        }
    }
    for event in events {
        let what = format!("record an event of {key}");
        let event = Event {
            type_: EventType::Warning,
            reason: event.reason.to_owned(),
            note: Some(words::note(&event.message).to_owned()),
            action: "Translate".to_owned(),
            secondary: None,
        };
        call(&what, recorder.publish(&event, &reference(key, status))).await?;
    }
    Ok(())
}

fn reference(key: &Key, status: &Status) -> ObjectReference {
    ObjectReference {
        api_version: Some(key.kind.api_version().to_owned()),
        kind: Some(key.kind.as_str().to_owned()),
        namespace: Some(key.namespace.to_string()).filter(|ns| !ns.is_empty()),
        name: Some(key.name.to_string()),
        uid: Some(status.uid.to_string()).filter(|uid| !uid.is_empty()),
        ..ObjectReference::default()
    }
}
