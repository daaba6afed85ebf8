//! Makes things be as planned: reads what a plan needs, applies, deletes, writes the status. Repeating it does no harm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kubernetes::client::{CallError, call};
use kubernetes::object::gateway as api;
use kubernetes::object::gateway::ParametersReference;
use kubernetes::status::{self, Merge, StatusError, Target, Wanted};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use super::class;
use super::fault::Fault;
use super::judge::{self, Made, Standing};
use super::listener;
use super::merge::holds;
use super::overlay::Overlay;
use super::plan::{Around, MADE_BY, Plan, plan};
use super::seen::{Kind, Scene, name_of, owner};
use crate::apply::Ask;
use crate::config::Mesh;
use crate::config::waypoint::Waypoint;
use crate::status_writer::MANAGER;

/// A ConfigMap of a user is not watched: that would need the right to read all of them. It is read again after this time.
const REREAD: Duration = Duration::from_secs(10);

/// The version of the definitions changes when somebody updates them; that the class says so can wait.
const REREAD_VERSION: Duration = Duration::from_secs(600);

/// An earlier Gateway's objects are on their way out: the garbage collector takes a second or two.
const LEFTOVER: Duration = Duration::from_secs(1);

/// Annotation with the digest of what was applied: a field that is not wanted any more shows by it.
const APPLIED: &str = "culvert.dev/applied";

/// Annotation of the Gateway API's definitions with their version.
const BUNDLE: &str = "gateway.networking.k8s.io/bundle-version";

/// Why work is to be tried again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Trouble {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error(transparent)]
    Status(#[from] StatusError),
    #[error("{0}")]
    Refused(String),
    #[error("{0} has not the shape of its kind: {1}")]
    Shape(&'static str, serde_json::Error),
}

/// When it is due again by itself.
pub(crate) type After = Option<Duration>;

/// What work is done with.
#[derive(Clone)]
pub(crate) struct Hands {
    pub(crate) client: Client,
    pub(crate) values: Arc<Waypoint>,
    pub(crate) mesh: Arc<Mesh>,
    pub(crate) asks: mpsc::Sender<Ask>,
}

impl Hands {
    /// Makes the classes be there, and says of ours what is to be said.
    pub(crate) async fn classes(&self, there: &[Arc<Value>], istio_names: bool) -> Result<After, Trouble> {
        let definitions: Api<CustomResourceDefinition> = Api::all(self.client.clone());
        let name = "gateways.gateway.networking.k8s.io";
        let found = call("get the definition of Gateway", definitions.get_metadata_opt(name)).await?;
        let bundle = found.and_then(|d| d.metadata.annotations).and_then(|mut a| a.remove(BUNDLE));
        for wanted in class::wanted(istio_names) {
            let name = name_of(&wanted).1;
            match there.iter().find(|c| c["metadata"]["name"] == *name) {
                Some(there) if there["spec"]["controllerName"] != wanted["spec"]["controllerName"] => {
                    tracing::warn!(class = name, "the GatewayClass has another controller's name; it is left alone");
                }
                Some(_) => {}
                // Made once, and the user's from then on.
                None => drop(self.apply(Kind::Class, &wanted).await?),
            }
        }
        for object in there {
            let controller = object["spec"]["controllerName"].as_str().unwrap_or_default();
            if !class::is_ours(controller, istio_names) {
                continue;
            }
            let class: api::GatewayClass = read("GatewayClass", object)?;
            let wanted = Wanted {
                uid: class.metadata.uid.clone().unwrap_or_default(),
                generation: class.metadata.generation.unwrap_or_default(),
                conditions: class::conditions(&class, bundle.as_deref()),
                fields: vec![("supportedFeatures", Some(class::features()))],
            };
            self.say(Kind::Class, object, &wanted, &["Accepted", "SupportedVersion"]).await?;
        }
        Ok(Some(REREAD_VERSION))
    }

    /// Makes the Gateways that are wanted and that nobody made.
    pub(crate) async fn automatic(&self) -> Result<After, Trouble> {
        let (to, answer) = oneshot::channel();
        if self.asks.send(Ask::Waypoints(to)).await.is_err() {
            return Ok(None);
        }
        // An owner of the world that has gone means that the program is ending.
        for (namespace, name) in answer.await.unwrap_or_default() {
            let mut metadata = json!({ "name": &*name, "namespace": &*namespace });
            metadata["labels"] = json!({ MADE_BY.0: MADE_BY.1, "app.kubernetes.io/part-of": "culvert" });
            let listener = json!({ "name": "mesh", "port": listener::HBONE_PORT, "protocol": "HBONE" });
            let gateway = json!({
                "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": metadata,
                "spec": { "gatewayClassName": class::OWN.0, "listeners": [listener] },
            });
            self.apply(Kind::Gateway, &gateway).await?;
        }
        Ok(None)
    }

    /// Makes everything that a Gateway asks for, and says how it stands.
    pub(crate) async fn gateway(&self, scene: &Scene) -> Result<After, Trouble> {
        if !scene.ours {
            return self.leave(scene).await;
        }
        let gateway: api::Gateway = read("Gateway", &scene.gateway)?;
        let listeners = listener::judge(&gateway.spec.listeners);
        let (overlays, faults) = self.overlays(scene, &gateway).await?;
        let reread = gateway.spec.infrastructure.as_ref().is_some_and(|i| i.parameters_ref.is_some());
        let reread = reread || scene.class.as_ref().is_some_and(|c| c["spec"]["parametersRef"].is_object());
        let after = reread.then_some(REREAD);

        let planned = match faults.is_empty() {
            true => plan(&gateway, &self.around(scene, &overlays)),
            false => Err(faults),
        };
        let served = listeners.iter().any(|l| l.accepted) && gateway.spec.addresses.iter().all(|a| a.value.is_empty());
        let (mut standing, ended) = match planned {
            Err(faults) => (Standing::Mistaken(faults), Ok(after)),
            // What was made before is left: taking it away would open the way round it.
            Ok(_) if !served => (Standing::Made(Made::default()), Ok(after)),
            Ok(plan) => self.make(scene, &plan, after).await?,
        };
        if let Standing::Made(made) = &mut standing {
            made.waiting.clone_from(&scene.waiting);
        }
        let wanted = judge::judge(&gateway, &listeners, &standing, &scene.gateway, Timestamp::now());
        self.say(Kind::Gateway, &scene.gateway, &wanted, &judge::OWNED).await?;
        ended
    }

    fn around<'a>(&'a self, scene: &Scene, overlays: &'a [Overlay]) -> Around<'a> {
        let deployment = scene.made.iter().find(|((kind, _), _)| *kind == Kind::Deployment).map(|(_, object)| object);
        let replicas = deployment.and_then(|d| d["spec"]["replicas"].as_i64());
        Around { values: &self.values, mesh: &self.mesh, replicas, overlays }
    }

    /// Applies a plan and takes away what is not in it. What the API server refuses for good becomes the standing, and is
    /// tried again all the same.
    async fn make(
        &self,
        scene: &Scene,
        plan: &Plan,
        after: After,
    ) -> Result<(Standing, Result<After, Trouble>), Trouble> {
        let mut now = BTreeMap::new();
        let scaled = plan.objects.iter().any(|o| Kind::of(o) == Some(Kind::Autoscaler));
        for document in &plan.objects {
            let Some(kind) = Kind::of(document) else { continue };
            let locked = scaled && kind == Kind::Deployment;
            match self.put(scene, kind, document, locked).await {
                Ok(Put::There(object)) => drop(now.insert(kind, object)),
                Ok(Put::Leftover) => {
                    let why = "objects of an earlier Gateway of this name are being removed".to_owned();
                    return Ok((Standing::Refused(why), Ok(Some(LEFTOVER))));
                }
                Ok(Put::Taken(why)) => return Ok((Standing::Refused(why.clone()), Err(Trouble::Refused(why)))),
                Err(error) if error.is_transient() || matches!(error, CallError::Conflict { .. }) => {
                    return Err(error.into());
                }
                Err(error) => return Ok((Standing::Refused(error.to_string()), Err(error.into()))),
            }
        }
        for ((kind, name), object) in &scene.made {
            let kept = plan.objects.iter().any(|o| Kind::of(o) == Some(*kind) && name_of(o).1 == *name);
            if !kept {
                self.delete(*kind, object).await?;
            }
        }
        let null = Value::Null;
        let of = |kind| now.get(&kind).unwrap_or(&null);
        let made = Made::of(of(Kind::Service), of(Kind::Deployment), &self.mesh.cluster_domain);
        Ok((Standing::Made(made), Ok(after)))
    }

    /// The Gateway went over to a class that is not ours: what we made for it goes, unless it is now Istio's, whose control
    /// plane goes on with objects of the same names.
    async fn leave(&self, scene: &Scene) -> Result<After, Trouble> {
        let controller = scene.class.as_ref().and_then(|c| c["spec"]["controllerName"].as_str());
        if controller.is_none_or(class::is_istios) {
            return Ok(None);
        }
        for ((kind, _), object) in &scene.made {
            self.delete(*kind, object).await?;
        }
        Ok(None)
    }

    async fn put(&self, scene: &Scene, kind: Kind, document: &Value, locked: bool) -> Result<Put, CallError> {
        let name = name_of(document).1;
        let mut wanted = stamped(document);
        let cached = scene.made.get(&(kind, name.clone()));
        let Some(there) = cached else {
            return match self.foreign(scene, kind, document).await? {
                Some(put) => Ok(put),
                None => Ok(Put::There(self.apply(kind, &wanted).await?)),
            };
        };
        if is_so(there, &wanted) {
            return Ok(Put::There((**there).clone()));
        }
        // With the uid, so that a namesake that somebody made meanwhile is not overwritten.
        wanted["metadata"]["uid"] = there["metadata"]["uid"].clone();
        if locked {
            // A scaler's number is only repeated when it still is the number.
            wanted["metadata"]["resourceVersion"] = there["metadata"]["resourceVersion"].clone();
        }
        Ok(Put::There(self.apply(kind, &wanted).await?))
    }

    /// Looks whether somebody else's object has the name.
    async fn foreign(&self, scene: &Scene, kind: Kind, document: &Value) -> Result<Option<Put>, CallError> {
        let (namespace, name) = name_of(document);
        let api = self.api(kind, &namespace);
        let what = format!("get {} {namespace}/{name}", kind.names().2);
        let Some(there) = call(&what, api.get_opt(&name)).await? else { return Ok(None) };
        let there = serde_json::to_value(&there).unwrap_or_default();
        let owner = owner(&there);
        let uid = &scene.gateway["metadata"]["uid"];
        if owner.is_some_and(|o| o["uid"] == *uid) {
            return Ok(None);
        }
        let earlier = owner.is_some_and(|o| o["kind"] == "Gateway" && o["name"] == scene.gateway["metadata"]["name"]);
        if earlier || there["metadata"]["deletionTimestamp"].is_string() {
            return Ok(Some(Put::Leftover));
        }
        // An account that is there already is used as it is.
        if kind == Kind::ServiceAccount {
            return Ok(Some(Put::There(there)));
        }
        Ok(Some(Put::Taken(format!(
            "{} {namespace}/{name} is there already and was not made for this Gateway; rename one of the two, or name the \
             waypoint's objects by annotation gateway.istio.io/name-override",
            kind.names().2
        ))))
    }

    async fn apply(&self, kind: Kind, document: &Value) -> Result<Value, CallError> {
        let (namespace, name) = name_of(document);
        let what = format!("apply {} {namespace}/{name}", kind.names().2);
        let params = PatchParams::apply(MANAGER).force();
        let made = call(&what, self.api(kind, &namespace).patch(&name, &params, &Patch::Apply(document))).await?;
        tracing::info!(kind = kind.names().2, namespace, name, "made or changed");
        serde_json::to_value(&made).map_err(|e| CallError::Unreadable { what, why: e.to_string() })
    }

    async fn delete(&self, kind: Kind, object: &Value) -> Result<(), CallError> {
        let (namespace, name) = name_of(object);
        let uid = object["metadata"]["uid"].as_str().map(ToOwned::to_owned);
        let only_this = Preconditions { uid, resource_version: None };
        let params = DeleteParams::background().preconditions(only_this);
        let what = format!("delete {} {namespace}/{name}", kind.names().2);
        match call(&what, self.api(kind, &namespace).delete(&name, &params)).await {
            Ok(_) => {
                tracing::info!(kind = kind.names().2, namespace, name, "deleted");
                Ok(())
            }
            // Gone, or another one by now.
            Err(CallError::NotFound { .. } | CallError::Conflict { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn say(&self, kind: Kind, object: &Value, wanted: &Wanted, owned: &[&str]) -> Result<(), Trouble> {
        let (namespace, name) = name_of(object);
        let namespace = Some(namespace).filter(|ns| !ns.is_empty());
        let target = Target { resource: kind.resource(), namespace, name, merge: Merge::ByType };
        status::write(&self.client, MANAGER, &target, wanted, owned).await?;
        Ok(())
    }

    /// What users lay over: the class's parameters, then the Gateway's.
    async fn overlays(&self, scene: &Scene, gateway: &api::Gateway) -> Result<(Vec<Overlay>, Vec<Fault>), Trouble> {
        let class: Option<api::GatewayClass> = scene.class.as_deref().map(|c| read("GatewayClass", c)).transpose()?;
        let of_class = class.and_then(|c| c.spec.parameters_ref).map(|reference| {
            let namespace = reference.namespace.clone().unwrap_or_default();
            ("the class's spec.parametersRef", reference, namespace)
        });
        let infrastructure = gateway.spec.infrastructure.as_ref();
        let own = infrastructure.and_then(|i| i.parameters_ref.clone()).map(|reference| {
            let namespace = gateway.metadata.namespace.clone().unwrap_or_default();
            ("spec.infrastructure.parametersRef", reference, namespace)
        });
        let (mut overlays, mut faults) = (Vec::new(), Vec::new());
        for (place, reference, namespace) in of_class.into_iter().chain(own) {
            match self.overlay(place, &reference, &namespace).await? {
                Ok(overlay) => overlays.push(overlay),
                Err(found) => faults.extend(found),
            }
        }
        Ok((overlays, faults))
    }

    async fn overlay(
        &self,
        place: &str,
        reference: &ParametersReference,
        namespace: &str,
    ) -> Result<Result<Overlay, Vec<Fault>>, Trouble> {
        if !reference.group.is_empty() || reference.kind != "ConfigMap" || namespace.is_empty() {
            let what = format!("{} {} is no ConfigMap in a namespace", reference.kind, reference.name);
            let remedy = "name a ConfigMap: group \"\", kind ConfigMap";
            return Ok(Err(vec![Fault::new(place, what, remedy)]));
        }
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), namespace);
        let name = format!("ConfigMap {namespace}/{}", reference.name);
        let Some(found) = call(&format!("get {name}"), api.get_opt(&reference.name)).await? else {
            let remedy = "make it, or take the reference away";
            return Ok(Err(vec![Fault::new(place, format!("there is no {name}"), remedy)]));
        };
        Ok(Overlay::read(&name, &found.data.unwrap_or_default()))
    }

    fn api(&self, kind: Kind, namespace: &str) -> Api<DynamicObject> {
        match namespace {
            "" => Api::all_with(self.client.clone(), &kind.resource()),
            namespace => Api::namespaced_with(self.client.clone(), namespace, &kind.resource()),
        }
    }
}

/// What came of making an object.
enum Put {
    /// It is there, so.
    There(Value),
    /// One of an earlier Gateway of the name is still there.
    Leftover,
    /// Somebody else has it.
    Taken(String),
}

fn read<T: serde::de::DeserializeOwned>(kind: &'static str, object: &Value) -> Result<T, Trouble> {
    T::deserialize(object).map_err(|error| Trouble::Shape(kind, error))
}

/// The document with its own digest. Without the number of pods, which a scaler changes.
fn stamped(document: &Value) -> Value {
    let mut digested = document.clone();
    if let Some(spec) = digested["spec"].as_object_mut() {
        spec.remove("replicas");
    }
    let sum = digest(&SHA256, digested.to_string().as_bytes());
    // 64 bits: two documents of one object that differ are told apart.
    let text: String = sum.as_ref().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let mut made = document.clone();
    made["metadata"]["annotations"][APPLIED] = json!(text);
    made
}

/// Whether an object is as wanted already.
fn is_so(there: &Value, wanted: &Value) -> bool {
    let mut wanted = wanted.clone();
    if let Some(map) = wanted.as_object_mut() {
        // Items of a list do not say them.
        map.remove("apiVersion");
        map.remove("kind");
    }
    holds(there, &wanted)
}

#[cfg(test)]
#[path = "hands_tests.rs"]
mod tests;
