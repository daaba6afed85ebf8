//! Laying a user's piece of an object over what we planned: Kubernetes' strategic merge, as far as the objects that we
//! make need it.
//!
//! Maps are merged key by key, and null takes a key away. A list of things that have a name is merged by that name, as
//! kubectl does it; any other list is replaced. `$patch: delete` takes a named thing, or all that is there, away, and
//! `$patch: replace` puts the patch in its place. (sig-api-machinery, "Strategic Merge Patch"; merge keys:
//! `patchMergeKey` in `k8s.io/api`.)

use serde_json::{Map, Value};

use super::fault::Fault;

/// What tells the items of a list apart, by the name of the list's field.
const KEYS: [(&str, &str); 12] = [
    ("containers", "name"),
    ("env", "name"),
    ("ephemeralContainers", "name"),
    ("hostAliases", "ip"),
    ("imagePullSecrets", "name"),
    ("initContainers", "name"),
    ("ownerReferences", "uid"),
    ("topologySpreadConstraints", "topologyKey"),
    ("volumeDevices", "devicePath"),
    ("volumeMounts", "mountPath"),
    ("volumes", "name"),
    // Of a container by containerPort, of a Service by port: see `key`.
    ("ports", "port"),
];

const DIRECTIVE: &str = "$patch";

/// Lays `patch` over `base`. `place` names the patch in faults.
///
/// # Errors
/// A directive that is not known, or a list whose items cannot be told apart.
pub(crate) fn merge(base: &mut Value, patch: &Value, place: &str) -> Result<(), Fault> {
    let (Some(into), Value::Object(from)) = (base.as_object_mut(), patch) else {
        *base = patch.clone();
        return Ok(());
    };
    merge_maps(into, from, place)
}

fn merge_maps(into: &mut Map<String, Value>, from: &Map<String, Value>, place: &str) -> Result<(), Fault> {
    match directive(from, place)? {
        Some(Directive::Delete) => into.clear(),
        Some(Directive::Replace) => {
            *into = from.iter().filter(|(key, _)| *key != DIRECTIVE).map(|(k, v)| (k.clone(), v.clone())).collect();
            return Ok(());
        }
        None => {}
    }
    for (key, value) in from.iter().filter(|(key, _)| *key != DIRECTIVE) {
        let place = format!("{place}.{key}");
        if key.starts_with('$') {
            let remedy = "write the lists out; of the directives only $patch: delete and $patch: replace are known";
            return Err(Fault::new(place, "a directive that is not known here", remedy));
        }
        match (into.get_mut(key), value) {
            (_, Value::Null) => drop(into.remove(key)),
            (Some(there @ Value::Object(_)), Value::Object(_)) => merge(there, value, &place)?,
            (Some(Value::Array(there)), Value::Array(items)) => merge_lists(key, there, items, &place)?,
            (_, Value::Object(_)) => {
                let mut made = Value::Object(Map::new());
                merge(&mut made, value, &place)?;
                into.insert(key.clone(), made);
            }
            _ => drop(into.insert(key.clone(), value.clone())),
        }
    }
    Ok(())
}

fn merge_lists(field: &str, there: &mut Vec<Value>, items: &[Value], place: &str) -> Result<(), Fault> {
    let Some(key) = key(field, there) else {
        *there = items.to_vec();
        return Ok(());
    };
    for (i, item) in items.iter().enumerate() {
        let place = format!("{place}[{i}]");
        let remedy = || format!("give {key} to each item; by it the item to change is found");
        let map = item.as_object().ok_or_else(|| Fault::new(&*place, "the item is no map", remedy()))?;
        let found = directive(map, &place)?;
        let Some(name) = map.get(key) else {
            if found == Some(Directive::Replace) {
                there.clear();
                continue;
            }
            return Err(Fault::new(place, format!("the item has no {key}"), remedy()));
        };
        let at = there.iter().position(|t| t.get(key) == Some(name));
        match (at, found) {
            (Some(at), Some(Directive::Delete)) => drop(there.remove(at)),
            (None, Some(Directive::Delete)) => {}
            (Some(at), _) => {
                if let Some(old) = there.get_mut(at) {
                    merge(old, item, &place)?;
                }
            }
            (None, _) => {
                let mut made = Value::Object(Map::new());
                merge(&mut made, item, &place)?;
                there.push(made);
            }
        }
    }
    Ok(())
}

fn key(field: &str, there: &[Value]) -> Option<&'static str> {
    let key = KEYS.iter().find(|(list, _)| *list == field).map(|(_, key)| *key)?;
    let of_container = there.iter().any(|item| item.get("containerPort").is_some());
    Some(if field == "ports" && of_container { "containerPort" } else { key })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Directive {
    Delete,
    Replace,
}

fn directive(map: &Map<String, Value>, place: &str) -> Result<Option<Directive>, Fault> {
    match map.get(DIRECTIVE).map(Value::as_str) {
        None => Ok(None),
        Some(Some("merge")) => Ok(None),
        Some(Some("delete")) => Ok(Some(Directive::Delete)),
        Some(Some("replace")) => Ok(Some(Directive::Replace)),
        Some(_) => {
            let place = format!("{place}.{DIRECTIVE}");
            Err(Fault::new(place, "not a directive that is known", "write merge, delete or replace"))
        }
    }
}

/// Whether all that `wanted` says is so in `there`, which may say more: what the API server and others add.
pub(crate) fn holds(there: &Value, wanted: &Value) -> bool {
    match (there, wanted) {
        (Value::Object(there), Value::Object(wanted)) => {
            wanted.iter().all(|(key, value)| there.get(key).is_some_and(|t| holds(t, value)))
        }
        (Value::Array(there), Value::Array(wanted)) => {
            there.len() == wanted.len() && there.iter().zip(wanted).all(|(t, w)| holds(t, w))
        }
        _ => there == wanted,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn merged(base: Value, patch: Value) -> Result<Value, String> {
        let mut made = base;
        merge(&mut made, &patch, "deployment").map(|()| made).map_err(|f| f.to_string())
    }

    #[test]
    fn pieces_are_laid_over_as_kubectl_does() {
        let two = || json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"}]}, {"name": "b"}]});
        for (base, patch, wanted) in [
            (json!({"a": 1, "b": {"c": 2}}), json!({"b": {"d": 3}}), json!({"a": 1, "b": {"c": 2, "d": 3}})),
            (json!({"a": 1, "b": 2}), json!({"a": null, "x": null}), json!({"b": 2})),
            (
                two(),
                json!({"containers": [{"name": "a", "env": [{"name": "F", "value": "2"}]}]}),
                json!({"containers": [{"name": "a", "image": "x", "env": [{"name": "E", "value": "1"},
                    {"name": "F", "value": "2"}]}, {"name": "b"}]}),
            ),
            (two(), json!({"containers": [{"name": "a", "$patch": "delete"}]}), json!({"containers": [{"name": "b"}]})),
            (
                two(),
                json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}),
                json!({"containers": [{"name": "c"}]}),
            ),
            (json!({"args": [1, 2]}), json!({"args": [3]}), json!({"args": [3]})),
            (json!({"a": {"b": 1}}), json!({"a": {"$patch": "replace", "c": 1}}), json!({"a": {"c": 1}})),
            (json!({}), json!({"a": {"b": null, "c": 1}}), json!({"a": {"c": 1}})),
            (
                json!({"ports": [{"port": 1, "name": "x"}]}),
                json!({"ports": [{"port": 1, "nodePort": 30000}]}),
                json!({"ports": [{"port": 1, "name": "x", "nodePort": 30000}]}),
            ),
            (
                json!({"ports": [{"containerPort": 1}]}),
                json!({"ports": [{"containerPort": 2}]}),
                json!({"ports": [{"containerPort": 1}, {"containerPort": 2}]}),
            ),
            (json!({"t": [{"x": 1}]}), json!({"t": [{"y": 1}]}), json!({"t": [{"y": 1}]})),
        ] {
            assert_eq!(merged(base.clone(), patch.clone()), Ok(wanted), "{base} {patch}");
        }
    }

    #[test]
    fn what_cannot_be_laid_over_is_named() {
        let base = json!({"spec": {"containers": [{"name": "a"}]}});
        for (patch, named) in [
            (json!({"spec": {"containers": [{"image": "x"}]}}), "deployment.spec.containers[0]: the item has no name"),
            (json!({"spec": {"containers": ["x"]}}), "the item is no map"),
            (json!({"spec": {"$setElementOrder/containers": []}}), "$setElementOrder/containers: a directive"),
            (json!({"spec": {"$patch": "move"}}), "deployment.spec.$patch"),
        ] {
            let told = merged(base.clone(), patch.clone()).unwrap_err();
            assert!(told.contains(named), "{patch}: {told}");
        }
    }

    #[test]
    fn what_others_add_does_not_count() {
        let there = json!({"a": 1, "b": {"c": 2, "d": 3}, "l": [{"x": 1, "y": 2}]});
        assert!(holds(&there, &json!({"b": {"c": 2}, "l": [{"x": 1}]})));
        for missing in [json!({"a": 2}), json!({"z": 1}), json!({"l": []}), json!({"l": [{"x": 2}]}), json!({"b": 1})] {
            assert!(!holds(&there, &missing), "{missing}");
        }
    }
}
