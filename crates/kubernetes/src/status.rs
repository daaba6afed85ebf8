//! Conditions: what a component says of an object in its `status`.
//!
//! [`patch`] is the whole decision, without I/O: what is there and what is wanted go in, the document of a server-side
//! apply comes out, or nothing when nothing would change. [`write()`] reads the object, asks `patch`, and applies.
//! Rules: Kubernetes API conventions, "Typical status properties" (a condition's `lastTransitionTime` moves only with its
//! `status`; `observedGeneration` is the generation that was judged).

mod parents;

use std::fmt;

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use crate::client::{self, CallError};

pub use parents::{AllSaid, List, Said, merged, write_parents};

/// Bytes of a message at most: the bound of `metav1.Condition.message`, which Gateway API and Service enforce.
pub const MAX_MESSAGE: usize = 32_768;

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Truth {
    /// It holds.
    True,
    /// It does not.
    False,
    /// It cannot be told.
    Unknown,
}

/// What is wanted to be said.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Condition {
    /// The type, such as `culvert.dev/WaypointBound`.
    pub kind: String,
    /// Whether it holds.
    pub truth: Truth,
    /// One word in CamelCase.
    pub reason: String,
    /// A sentence for people: what is so, and the remedy.
    pub message: String,
}

/// How an API server merges the conditions of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Merge {
    /// By type (`x-kubernetes-list-type: map`): everybody sends only what is theirs. Kubernetes' own kinds, Gateway API.
    ByType,
    /// Not at all: the list is one value, so that others' conditions must be sent along or are lost. Istio's kinds, whose
    /// schema gives the list no keys.
    Whole,
}

/// Everything that a component says in the status of one object. It replaces what the component said before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Wanted {
    /// Uid of the object that was judged; a later object of the same name is not meant.
    pub uid: String,
    /// Generation that was judged; 0 for kinds that have none.
    pub generation: i64,
    /// Conditions.
    pub conditions: Vec<Condition>,
    /// Further fields of the status and their values; `None` takes one off.
    pub fields: Vec<(&'static str, Option<Value>)>,
}

/// An object whose status is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its kind.
    pub resource: ApiResource,
    /// Its namespace; `None` for kinds without.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// How its conditions are merged.
    pub merge: Merge,
}

/// A status could not be written. Worth another try in any case: rights and objects change.
#[derive(Debug, thiserror::Error)]
#[error("status of {target} not written: {source}")]
pub struct StatusError {
    /// Which object.
    pub target: String,
    /// What the API server said, and what to do.
    pub source: CallError,
}

/// What came of writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It says so now.
    Applied,
    /// It said so already.
    Same,
    /// There is no such object any more.
    Gone,
}

impl Truth {
    /// As the wire spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::True => "True",
            Self::False => "False",
            Self::Unknown => "Unknown",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ", self.resource.kind)?;
        self.namespace.as_ref().map_or(Ok(()), |namespace| write!(f, "{namespace}/"))?;
        f.write_str(&self.name)
    }
}

/// The document to apply so that an object says `wanted`, or `None` when it does already.
///
/// `owned` lists every condition type that the component ever writes: one that is there and not wanted any more is taken
/// away. `object` is the object as it is now, and `now` the time of a change.
pub fn patch(target: &Target, object: &Value, wanted: &Wanted, owned: &[&str], now: Timestamp) -> Option<Value> {
    let there: Vec<&Value> =
        object.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten().collect();
    let kind = |condition: &Value| condition["type"].as_str().unwrap_or_default().to_owned();
    let of_type = |wanted: &Condition| there.iter().find(|c| kind(c) == wanted.kind).copied();
    let is_wanted = |condition: &Value| wanted.conditions.iter().any(|w| w.kind == kind(condition));
    let is_owned = |condition: &Value| owned.contains(&kind(condition).as_str());

    let ours: Vec<Value> = wanted.conditions.iter().map(|w| entry(w, of_type(w), wanted.generation, now)).collect();
    let changed = wanted.conditions.iter().zip(&ours).any(|(w, new)| of_type(w) != Some(new));
    let stale = there.iter().any(|c| is_owned(c) && !is_wanted(c));
    let moved = wanted.fields.iter().any(|(name, value)| {
        object.pointer(&format!("/status/{name}")).filter(|there| !is_empty(there)) != value.as_ref()
    });
    if !changed && !stale && !moved {
        return None;
    }
    let foreign = there.iter().filter(|c| target.merge == Merge::Whole && !is_owned(c) && !is_wanted(c));
    let conditions: Vec<Value> = foreign.map(|c| (*c).clone()).chain(ours).collect();
    let mut status = serde_json::Map::from_iter([("conditions".to_owned(), Value::Array(conditions))]);
    let fields = wanted.fields.iter().filter_map(|(name, value)| Some(((*name).to_owned(), value.clone()?)));
    status.extend(fields);
    // With the uid, a namesake that was made meanwhile is refused and not given the other's status.
    let mut metadata = json!({ "name": target.name, "uid": wanted.uid });
    if let Some(namespace) = &target.namespace {
        metadata["namespace"] = json!(namespace);
    }
    let (version, kind) = (&target.resource.api_version, &target.resource.kind);
    Some(json!({ "apiVersion": version, "kind": kind, "metadata": metadata, "status": status }))
}

/// Conditions as they stand in a status, for lists of them that are not `status.conditions`: those of a listener or of a
/// route's parent. `there` is the list as it is: what has the same status keeps its time.
pub fn entries(wanted: &[Condition], there: &[Value], generation: i64, now: Timestamp) -> Vec<Value> {
    let of_type = |w: &Condition| there.iter().find(|c| c["type"] == *w.kind);
    wanted.iter().map(|w| entry(w, of_type(w), generation, now)).collect()
}

/// Whether a field is as good as not there.
fn is_empty(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

fn entry(wanted: &Condition, there: Option<&Value>, generation: i64, now: Timestamp) -> Value {
    let same_status = there.filter(|c| c["status"] == wanted.truth.as_str());
    let since = same_status.and_then(|c| c["lastTransitionTime"].as_str()).filter(|time| !time.is_empty());
    // To the second, as Kubernetes writes metav1.Time.
    let since = since.map_or_else(|| now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(), ToOwned::to_owned);
    let mut made = json!({
        "type": wanted.kind,
        "status": wanted.truth.as_str(),
        "reason": wanted.reason,
        "message": bounded(&wanted.message),
        "lastTransitionTime": since,
    });
    if generation != 0 {
        made["observedGeneration"] = json!(generation);
    }
    made
}

fn bounded(message: &str) -> &str {
    if message.len() <= MAX_MESSAGE {
        return message;
    }
    let end = (0..=MAX_MESSAGE).rev().find(|at| message.is_char_boundary(*at)).unwrap_or(0);
    &message[..end]
}

/// Makes an object say `wanted`. `manager` is the field manager, `culvert-<component>`. An object of another uid is not
/// touched.
///
/// # Errors
/// When the API server cannot be asked or refuses. Writing again does no harm.
pub async fn write(
    client: &Client,
    manager: &str,
    target: &Target,
    wanted: &Wanted,
    owned: &[&str],
) -> Result<Written, StatusError> {
    let api: Api<DynamicObject> = match &target.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &target.resource),
        None => Api::all_with(client.clone(), &target.resource),
    };
    let what = format!("get {target}");
    let found = client::call(&what, api.get_opt(&target.name)).await.map_err(|e| failed(target, e))?;
    let Some(object) = found.filter(|o| o.metadata.uid.as_deref() == Some(&wanted.uid)) else {
        return Ok(Written::Gone);
    };
    let unreadable = |e: serde_json::Error| CallError::Unreadable { what: what.clone(), why: e.to_string() };
    let object = serde_json::to_value(&object).map_err(|e| failed(target, unreadable(e)))?;
    let Some(document) = patch(target, &object, wanted, owned, Timestamp::now()) else { return Ok(Written::Same) };
    // Forced: the fields are ours by their type, whoever wrote them before.
    let params = PatchParams::apply(manager).force();
    let what = format!("patch the status of {target}");
    match client::call(&what, api.patch_status(&target.name, &params, &Patch::Apply(&document))).await {
        Ok(_) => Ok(Written::Applied),
        Err(CallError::NotFound { .. }) => Ok(Written::Gone),
        Err(error) => Err(failed(target, error)),
    }
}

fn failed(target: &Target, source: CallError) -> StatusError {
    StatusError { target: target.to_string(), source }
}

#[cfg(test)]
#[path = "status_tests.rs"]
mod tests;
