//! The table of discovery.md 4, row by row, and where control is stricter.

use control::policies::Policies;
use kubernetes::object::security as api;
use serde_json::json;

use super::{authorization, labels, told};

/// What becomes of rules: the resource, and the condition as `True Accepted` or `False UnsupportedValue`.
fn lowered(spec: &str) -> (Option<String>, Option<String>) {
    let policy = authorization("shop/p", spec);
    let condition = policy.condition().map(|c| format!("{} {}", if c.status { "True" } else { "False" }, c.reason));
    (policy.resource("root").as_ref().map(told), condition)
}

#[test]
fn what_l4_sees_is_sent_as_it_is() {
    for (spec, want) in [
        ("{}", "ALLOW namespace: never"),
        ("{action: ALLOW, rules: [{}]}", "ALLOW namespace: always"),
        ("{action: DENY, rules: [{}]}", "DENY namespace: always"),
        ("{action: DENY}", "DENY namespace: never"),
        ("{selector: {matchLabels: {app: web}}, rules: [{}]}", "ALLOW selector: always"),
        ("{selector: {matchLabels: {}}, rules: [{}]}", "ALLOW namespace: always"),
        (
            "{rules: [{from: [{source: {principals: ['*', 'a/*', '*/b', c]}}]}]}",
            "ALLOW namespace: principal *,a/*,*/b,c",
        ),
        (
            "{rules: [{from: [{source: {notPrincipals: [other.example/ns/a/sa/b]}}]}]}",
            "ALLOW namespace: !principal other.example/ns/a/sa/b",
        ),
        ("{rules: [{from: [{source: {namespaces: [a], notNamespaces: [b]}}]}]}", "ALLOW namespace: ns a !ns b"),
        (
            "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/8, 10.1.2.3], notIpBlocks: ['fd00::/8']}}]}]}",
            "ALLOW namespace: from 10.0.0.0/8,10.1.2.3/32 !from fd00::/8",
        ),
        (
            "{rules: [{from: [{source: {serviceAccounts: [batch, ops/prom], notServiceAccounts: [ops/x]}}]}]}",
            "ALLOW namespace: sa shop/batch,ops/prom !sa ops/x",
        ),
        (
            "{rules: [{from: [{source: {trustDomains: [cluster.local, 'a*', '*']}}]}]}",
            "ALLOW namespace: principal cluster.local/*,a*,*",
        ),
        (
            "{rules: [{from: [{source: {notTrustDomains: [x], notPrincipals: [q]}}]}]}",
            "ALLOW namespace: !principal q,x/*",
        ),
        (
            "{rules: [{to: [{operation: {ports: ['80', '443'], notPorts: ['1']}}]}]}",
            "ALLOW namespace: port 80,443 !port 1",
        ),
        // to, from, each when: in this order. Entries of a list are alternatives.
        (
            "{rules: [{from: [{source: {namespaces: [a]}}, {source: {namespaces: [b]}}], to: [{operation: {ports: ['80']}}], \
          when: [{key: source.ip, values: [10.0.0.1]}, {key: destination.port, notValues: ['81']}]}]}",
            "ALLOW namespace: port 80 & ns a | ns b & from 10.0.0.1/32 & !port 81",
        ),
        (
            "{rules: [{when: [{key: source.namespace, values: [a], notValues: [b]}, {key: source.principal, values: ['*']}, \
          {key: destination.ip, values: [10.0.0.9], notValues: [10.0.0.8]}]}]}",
            "ALLOW namespace: ns a !ns b & principal * & to 10.0.0.9/32 !to 10.0.0.8/32",
        ),
        (
            "{action: DENY, rules: [{from: [{source: {namespaces: [a]}}]}, {to: [{operation: {ports: ['22']}}]}]}",
            "DENY namespace: ns a; port 22",
        ),
    ] {
        assert_eq!(lowered(spec), (Some(want.into()), Some("True Accepted".into())), "{spec}");
    }
}

#[test]
fn what_l4_cannot_see_makes_an_allow_smaller() {
    for (spec, want) in [
        ("{rules: [{to: [{operation: {paths: [/a]}}]}]}", "ALLOW namespace: never"),
        ("{rules: [{to: [{operation: {methods: [GET], ports: ['80']}}]}]}", "ALLOW namespace: never"),
        (
            "{rules: [{from: [{source: {requestPrincipals: ['*']}}]}, {from: [{source: {namespaces: [a]}}]}]}",
            "ALLOW namespace: ns a",
        ),
        (
            "{rules: [{from: [{source: {remoteIpBlocks: [10.0.0.0/8]}}, {source: {namespaces: [a]}}]}]}",
            "ALLOW namespace: never",
        ),
        ("{rules: [{when: [{key: 'request.headers[x]', values: [q]}]}]}", "ALLOW namespace: never"),
        (
            "{rules: [{when: [{key: connection.sni, values: [q]}], from: [{source: {namespaces: [a]}}]}]}",
            "ALLOW namespace: never",
        ),
        // What cannot be read, likewise.
        ("{rules: [{to: [{operation: {ports: ['0', '80', http, '65536', '']}}]}]}", "ALLOW namespace: port 80"),
        ("{rules: [{to: [{operation: {ports: ['0']}}]}]}", "ALLOW namespace: never"),
        ("{rules: [{to: [{operation: {ports: ['80'], notPorts: [x]}}]}]}", "ALLOW namespace: never"),
        (
            "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}, {source: {namespaces: [a]}}]}]}",
            "ALLOW namespace: ns a",
        ),
        ("{rules: [{from: [{source: {notIpBlocks: [x, 10.0.0.0/8]}}]}]}", "ALLOW namespace: never"),
        ("{rules: [{from: [{source: {namespaces: ['']}}]}]}", "ALLOW namespace: never"),
        (
            "{rules: [{from: [{source: {serviceAccounts: ['*', 'a/b/c', '/x', 'x/', ok]}}]}]}",
            "ALLOW namespace: sa shop/ok",
        ),
        (
            "{rules: [{from: [{source: {principals: ['spiffe://td/ns/a/sa/b']}}]}]}",
            "ALLOW namespace: principal spiffe://td/ns/a/sa/b",
        ),
        ("{rules: [{from: [{source: {trustDomains: ['*.example'], principals: [x]}}]}]}", "ALLOW namespace: never"),
        ("{rules: [{from: [{}]}]}", "ALLOW namespace: never"),
        ("{rules: [{from: [{source: {}}, {source: {namespaces: [a]}}]}]}", "ALLOW namespace: ns a"),
        ("{rules: [{to: [{operation: {}}], from: [{source: {namespaces: [a]}}]}]}", "ALLOW namespace: never"),
        ("{rules: [{when: [{key: source.ip}]}]}", "ALLOW namespace: never"),
    ] {
        assert_eq!(lowered(spec), (Some(want.into()), Some("True UnsupportedValue".into())), "{spec}");
    }
}

#[test]
fn a_deny_denies_on_what_l4_sees_of_it() {
    for (spec, want) in [
        // As Istio's wire has it: a match that keeps a field applies.
        ("{to: [{operation: {ports: ['80'], paths: [/admin]}}]}", "port 80"),
        // Where Istio's disarms: a match that is left empty takes nothing away.
        ("{from: [{source: {principals: [x]}}], to: [{operation: {paths: [/admin]}}]}", "principal x"),
        ("{from: [{source: {principals: [x]}}], when: [{key: 'request.headers[a]', values: [b]}]}", "principal x"),
        ("{from: [{source: {principals: [x], requestPrincipals: [q]}}]}", "principal x"),
        (
            "{from: [{source: {principals: [x]}}], to: [{operation: {paths: [/a]}}, {operation: {ports: ['80']}}]}",
            "principal x",
        ),
        // Every part may be open: each part by itself is an alternative.
        (
            "{from: [{source: {requestPrincipals: [q]}}, {source: {namespaces: [a]}}], \
          to: [{operation: {hosts: [h]}}, {operation: {ports: ['80']}}]}",
            "port 80; ns a",
        ),
        ("{to: [{operation: {methods: [GET]}}, {operation: {ports: ['80']}}]}", "port 80"),
        (
            "{from: [{source: {namespaces: [a]}}], to: [{operation: {hosts: [h]}}, {operation: {ports: ['80']}}], \
          when: [{key: source.ip, values: [10.0.0.1]}]}",
            "ns a & from 10.0.0.1/32",
        ),
        // What cannot be read is open, too.
        ("{to: [{operation: {ports: ['80', http]}}], from: [{source: {namespaces: [a]}}]}", "ns a"),
        ("{to: [{operation: {ports: ['80'], notPorts: [x, '81']}}]}", "port 80 !port 81"),
        ("{from: [{source: {ipBlocks: [10.0.0.0/33], namespaces: [a]}}]}", "ns a"),
        ("{from: [{source: {principals: ['spiffe://td/ns/a/sa/b']}}]}", "principal td/ns/a/sa/b"),
        ("{from: [{source: {trustDomains: [t], principals: [x]}}]}", "principal x"),
        ("{from: [{source: {}}], to: [{operation: {ports: ['80']}}]}", "port 80"),
    ] {
        let got = lowered(&format!("{{action: DENY, rules: [{spec}]}}"));
        let want = (Some(format!("DENY namespace: {want}")), Some("True UnsupportedValue".into()));
        assert_eq!(got, want, "{spec}");
    }
}

#[test]
fn a_deny_of_which_l4_sees_nothing_is_no_outage_but_told() {
    for spec in [
        "{to: [{operation: {paths: [/admin]}}]}",
        "{from: [{source: {requestPrincipals: ['*']}}]}",
        "{from: [{source: {remoteIpBlocks: [1.2.3.4]}}], to: [{operation: {methods: [PUT]}}]}",
        "{when: [{key: 'request.auth.claims[x]', values: [q]}]}",
        "{to: [{operation: {ports: ['0']}}]}",
        "{from: [{source: {ipBlocks: ['']}}]}",
        "{from: [{}]}",
    ] {
        let got = lowered(&format!("{{action: DENY, rules: [{spec}]}}"));
        assert_eq!(got, (Some("DENY namespace: never".into()), Some("False UnsupportedValue".into())), "{spec}");
    }
    // Beside a rule that has an effect it is told, and the policy is accepted.
    let got =
        lowered("{action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}, {to: [{operation: {ports: ['22']}}]}]}");
    assert_eq!(got, (Some("DENY namespace: port 22".into()), Some("True UnsupportedValue".into())));
}

#[test]
fn other_actions_and_targets_are_not_for_node_proxies() {
    for action in ["AUDIT", "CUSTOM", "FORBID"] {
        assert_eq!(
            lowered(&format!("{{action: {action}, rules: [{{}}]}}")),
            (None, Some("False UnsupportedValue".into()))
        );
    }
    for target in ["targetRefs: [{kind: Service, name: cart}]", "targetRef: {kind: Gateway, name: wp}"] {
        for action in ["ALLOW", "DENY", "CUSTOM"] {
            assert_eq!(lowered(&format!("{{{target}, action: {action}, rules: [{{}}]}}")), (None, None));
        }
    }
}

#[test]
fn the_condition_names_every_field_and_the_remedy() {
    let policy = authorization(
        "shop/p",
        "{action: DENY, rules: [{from: [{source: {principals: [x]}}], to: [{operation: {paths: [/a], ports: [http]}}]}]}",
    );
    let message = policy.condition().unwrap().message;
    for text in [
        "spec.rules[0].to[0].operation.ports[0]: \"http\" is not a port",
        "write a number from 1 to 65535",
        "spec.rules[0].to[0].operation.paths: cannot be seen at L4, so the rule denies whatever its value",
        "targetRefs",
    ] {
        assert!(message.contains(text), "{text} in {message}");
    }
    let message =
        authorization("shop/p", "{action: DENY, rules: [{to: [{operation: {paths: [/a]}}]}]}").condition().unwrap();
    assert!(message.message.contains("has no effect at L4: needs a waypoint"), "{}", message.message);
}

#[test]
fn the_root_namespace_is_for_the_mesh_and_dry_run_is_kept() {
    let told = |key| authorization(key, "{rules: [{}]}").resource("root").as_ref().map(super::told).unwrap();
    assert_eq!(told("root/p"), "ALLOW global: always");
    assert_eq!(told("shop/p"), "ALLOW namespace: always");
    let object: api::AuthorizationPolicy = serde_json::from_value(json!({
        "metadata": { "namespace": "shop", "name": "p", "annotations": { "istio.io/dry-run": "true" } },
    }))
    .unwrap();
    let policy = control::policies::AuthorizationPolicy::from(&object);
    assert_eq!(super::told(&policy.resource("root").unwrap()), "ALLOW namespace (dry run): never");
}

#[test]
fn workloads_name_the_selector_policies_of_their_namespace_and_of_the_root() {
    let mut all = Policies::new("root");
    let web = "{selector: {matchLabels: {app: web}}, rules: [{}]}";
    for (key, spec) in [
        ("shop/web", web),
        ("root/web", web),
        ("ops/web", web),
        ("shop/all", "{rules: [{}]}"),
        ("shop/audit", "{selector: {matchLabels: {app: web}}, action: AUDIT}"),
        ("shop/target", "{targetRefs: [{kind: Service, name: web}]}"),
        ("shop/odd", "{selector: {matchLabels: {app: 'w*'}}, rules: [{}]}"),
    ] {
        assert!(
            !all.set_authorization_policy(authorization(key, spec)).is_empty()
                || key.ends_with("audit")
                || key.ends_with("target")
        );
    }
    let names = |all: &Policies, ns: &str, of: &str| all.names(ns, &labels(of), None).join(" ");
    assert_eq!(names(&all, "shop", "app=web x=y"), "root/web shop/web");
    assert_eq!(names(&all, "shop", "app=db"), "");
    assert_eq!(names(&all, "ops", "app=web"), "ops/web root/web");
    assert_eq!(names(&all, "root", "app=web"), "root/web");

    // Content changes touch the resource, selectors touch the workloads.
    let effects = all.set_authorization_policy(authorization("shop/web", "{selector: {matchLabels: {app: web}}}"));
    assert_eq!(effects.resources.iter().map(|r| &**r).collect::<Vec<_>>(), ["shop/web"]);
    assert_eq!(effects.workloads, Default::default());
    let effects = all.set_authorization_policy(authorization("shop/web", "{selector: {matchLabels: {app: db}}}"));
    assert_eq!(effects.resources.len(), 0);
    assert_eq!(effects.workloads.namespaces.iter().map(|n| &**n).collect::<Vec<_>>(), ["shop"]);
    assert!(all.set_authorization_policy(authorization("shop/web", "{selector: {matchLabels: {app: db}}}")).is_empty());
    let effects = all.remove_authorization_policy("root", "web");
    assert!(effects.workloads.all && effects.resources.contains("root/web"));
    assert_eq!(all.resource("root/web"), None);
    assert!(all.remove_authorization_policy("root", "web").is_empty());
    assert_eq!(names(&all, "shop", "app=db"), "shop/web");
    let keys: Vec<String> = all.resources().iter().map(|r| r.key()).collect();
    assert_eq!(keys, ["ops/web", "shop/all", "shop/odd", "shop/web"]);
}
