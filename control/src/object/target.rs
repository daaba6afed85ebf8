//! What policies are attached to (waypoint-api.md 4, table "targetRefs").

use kubernetes::object::TargetReference;

use super::{Faults, Key, Kind, shown};

/// Reads `targetRefs`, or `targetRef` where that is empty. What is wrong is left out and noted.
pub(crate) fn targets(
    list: &[TargetReference],
    single: Option<&TargetReference>,
    namespace: &str,
    root: bool,
    faults: &mut Faults,
) -> Vec<Key> {
    let mut found = Vec::new();
    let named = |i: usize| if list.is_empty() { "spec.targetRef".to_owned() } else { format!("spec.targetRefs[{i}]") };
    let all = list.iter().chain(single.filter(|_| list.is_empty()));
    for (i, target) in all.enumerate() {
        let group = target.group.as_deref().unwrap_or_default();
        let kind = match (group, target.kind.as_str()) {
            ("" | "core", "Service") => Kind::Service,
            ("networking.istio.io", "ServiceEntry") => Kind::ServiceEntry,
            ("gateway.networking.k8s.io", "Gateway") => Kind::Gateway,
            ("gateway.networking.k8s.io", "GatewayClass") => Kind::GatewayClass,
            (group, kind) => {
                let what = format!("{} of group {} cannot be a target", shown(kind), shown(group));
                faults.add(named(i), what, "name a Service, ServiceEntry, Gateway or GatewayClass");
                continue;
            }
        };
        if target.namespace.as_deref().is_some_and(|ns| !ns.is_empty() && ns != namespace) {
            let what = "is in another namespace, so it is left out";
            faults.add(format!("{}.namespace", named(i)), what, "write the policy in the namespace of its target");
            continue;
        }
        if kind == Kind::GatewayClass && !root {
            let what = "a GatewayClass can be the target of a policy in the root namespace only, so it is left out";
            faults.add(named(i), what, "write the policy in the root namespace, or name a Gateway");
            continue;
        }
        let namespace = if kind == Kind::GatewayClass { "" } else { namespace };
        let key = Key::new(kind, namespace, target.name.as_str());
        if !found.contains(&key) {
            found.push(key);
        }
    }
    found
}
