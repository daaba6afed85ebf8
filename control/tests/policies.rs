//! AuthorizationPolicies and PeerAuthentications: objects in, resources, names and conditions out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "policies/authorization.rs"]
mod authorization;
#[path = "policies/hostile.rs"]
mod hostile;
#[path = "policies/never_weaker.rs"]
mod never_weaker;
#[path = "policies/peer.rs"]
mod peer;

use control::object::Labels;
use control::policies::{AuthorizationPolicy, PeerAuthentication};
use kubernetes::object::security as api;
use mesh::authz::{Action, Authorization, Match, Rule, Scope};
use serde_json::{Value, json};

/// Labels from `a=b c=d`.
fn labels(text: &str) -> Labels {
    Labels::new(text.split_whitespace().map(|p| p.split_once('=').unwrap()))
}

/// Metadata from `namespace/name`, or `namespace/name@seconds` with an age.
fn metadata(key: &str) -> Value {
    let (key, age) = key.split_once('@').unwrap_or((key, "0"));
    let (namespace, name) = key.split_once('/').unwrap();
    let created = format!("2026-01-01T00:00:{age:0>2}Z");
    json!({ "namespace": namespace, "name": name, "generation": 1, "creationTimestamp": created })
}

fn authorization(key: &str, spec: &str) -> AuthorizationPolicy {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    let object: api::AuthorizationPolicy =
        serde_json::from_value(json!({ "metadata": metadata(key), "spec": spec })).unwrap();
    AuthorizationPolicy::from(&object)
}

fn peer(key: &str, spec: &str) -> PeerAuthentication {
    let spec: Value = serde_saphyr::from_str(spec).unwrap();
    let object: api::PeerAuthentication =
        serde_json::from_value(json!({ "metadata": metadata(key), "spec": spec })).unwrap();
    PeerAuthentication::from(&object)
}

/// A resource in one line: `DENY namespace: ports 80 & principals a | principals b; always`.
fn told(resource: &Authorization) -> String {
    let action = match resource.action {
        Action::Allow => "ALLOW",
        Action::Deny => "DENY",
    };
    let scope = match resource.scope {
        Scope::Global => "global",
        Scope::Namespace => "namespace",
        Scope::WorkloadSelector => "selector",
    };
    let dry = if resource.dry_run { " (dry run)" } else { "" };
    let rules: Vec<String> = resource.rules.iter().map(rule).collect();
    let rules = if rules.is_empty() { "never".to_owned() } else { rules.join("; ") };
    format!("{action} {scope}{dry}: {rules}")
}

fn rule(rule: &Rule) -> String {
    let clause = |c: &mesh::authz::Clause| {
        assert!(!c.matches.is_empty(), "a clause without matches is true on the wire, and none is meant to be");
        c.matches.iter().map(one).collect::<Vec<_>>().join(" | ")
    };
    let clauses: Vec<String> = rule.clauses.iter().map(clause).collect();
    if clauses.is_empty() { "always".to_owned() } else { clauses.join(" & ") }
}

fn one(m: &Match) -> String {
    assert_ne!(*m, Match::default(), "an empty match matches nothing on the wire, and none is meant to be");
    fn list<T: std::fmt::Display>(name: &str, values: &[T]) -> Option<String> {
        let values: Vec<String> = values.iter().map(ToString::to_string).collect();
        (!values.is_empty()).then(|| format!("{name} {}", values.join(",")))
    }
    let kinds = [
        list("ns", &m.namespaces),
        list("!ns", &m.not_namespaces),
        list("principal", &m.principals),
        list("!principal", &m.not_principals),
        list("sa", &m.service_accounts),
        list("!sa", &m.not_service_accounts),
        list("from", &m.source_ips),
        list("!from", &m.not_source_ips),
        list("to", &m.destination_ips),
        list("!to", &m.not_destination_ips),
        list("port", &m.destination_ports),
        list("!port", &m.not_destination_ports),
    ];
    kinds.into_iter().flatten().collect::<Vec<_>>().join(" ")
}
