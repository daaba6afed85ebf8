//! What replicas of the control plane tell each other: which services every node that *they* serve goes to by the waypoint.
//!
//! Each has a Lease of its own, which goes with its pod, and writes the services there. Whoever leads looks at all of them, and
//! only while something waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use kubernetes::client::{CallError, call};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::object::Key;

/// Annotation of a replica's Lease: services, each as its kind, namespace and name.
const SAID: &str = "culvert.dev/acknowledged";
/// Label by which such Leases are known.
const LABEL: (&str, &str) = ("culvert.dev/replica", "culvert-control");
/// Between two looks at what the others say. A node acknowledges in some 10 ms; nobody notices a quarter of a second on top.
const LOOK: Duration = Duration::from_millis(250);
/// Between two services in the annotation; no name has a comma.
const GLUE: &str = ", ";

/// The replicas, seen from one.
pub struct Replicas {
    client: Client,
    namespace: String,
    me: String,
    leads: watch::Receiver<bool>,
    /// What our Lease says; `None` while it is not written.
    said: Option<BTreeSet<String>>,
}

impl Replicas {
    /// `me`: name of our pod, in this namespace; `leads`: whether we speak for all.
    pub fn new(client: Client, namespace: &str, me: &str, leads: watch::Receiver<bool>) -> Self {
        Self { client, namespace: namespace.to_owned(), me: me.to_owned(), leads, said: None }
    }

    /// Says that nothing waits, or nothing any more.
    pub(super) async fn rest(&mut self) {
        self.say(&BTreeSet::new()).await;
    }

    /// Says that our nodes have acknowledged these, and returns when all replicas say so and we lead. Who does not lead goes by
    /// the leader's word, which comes as a condition of the services.
    pub(super) async fn agree<T>(&mut self, services: &BTreeMap<Key, T>) {
        let all: BTreeSet<String> = services.keys().map(ToString::to_string).collect();
        loop {
            let said = self.say(&all).await;
            if said && *self.leads.borrow_and_update() {
                match self.leases().await {
                    Ok(leases) if silent(&leases, &self.name(), &all).is_none() => return,
                    Ok(_) => {}
                    Err(error) => tracing::debug!(%error, "the words of other replicas cannot be read; tried again"),
                }
            }
            // Beginning to lead is worth a look at once.
            if let Ok(Err(_)) = timeout(LOOK, self.leads.changed()).await {
                tokio::time::sleep(LOOK).await;
            }
        }
    }

    fn name(&self) -> String {
        format!("replica-{}", self.me)
    }

    fn api(&self) -> Api<Lease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    async fn leases(&self) -> Result<Vec<Lease>, CallError> {
        let labels = ListParams::default().labels(&format!("{}={}", LABEL.0, LABEL.1));
        Ok(call("list leases of replicas", self.api().list(&labels)).await?.items)
    }

    /// Writes what is new; whether it is written.
    async fn say(&mut self, services: &BTreeSet<String>) -> bool {
        if self.said.as_ref() == Some(services) {
            return true;
        }
        match self.write(services).await {
            Ok(()) => {
                self.said = Some(services.clone());
                true
            }
            Err(error) => {
                tracing::debug!(%error, "what our nodes have acknowledged cannot be told; tried again");
                false
            }
        }
    }

    async fn write(&self, services: &BTreeSet<String>) -> Result<(), CallError> {
        let name = self.name();
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let pod = call(&format!("get pod {}", self.me), pods.get_opt(&self.me)).await?;
        let lease = written(&name, &self.me, pod.and_then(|p| p.metadata.uid).as_deref(), services);
        let params = PatchParams::apply("culvert-control").force();
        call(&format!("write lease {name}"), self.api().patch(&name, &params, &Patch::Apply(&lease))).await.map(drop)
    }
}

/// Our Lease. It goes with the pod, where we are in one.
fn written(name: &str, me: &str, pod: Option<&str>, services: &BTreeSet<String>) -> Value {
    let said: Vec<&str> = services.iter().map(String::as_str).collect();
    let mut lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {
            "name": name,
            "labels": { LABEL.0: LABEL.1, "app.kubernetes.io/part-of": "culvert" },
            "annotations": { SAID: said.join(GLUE) },
        },
        "spec": { "holderIdentity": me },
    });
    if let Some(uid) = pod {
        lease["metadata"]["ownerReferences"] = json!([{ "apiVersion": "v1", "kind": "Pod", "name": me, "uid": uid }]);
    }
    lease
}

/// The first other replica that does not say all of these.
fn silent<'a>(leases: &'a [Lease], me: &str, services: &BTreeSet<String>) -> Option<&'a str> {
    let others = leases.iter().filter_map(|l| Some((l.metadata.name.as_deref()?, l))).filter(|(name, _)| *name != me);
    let says = |lease: &Lease| {
        let said = lease.metadata.annotations.as_ref().and_then(|a| a.get(SAID)).map_or("", String::as_str);
        let said: BTreeSet<&str> = said.split(GLUE).collect();
        services.iter().all(|s| said.contains(s.as_str()))
    };
    others.into_iter().find(|(_, lease)| !says(lease)).map(|(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(all: &[&str]) -> BTreeSet<String> {
        all.iter().map(|s| (*s).to_owned()).collect()
    }

    fn lease(name: &str, services: &[&str]) -> Lease {
        serde_json::from_value(written(name, "x", None, &set(services))).unwrap()
    }

    #[test]
    fn all_others_have_to_say_all_services() {
        let wanted = set(&["Service shop/a", "Service shop/b"]);
        let mine = lease("replica-me", &[]);
        assert_eq!(silent(std::slice::from_ref(&mine), "replica-me", &wanted), None, "there is nobody else");
        let good = lease("replica-two", &["Service shop/0", "Service shop/a", "Service shop/b"]);
        let half = lease("replica-three", &["Service shop/a"]);
        assert_eq!(silent(&[mine.clone(), good.clone()], "replica-me", &wanted), None);
        assert_eq!(silent(&[mine.clone(), good.clone(), half], "replica-me", &wanted), Some("replica-three"));
        let new = lease("replica-new", &[]);
        assert_eq!(silent(&[mine, new, good], "replica-me", &wanted), Some("replica-new"));
    }

    #[test]
    fn a_lease_goes_with_its_pod() {
        let made = written("replica-me", "me", Some("uid-1"), &set(&["Service shop/a"]));
        assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], "uid-1");
        assert_eq!(made["metadata"]["annotations"][SAID], "Service shop/a");
    }
}
