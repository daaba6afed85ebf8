//! PeerAuthentication: precedence, ports, and what is sent.

use control::policies::Policies;

use super::{labels, peer, told};

fn all(policies: &[(&str, &str)]) -> Policies {
    let mut all = Policies::new("root");
    for (key, spec) in policies {
        all.set_peer_authentication(peer(key, spec));
    }
    all
}

const STRICT: &str = "{mtls: {mode: STRICT}}";
const PERMISSIVE: &str = "{mtls: {mode: PERMISSIVE}}";

/// What a workload `app=web` of `shop` names.
fn named(policies: &[(&str, &str)]) -> String {
    all(policies).names("shop", &labels("app=web"), None).join(" ")
}

#[test]
fn the_narrower_counts_and_of_two_the_older() {
    let of_web = |mode: &str| format!("{{selector: {{matchLabels: {{app: web}}}}, mtls: {{mode: {mode}}}}}");
    let (web_strict, web_permissive, web_unset) = (of_web("STRICT"), of_web("PERMISSIVE"), of_web("UNSET"));
    let of_db = "{selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}}";
    let yes = "root/istio_converted_static_strict";
    for (policies, want) in [
        (vec![], ""),
        (vec![("root/m", STRICT)], yes),
        (vec![("ops/n", STRICT)], ""),
        (vec![("shop/n", STRICT)], yes),
        (vec![("root/m", STRICT), ("shop/n", PERMISSIVE)], ""),
        (vec![("root/m", PERMISSIVE), ("shop/n", STRICT)], yes),
        (vec![("root/m", STRICT), ("shop/n", "{mtls: {mode: UNSET}}")], yes),
        (vec![("root/m", STRICT), ("shop/n", "{}")], yes),
        (vec![("root/m", STRICT), ("shop/n", "{mtls: {mode: DISABLE}}")], ""),
        (vec![("root/m", "{mtls: {mode: UNSET}}")], ""),
        (vec![("shop/n", STRICT), ("shop/w", &web_permissive)], ""),
        (vec![("shop/n", PERMISSIVE), ("shop/w", &web_strict)], yes),
        (vec![("shop/n", STRICT), ("shop/w", &web_unset)], yes),
        (vec![("root/m", STRICT), ("shop/w", &web_unset)], yes),
        (vec![("shop/w", of_db)], ""),
        // The oldest, then the first by name.
        (vec![("shop/a@5", STRICT), ("shop/b@3", PERMISSIVE)], ""),
        (vec![("shop/a@3", STRICT), ("shop/b@5", PERMISSIVE)], yes),
        (vec![("shop/b@3", PERMISSIVE), ("shop/a@3", STRICT)], yes),
        (vec![("shop/a@5", &web_strict), ("shop/b@3", &web_permissive)], ""),
        (vec![("root/a@5", STRICT), ("root/b@3", PERMISSIVE)], ""),
        // A selector in the root namespace selects there only.
        (vec![("root/w", &web_strict)], ""),
        // An empty selector is none.
        (vec![("shop/n", "{selector: {}, mtls: {mode: STRICT}}")], yes),
        // What is no mode is taken as the strict one.
        (vec![("shop/n", "{mtls: {mode: MAYBE}}")], yes),
    ] {
        assert_eq!(named(&policies), want, "{policies:?}");
    }
    assert_eq!(all(&[("root/w", &web_strict)]).names("root", &labels("app=web"), None).join(" "), yes);
}

#[test]
fn modes_of_ports_become_a_policy_of_their_own() {
    let web = |rest: &str| format!("{{selector: {{matchLabels: {{app: web}}}}, {rest}}}");
    let own = "shop/converted_peer_authentication_w";
    let yes = "root/istio_converted_static_strict";
    for (rest, wider, want, rules) in [
        (
            "mtls: {mode: STRICT}, portLevelMtls: {'80': {mode: PERMISSIVE}, '81': {mode: DISABLE}}",
            PERMISSIVE,
            own,
            "!principal * & !port 80,81",
        ),
        ("mtls: {mode: STRICT}, portLevelMtls: {'80': {mode: STRICT}}", PERMISSIVE, yes, ""),
        ("mtls: {mode: STRICT}, portLevelMtls: {'80': {mode: UNSET}}", PERMISSIVE, yes, ""),
        (
            "mtls: {mode: PERMISSIVE}, portLevelMtls: {'80': {mode: STRICT}, '81': {mode: STRICT}, '82': {mode: DISABLE}}",
            STRICT,
            own,
            "!principal * & port 80; !principal * & port 81",
        ),
        ("mtls: {mode: PERMISSIVE}, portLevelMtls: {'80': {}}", STRICT, "", ""),
        // Without a mode the wider one counts, and then the ports.
        ("portLevelMtls: {'80': {mode: PERMISSIVE}}", STRICT, own, "!principal * & !port 80"),
        ("portLevelMtls: {'80': {mode: STRICT}}", PERMISSIVE, own, "!principal * & port 80"),
        ("portLevelMtls: {'80': {mode: STRICT}}", STRICT, yes, ""),
        // A port that is none is left out.
        ("portLevelMtls: {'0': {mode: STRICT}, http: {mode: STRICT}, '65536': {mode: STRICT}}", PERMISSIVE, "", ""),
    ] {
        let spec = web(rest);
        for level in ["root/m", "shop/n"] {
            let policies = [(level, wider), ("shop/w", &*spec)];
            assert_eq!(named(&policies), want, "{policies:?}");
            let sent = all(&policies).resource(own).as_ref().map(told);
            let rules = (!rules.is_empty()).then(|| format!("DENY selector: {rules}"));
            assert_eq!(sent, rules, "{policies:?}");
        }
    }
    // Ports need a selector, and do not count in the root namespace.
    let policy = peer("shop/n", "{mtls: {mode: STRICT}, portLevelMtls: {'80': {mode: PERMISSIVE}}}");
    assert!(policy.condition().unwrap().message.contains("there is no selector"), "{:?}", policy.condition());
    let spec = web("mtls: {mode: STRICT}, portLevelMtls: {'80': {mode: PERMISSIVE}}");
    let root = all(&[("root/w", &spec)]);
    assert_eq!(root.names("root", &labels("app=web"), None).join(" "), yes);
    assert_eq!(root.resource("root/converted_peer_authentication_w"), None);
}

#[test]
fn the_static_policy_is_there_while_any_object_is() {
    let mut all = all(&[("ops/n", PERMISSIVE)]);
    let name = "root/istio_converted_static_strict";
    assert_eq!(told(&all.resource(name).unwrap()), "DENY selector: !principal *");
    assert_eq!(all.resources().len(), 1);
    let effects = all.remove_peer_authentication("ops", "n");
    assert!(effects.resources.contains(name));
    assert_eq!(all.resource(name), None);
}

#[test]
fn a_wider_change_tells_of_what_follows_from_it() {
    let web = "{selector: {matchLabels: {app: web}}, portLevelMtls: {'80': {mode: PERMISSIVE}}}";
    let mut all = all(&[("shop/w", web)]);
    let own = "shop/converted_peer_authentication_w";
    assert_eq!(all.resource(own), None);
    let effects = all.set_peer_authentication(peer("root/m", STRICT));
    assert!(effects.workloads.all && effects.resources.contains(own), "{effects:?}");
    assert_eq!(told(&all.resource(own).unwrap()), "DENY selector: !principal * & !port 80");
    let effects = all.set_peer_authentication(peer("shop/n", PERMISSIVE));
    assert!(!effects.workloads.all && effects.workloads.namespaces.contains("shop"), "{effects:?}");
    assert!(effects.resources.contains(own));
    assert_eq!(all.resource(own), None);
    assert!(all.set_peer_authentication(peer("shop/n", PERMISSIVE)).is_empty());
    // In the root namespace a selector is for that namespace.
    let effects = all.set_peer_authentication(peer("root/w", web));
    assert!(!effects.workloads.all && effects.workloads.namespaces.contains("root"), "{effects:?}");
    // When the selector goes, it is for all.
    let effects = all.set_peer_authentication(peer("root/w", PERMISSIVE));
    assert!(effects.workloads.namespaces.contains("root") || effects.workloads.all, "{effects:?}");
    let effects = all.remove_peer_authentication("root", "m");
    assert!(effects.workloads.all, "{effects:?}");
}
