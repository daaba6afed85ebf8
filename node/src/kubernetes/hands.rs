//! Does at the API server what the agent's thread orders, and brings the answers back.

use std::sync::Arc;

use futures_util::stream::{FuturesUnordered, StreamExt};
use k8s_openapi::api::core::v1::{Namespace, ObjectReference, Pod};
use kube::Client;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use kubernetes::client::{CallError, call};
use serde_json::{Value, json};
use telemetry::metrics::CounterFamily;
use tokio::sync::{Semaphore, mpsc};

use super::facts::{MODE, PodFacts, REDIRECTION};
use super::order::{Order, PodRef};
use super::run::Input;

/// Field manager, and who Events are from.
pub(super) const MANAGER: &str = "culvert-node";

/// Calls at a time. A node has at most some hundred pods, and labelling a namespace changes them all at once.
const AT_ONCE: usize = 16;

/// The connection to the API server.
#[derive(Clone)]
pub(super) struct Hands {
    client: Client,
    recorder: Recorder,
    room: Arc<Semaphore>,
    failures: CounterFamily,
}

impl Hands {
    pub(super) fn new(client: Client, node: &str, failures: CounterFamily) -> Self {
        let reporter = Reporter { controller: MANAGER.to_owned(), instance: Some(node.to_owned()) };
        let recorder = Recorder::new(client.clone(), reporter);
        Self { client, recorder, room: Arc::new(Semaphore::new(AT_ONCE)), failures }
    }

    /// Carries out orders until nobody gives any.
    pub(super) async fn work(self, mut orders: mpsc::UnboundedReceiver<Order>, inputs: mpsc::UnboundedSender<Input>) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                order = orders.recv() => match order {
                    Some(order) => running.push(self.carry_out(order)),
                    None => return,
                },
                Some(answer) = running.next(), if !running.is_empty() => {
                    if let Some(answer) = answer {
                        // The agent's thread has ended, and so will we.
                        drop(inputs.send(answer));
                    }
                }
            }
        }
    }

    async fn carry_out(&self, order: Order) -> Option<Input> {
        // The semaphore is never closed; without a place there would be nothing to wait for.
        let _place = self.room.acquire().await.ok();
        match order {
            Order::Annotate { pod, value } => {
                let done = match self.annotate(&pod, value).await {
                    Ok(()) => true,
                    Err(error) => {
                        self.failures.with(&["annotate"]).inc();
                        tracing::warn!(pod = %format!("{}/{}", pod.namespace, pod.name), %error, "annotation not written; tried again");
                        false
                    }
                };
                Some(Input::Annotated { pod, value, done })
            }
            Order::Event { pod, reason, note } => {
                self.tell(&pod, reason, note).await;
                None
            }
            Order::Look { namespace, name } => Some(self.look(&namespace, &name).await),
        }
    }

    /// Writes the annotation. A pod that is gone needs none.
    pub(super) async fn annotate(&self, pod: &PodRef, value: Option<&str>) -> Result<(), CallError> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &pod.namespace);
        let what = format!("annotate pod {}/{}", pod.namespace, pod.name);
        let params = PatchParams { field_manager: Some(MANAGER.to_owned()), ..PatchParams::default() };
        let patch = Patch::Merge(document(pod, value));
        match call(&what, api.patch_status(&pod.name, &params, &patch)).await {
            // Not found, or a namesake with another UID.
            Ok(_) | Err(CallError::NotFound { .. } | CallError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn tell(&self, pod: &PodRef, reason: &'static str, note: String) {
        let about = ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            name: Some(pod.name.clone()),
            namespace: Some(pod.namespace.clone()),
            uid: Some(pod.object_uid.clone()),
            ..ObjectReference::default()
        };
        if let Err(error) = self.publish(&about, EventType::Warning, reason, note).await {
            self.failures.with(&["event"]).inc();
            tracing::warn!(reason, %error, "Event not written");
        }
    }

    /// Writes an Event about an object.
    pub(super) async fn publish(
        &self,
        about: &ObjectReference,
        type_: EventType,
        reason: &str,
        note: String,
    ) -> Result<(), CallError> {
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let what =
            format!("write an event about {} {}/{}", text(&about.kind), text(&about.namespace), text(&about.name));
        let (reason, action) = (reason.to_owned(), "Capture".to_owned());
        let event = Event { type_, reason, note: Some(note), action, secondary: None };
        call(&what, self.recorder.publish(&event, about)).await
    }

    /// What the API server has of a pod and its namespace. An error is as good as nothing: the watch goes on, and who asks has a
    /// deadline.
    async fn look(&self, namespace: &str, name: &str) -> Input {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let namespaces: Api<Namespace> = Api::all(self.client.clone());
        let asked_pod = format!("get pod {namespace}/{name}");
        let asked_namespace = format!("get namespace {namespace}");
        let (pod, found) = futures_util::join!(
            call(&asked_pod, pods.get_opt(name)),
            call(&asked_namespace, namespaces.get_metadata_opt(namespace))
        );
        let pod = self.heard(pod).flatten().and_then(|pod| PodFacts::of(&pod));
        let label =
            |meta: kube::api::PartialObjectMeta<Namespace>| meta.metadata.labels.and_then(|l| l.get(MODE).cloned());
        let namespace = self.heard(found).flatten().map(|meta| (namespace.to_owned(), label(meta)));
        Input::Looked { pod, namespace }
    }

    fn heard<T>(&self, answer: Result<T, CallError>) -> Option<T> {
        answer
            .inspect_err(|error| {
                self.failures.with(&["get"]).inc();
                tracing::warn!(%error, "asked in vain");
            })
            .ok()
    }
}

/// The merge patch. With the UID, a namesake is refused and not annotated.
fn document(pod: &PodRef, value: Option<&str>) -> Value {
    json!({ "metadata": { "uid": pod.object_uid, "annotations": { REDIRECTION: value } } })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn taking_the_annotation_away_is_a_null() {
        let pod = PodRef { uid: "u".into(), object_uid: "o".into(), namespace: "shop".into(), name: "web".into() };
        let expected = r#"{"metadata":{"annotations":{"ambient.istio.io/redirection":null},"uid":"o"}}"#;
        assert_eq!(document(&pod, None).to_string(), expected);
        assert!(document(&pod, Some("enabled")).to_string().contains(r#""ambient.istio.io/redirection":"enabled""#));
    }
}
