//! What a controller says of each parent of a route, or of each ancestor of a policy (gateway-api.md 6).
//!
//! The list belongs to all controllers together and has no keys, so that a server-side apply would wipe out what others say.
//! It is read, our entries in it are replaced, and it is written back only if nobody wrote meanwhile (`resourceVersion`).

use k8s_openapi::jiff::Timestamp;
use kube::Client;
use kube::api::{Api, DynamicObject, Patch, PatchParams};
use serde_json::{Value, json};

use super::{Condition, StatusError, Target, Written, entries, failed};
use crate::client::{self, CallError};
use crate::object::route::ParentReference;

/// Attempts against others who write at the same time; each needs one more of them to lose again.
const ATTEMPTS: usize = 5;

/// Names of the list in the status, and of the reference in its entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum List {
    /// `status.ancestors[].ancestorRef` of a policy.
    Ancestors,
    /// `status.parents[].parentRef` of a route.
    Parents,
}

impl List {
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Ancestors => ("ancestors", "ancestorRef"),
            Self::Parents => ("parents", "parentRef"),
        }
    }

    /// Entries that there may be at most (the definitions of the Gateway API).
    fn most(self) -> usize {
        match self {
            Self::Ancestors => 16,
            Self::Parents => 32,
        }
    }
}

/// What is said of one parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The parent as the object writes it.
    pub reference: ParentReference,
    /// Conditions.
    pub conditions: Vec<Condition>,
}

/// Everything that a controller says of the parents of one object. It replaces what the controller said before.
#[derive(Clone, Debug, PartialEq)]
pub struct AllSaid {
    /// Who says it, `domain/path`.
    pub controller: &'static str,
    /// Which list.
    pub list: List,
    /// Every condition type that the controller ever writes; others in its entries are left alone.
    pub owned: &'static [&'static str],
    /// Uid of the object that was judged.
    pub uid: String,
    /// Generation that was judged.
    pub generation: i64,
    /// One for each parent.
    pub entries: Vec<Said>,
}

/// The list as it should be; `None` when it is so already, or when it was made from a newer generation than ours.
///
/// Entries of other controllers stay as they are and where they are; in ours, conditions that are not of our types stay.
pub fn merged(object: &Value, all: &AllSaid, now: Timestamp) -> Option<Vec<Value>> {
    let (list, reference) = all.list.names();
    let there: Vec<Value> = object["status"][list].as_array().cloned().unwrap_or_default();
    let is_ours = |e: &Value| e["controllerName"] == all.controller;
    let observed = |e: &Value| {
        let conditions = e["conditions"].as_array().into_iter().flatten();
        conditions.filter_map(|c| c["observedGeneration"].as_i64()).max().unwrap_or_default()
    };
    if there.iter().filter(|e| is_ours(e)).any(|e| observed(e) > all.generation) {
        return None;
    }
    let mut made: Vec<Value> = there.iter().filter(|e| !is_ours(e)).cloned().collect();
    for said in &all.entries {
        let written = json!(said.reference);
        let old = there.iter().find(|e| is_ours(e) && e[reference] == written);
        let before = old.and_then(|e| e["conditions"].as_array()).cloned().unwrap_or_default();
        let owned = |c: &&Value| c["type"].as_str().is_some_and(|t| all.owned.contains(&t));
        let foreign: Vec<Value> = before.iter().filter(|c| !owned(c)).cloned().collect();
        let conditions: Vec<Value> =
            entries(&said.conditions, &before, all.generation, now).into_iter().chain(foreign).collect();
        if made.len() < all.list.most() {
            made.push(json!({ reference: written, "controllerName": all.controller, "conditions": conditions }));
        }
    }
    let same = made.len() == there.len() && made.iter().all(|e| there.contains(e));
    (!same).then_some(made)
}

/// Makes an object say it. An object of another uid is not touched.
///
/// # Errors
/// When the API server cannot be asked or refuses, or when others write all the time. Writing again does no harm.
pub async fn write_parents(client: &Client, target: &Target, all: &AllSaid) -> Result<Written, StatusError> {
    let api: Api<DynamicObject> = match &target.namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &target.resource),
        None => Api::all_with(client.clone(), &target.resource),
    };
    let mut attempt = 1;
    loop {
        let what = format!("get {target}");
        let found = client::call(&what, api.get_opt(&target.name)).await.map_err(|e| failed(target, e))?;
        let Some(object) = found.filter(|o| o.metadata.uid.as_deref() == Some(&all.uid)) else {
            return Ok(Written::Gone);
        };
        let version = object.metadata.resource_version.clone();
        let unreadable = |e: serde_json::Error| CallError::Unreadable { what: what.clone(), why: e.to_string() };
        let object = serde_json::to_value(&object).map_err(|e| failed(target, unreadable(e)))?;
        let Some(list) = merged(&object, all, Timestamp::now()) else { return Ok(Written::Same) };
        let document = json!({
            "metadata": { "resourceVersion": version, "uid": all.uid },
            "status": { all.list.names().0: list },
        });
        let what = format!("patch the status of {target}");
        let patch = Patch::Merge(&document);
        match client::call(&what, api.patch_status(&target.name, &PatchParams::default(), &patch)).await {
            Ok(_) => return Ok(Written::Applied),
            Err(CallError::NotFound { .. }) => return Ok(Written::Gone),
            Err(CallError::Conflict { .. }) if attempt < ATTEMPTS => attempt += 1,
            Err(error) => return Err(failed(target, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Truth;

    const OURS: &str = "culvert.dev/mesh-controller";

    fn all(names: &[&str], generation: i64) -> AllSaid {
        let said = |name: &&str| Said {
            reference: ParentReference { name: (*name).to_owned(), ..ParentReference::default() },
            conditions: vec![Condition {
                kind: "Accepted".to_owned(),
                truth: Truth::True,
                reason: "Accepted".to_owned(),
                message: "yes".to_owned(),
            }],
        };
        let entries = names.iter().map(said).collect();
        let owned = &["Accepted", "ResolvedRefs"];
        AllSaid { controller: OURS, list: List::Parents, owned, uid: "u".to_owned(), generation, entries }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    fn with(list: &[Value]) -> Value {
        json!({ "status": { "parents": list } })
    }

    #[test]
    fn entries_of_others_stay_and_ours_are_replaced() {
        let foreign =
            json!({"parentRef": {"name": "gw"}, "controllerName": "example.com/gw", "conditions": [{"type": "X"}]});
        let first = merged(&with(std::slice::from_ref(&foreign)), &all(&["a", "b"], 3), at(10)).unwrap();
        assert_eq!(first.len(), 3);
        assert_eq!(first[0], foreign);
        assert_eq!(first[1]["parentRef"], json!({"name": "a"}));
        assert_eq!(first[1]["conditions"][0]["observedGeneration"], 3);
        // Said again, it is the same, whatever the time and the order.
        let turned: Vec<Value> = first.iter().rev().cloned().collect();
        assert_eq!(merged(&with(&first), &all(&["a", "b"], 3), at(20)), None);
        assert_eq!(merged(&with(&turned), &all(&["a", "b"], 3), at(20)), None);
        // A parent that is gone takes its entry along; what stays keeps its time.
        let second = merged(&with(&first), &all(&["b"], 4), at(30)).unwrap();
        assert_eq!(second.len(), 2);
        assert_eq!(second[1]["conditions"][0]["lastTransitionTime"], first[2]["conditions"][0]["lastTransitionTime"]);
        assert_eq!(second[1]["conditions"][0]["observedGeneration"], 4);
        let mut shared = second.clone();
        let mine = shared[1]["conditions"].as_array_mut().unwrap();
        mine.push(json!({"type": "example.com/Seen", "status": "True"}));
        mine.push(json!({"type": "ResolvedRefs", "status": "True"}));
        let third = merged(&with(&shared), &all(&["b"], 4), at(35)).unwrap();
        let types: Vec<&str> =
            third[1]["conditions"].as_array().unwrap().iter().map(|c| c["type"].as_str().unwrap()).collect();
        assert_eq!(types, ["Accepted", "example.com/Seen"]);
        let none = merged(&with(&second), &all(&[], 4), at(40)).unwrap();
        assert_eq!(none, [foreign]);
    }

    #[test]
    fn what_a_newer_generation_said_is_not_taken_back() {
        let newer = merged(&json!({}), &all(&["a"], 5), at(10)).unwrap();
        assert_eq!(merged(&with(&newer), &all(&["b"], 4), at(20)), None);
        assert!(merged(&with(&newer), &all(&["b"], 5), at(20)).is_some());
    }

    #[test]
    fn the_list_never_grows_beyond_its_bound() {
        let names: Vec<String> = (0..40).map(|i| format!("p{i}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(merged(&json!({}), &all(&names, 1), at(1)).unwrap().len(), 32);
    }
}
