//! Objects that are wrong in every field: they stop nobody, and messages stay short.

use control::policies::{AuthorizationPolicy, NetworkPolicy, PeerAuthentication, Policies};
use k8s_openapi::api::networking::v1 as networking;
use kubernetes::object::security as api;
use serde_json::json;

use super::{authorization, told};

/// More than any field may hold.
fn long() -> String {
    "x".repeat(1 << 20)
}

#[test]
fn a_mebibyte_in_any_place_stays_out_of_the_message() {
    let many: Vec<String> = (0..5000).map(|i| format!("{}{i}", "y".repeat(100))).collect();
    let annotations = json!({ "a": long(), "istio.io/dry-run": long() });
    let metadata = json!({ "namespace": "shop", "name": "p", "annotations": annotations, "labels": { "l": long() } });
    let object: api::AuthorizationPolicy = serde_json::from_value(json!({
        "metadata": metadata,
        "spec": {
            "selector": { "matchLabels": { (long()): "*" } },
            "action": "DENY",
            "rules": [{
                "from": [{ "source": { "ipBlocks": many, "principals": ["", long()], "serviceAccounts": [long() + "/*"] } }],
                "to": [{ "operation": { "ports": many, "paths": [long()] } }],
                "when": [{ "key": long(), "values": many }],
            }],
        },
    }))
    .unwrap();
    let policy = AuthorizationPolicy::from(&object);
    let message = policy.condition().unwrap().message;
    assert!(message.len() < 8192, "{}", message.len());
    assert!(message.contains("more"), "the rest is counted: {message}");

    let object: api::AuthorizationPolicy =
        serde_json::from_value(json!({ "metadata": metadata, "spec": { "action": long() } })).unwrap();
    assert!(AuthorizationPolicy::from(&object).condition().unwrap().message.len() < 1024);
    let object: api::PeerAuthentication = serde_json::from_value(json!({
        "metadata": metadata,
        "spec": { "mtls": { "mode": long() }, "portLevelMtls": { (long()): { "mode": long() } } },
    }))
    .unwrap();
    assert!(PeerAuthentication::from(&object).condition().unwrap().message.len() < 1024);
    let object: networking::NetworkPolicy = serde_json::from_value(json!({
        "metadata": metadata,
        "spec": {
            "podSelector": { "matchExpressions": [{ "key": long(), "operator": long() }] },
            "policyTypes": [long()],
            "ingress": [{ "from": [{ "ipBlock": { "cidr": long(), "except": many } }], "ports": [{ "port": long(), "protocol": long() }] }],
        },
    }))
    .unwrap();
    assert!(NetworkPolicy::from(&object).faults.to_string().len() < 8192);
}

#[test]
fn policies_with_nothing_in_them_are_read() {
    let mut all = Policies::new("root");
    let empty = json!({ "metadata": {} });
    all.set_authorization_policy(AuthorizationPolicy::from(&serde_json::from_value(empty.clone()).unwrap()));
    all.set_peer_authentication(PeerAuthentication::from(&serde_json::from_value(empty.clone()).unwrap()));
    all.set_network_policy(NetworkPolicy::from(&serde_json::from_value::<networking::NetworkPolicy>(empty).unwrap()));
    all.set_authorization_policy(authorization("shop/good", "{rules: [{}]}"));
    assert_eq!(told(&all.resource("shop/good").unwrap()), "ALLOW namespace: always");
}

#[test]
fn a_mesh_of_broken_policies_still_translates_the_good_one() {
    let mut all = Policies::new("root");
    for (i, rule) in
        ["{from: [{source: {ipBlocks: ['']}}]}", "{to: [{operation: {ports: ['-1']}}]}", "{when: [{key: ''}]}"]
            .iter()
            .enumerate()
    {
        for action in ["ALLOW", "DENY", "AUDIT", "nothing"] {
            let key = format!("shop/{i}-{}", action.to_lowercase());
            let policy = authorization(&key, &format!("{{action: {action}, rules: [{rule}]}}"));
            let condition = policy.condition().unwrap();
            assert_eq!(condition.reason, "UnsupportedValue", "{key}");
            assert!(condition.message.contains("spec."), "{key}: {}", condition.message);
            all.set_authorization_policy(policy);
        }
    }
    let good =
        "{selector: {matchLabels: {app: web}}, rules: [{from: [{source: {principals: [other.example/ns/a/sa/b]}}]}]}";
    all.set_authorization_policy(authorization("shop/good", good));
    assert_eq!(told(&all.resource("shop/good").unwrap()), "ALLOW selector: principal other.example/ns/a/sa/b");
}
