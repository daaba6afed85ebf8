//! Our place in the node's network configuration: what to write so that the plug-in is the last of the chain, and what to
//! write so that nothing of it is left. No input or output; the files go in as texts.
//!
//! Which file counts is the runtimes' rule: the first by name that holds a configuration, of those that end in `.conflist`,
//! `.conf` or `.json` (containerd's go-cni, CRI-O's ocicni). A single plug-in (`.conf`) becomes a list of ours beside it,
//! and the original is kept under another name, because by name it would come first.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

/// Name of the plug-in: of its program and of its entry.
pub(crate) const PLUGIN: &str = "culvert-cni";

/// What the name of a configuration that we replaced by a list gets at its end.
const SAVED: &str = ".culvert-saved";

/// Our entry in the chain, as the plug-in reads it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OwnConfig {
    /// The agent's socket.
    pub(crate) socket: String,
    /// Culvert's namespace.
    pub(crate) system_namespace: String,
    /// Namespaces that are never captured.
    #[serde(default)]
    pub(crate) exclude_namespaces: Vec<String>,
    /// Time that the agent takes at most, in milliseconds.
    pub(crate) deadline_ms: u64,
}

/// One change in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// Put this text there, whole or not at all.
    Write { name: String, text: String },
    /// Move a file.
    Rename { from: String, to: String },
    /// Take a file away.
    Remove { name: String },
}

/// What to do, and how it looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In this order.
    pub(crate) steps: Vec<Step>,
    /// The file that has the plug-in once that is done; `None` = the node has no network configuration yet.
    pub(crate) file: Option<String>,
    /// What is odd.
    pub(crate) notes: Vec<String>,
}

/// Whether a file of the folder concerns us.
pub(crate) fn concerns(name: &str) -> bool {
    is_configuration(name) || name.ends_with(SAVED)
}

/// What to do so that the plug-in is the last of the chain that counts, once.
pub(crate) fn install(files: &BTreeMap<String, String>, own: &OwnConfig) -> Plan {
    let mut plan = Plan::default();
    for (name, text) in files.iter().filter(|(name, _)| is_configuration(name)) {
        match read(name, text) {
            Ok(found) => {
                chain(&mut plan, name, found, own);
                return plan;
            }
            Err(why) => plan.notes.push(format!("{name}: {why}; it is skipped, as runtimes do or fail")),
        }
    }
    plan
}

/// What to do so that nothing of the plug-in is left.
pub(crate) fn remove(files: &BTreeMap<String, String>) -> Plan {
    let mut plan = Plan::default();
    for (name, text) in files.iter().filter(|(name, _)| is_configuration(name)) {
        let Some(mut list) = serde_json::from_str(text).ok().and_then(List::of) else { continue };
        if !list.plugins.iter().any(is_ours) {
            continue;
        }
        let stem = name.trim_end_matches(".conflist");
        let originals = [format!("{stem}.conf"), format!("{stem}.json")];
        if let Some(original) = originals.into_iter().find(|o| files.contains_key(&format!("{o}{SAVED}"))) {
            // We made this list of a single plug-in.
            let saved = format!("{original}{SAVED}");
            let back = Step::Rename { from: saved.clone(), to: original.clone() };
            // One that somebody wrote anew is newer than what was kept.
            let stale = Step::Remove { name: saved };
            plan.steps.push(if files.contains_key(&original) { stale } else { back });
            plan.steps.push(Step::Remove { name: name.clone() });
            continue;
        }
        list.plugins.retain(|plugin| !is_ours(plugin));
        if list.plugins.is_empty() {
            plan.steps.push(Step::Remove { name: name.clone() });
        } else {
            plan.steps.push(Step::Write { name: name.clone(), text: list.text() });
        }
    }
    plan
}

/// A configuration.
enum Found {
    List(List),
    Single(Map<String, Value>),
}

/// A list of plug-ins, and everything else in its file.
struct List {
    rest: Map<String, Value>,
    plugins: Vec<Value>,
}

fn chain(plan: &mut Plan, name: &str, found: Found, own: &OwnConfig) {
    let ours = entry(own);
    let (file, mut list) = match found {
        Found::List(list) => (name.to_owned(), list),
        Found::Single(single) => {
            let stem = name.rsplit_once('.').map_or(name, |(stem, _)| stem);
            plan.steps.push(Step::Rename { from: name.to_owned(), to: format!("{name}{SAVED}") });
            (format!("{stem}.conflist"), List::of_one(single))
        }
    };
    let plugins = &mut list.plugins;
    let others = plugins.iter().filter(|p| !is_ours(p)).count();
    if plugins.iter().any(|p| p["type"] == "istio-cni") {
        plan.notes
            .push(format!("{file}: istio-cni is in the chain too; only one of the two should enrol pods of a node"));
    }
    let right = plan.steps.is_empty() && others + 1 == plugins.len() && plugins.last() == Some(&ours);
    if !right {
        plugins.retain(|plugin| !is_ours(plugin));
        plugins.push(ours);
        // The list is there before what it replaces goes.
        plan.steps.insert(0, Step::Write { name: file.clone(), text: list.text() });
    }
    plan.file = Some(file);
}

impl List {
    fn of(value: Value) -> Option<Self> {
        let Value::Object(mut rest) = value else { return None };
        match rest.remove("plugins") {
            Some(Value::Array(plugins)) => Some(Self { rest, plugins }),
            _ => None,
        }
    }

    /// A list of one.
    fn of_one(mut single: Map<String, Value>) -> Self {
        // These two belong to the list; libcni gives them to each plug-in of it.
        let version = single.remove("cniVersion").unwrap_or_else(|| json!("0.3.1"));
        let name = single.remove("name").unwrap_or_else(|| json!("default"));
        let rest = Map::from_iter([("cniVersion".to_owned(), version), ("name".to_owned(), name)]);
        Self { rest, plugins: vec![Value::Object(single)] }
    }

    fn text(self) -> String {
        let mut whole = self.rest;
        whole.insert("plugins".to_owned(), Value::Array(self.plugins));
        // serde_json's pretty form.
        format!("{:#}\n", Value::Object(whole))
    }
}

fn entry(own: &OwnConfig) -> Value {
    let OwnConfig { socket, system_namespace, exclude_namespaces, deadline_ms } = own;
    json!({
        "type": PLUGIN,
        "socket": socket,
        "systemNamespace": system_namespace,
        "excludeNamespaces": exclude_namespaces,
        "deadlineMs": deadline_ms,
    })
}

fn read(name: &str, text: &str) -> Result<Found, String> {
    let value: Value = serde_json::from_str(text).map_err(|e| format!("is no JSON ({e})"))?;
    let Value::Object(map) = value else { return Err("is no object".into()) };
    if !name.ends_with(".conflist") {
        // containerd refuses a list in a file of this kind.
        return if map.get("type").is_some_and(Value::is_string) {
            Ok(Found::Single(map))
        } else {
            Err("names no plug-in (type)".into())
        };
    }
    let list = List::of(Value::Object(map)).filter(|l| !l.plugins.is_empty()).ok_or("holds no plug-ins")?;
    if list.plugins.iter().any(|p| !p["type"].is_string()) {
        return Err("holds a plug-in without a type".into());
    }
    // A list of nothing but ours is what is left of one whose owner has gone.
    if list.plugins.iter().all(is_ours) { Err("holds no plug-in but ours".into()) } else { Ok(Found::List(list)) }
}

fn is_ours(plugin: &Value) -> bool {
    plugin["type"] == PLUGIN
}

fn is_configuration(name: &str) -> bool {
    let hidden = name.starts_with('.');
    !hidden && [".conflist", ".conf", ".json"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
#[path = "conflist_tests.rs"]
mod tests;
