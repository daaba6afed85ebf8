//! Watches of what concerns waypoints.

use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt;
use kube::api::{Api, DynamicObject};
use kube::runtime::watcher as watch;
use kube::runtime::watcher::{Config, Event as Watched};
use kube::{Client, ResourceExt};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::plan::MADE_BY;
use super::seen::{Event, Kind};

/// Length of one watch call, in seconds, as of control's other watches.
const WATCH_SECONDS: u32 = 60;

/// First and longest pause after an error: nine kinds at 10 s are less than one request a second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));

/// Starts a watch for each kind. They end with the set.
pub(super) fn start(client: &Client, feed: &mpsc::Sender<Event>) -> JoinSet<()> {
    let mut all = JoinSet::new();
    for kind in Kind::ALL {
        all.spawn(follow(client.clone(), kind, feed.clone()));
    }
    all
}

async fn follow(client: Client, kind: Kind, feed: mpsc::Sender<Event>) {
    let api: Api<DynamicObject> = Api::all_with(client, &kind.resource());
    let config = Config::default().timeout(WATCH_SECONDS);
    let config = match kind {
        Kind::Class | Kind::Gateway => config,
        Kind::Istiod => config.fields("metadata.name=istiod"),
        _ => config.labels(&format!("{}={}", MADE_BY.0, MADE_BY.1)),
    };
    let mut events = pin!(watch(api, config));
    let mut pause = PAUSE.0;
    while let Some(event) = events.next().await {
        let event = match event {
            Ok(event) => event,
            Err(error) => {
                if pause == PAUSE.0 {
                    tracing::info!(?kind, %error, "what concerns waypoints cannot be watched; tried again");
                }
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(PAUSE.1);
                continue;
            }
        };
        if !matches!(event, Watched::Init) {
            pause = PAUSE.0;
        }
        if feed.send(taken(kind, event)).await.is_err() {
            return;
        }
    }
}

fn taken(kind: Kind, event: Watched<DynamicObject>) -> Event {
    match event {
        Watched::Init => Event::Begin(kind),
        Watched::InitDone => Event::Finish(kind),
        Watched::Apply(object) | Watched::InitApply(object) => Event::Apply(kind, Box::new(trimmed(object))),
        Watched::Delete(object) => Event::Remove(kind, (object.namespace().unwrap_or_default(), object.name_any())),
    }
}

/// Who wrote which field is half of an object, and of no use here.
fn trimmed(mut object: DynamicObject) -> Value {
    object.metadata.managed_fields = None;
    // A DynamicObject is made of what JSON can hold.
    serde_json::to_value(&object).unwrap_or_default()
}
