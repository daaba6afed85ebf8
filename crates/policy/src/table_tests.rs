//! One table per row of discovery.md 4 "Evaluation", and trap 4 of section 6.

use mesh::authz::{Action, Clause, Match, Rule, Scope, StringMatch};

use crate::testing::*;
use crate::{Connection, Effect, PolicySet, Subject, Verdict, judge};

/// Whether a single rule matches a connection, asked by way of a DENY policy.
fn matches(rule: Rule, connection: &Connection) -> bool {
    let set = set(vec![policy("shop/p", Scope::Namespace, Action::Deny, vec![rule])]);
    told(&judge(&set, &subject(&[]), connection)) == "denied by shop/p rule 0"
}

fn one(m: Match) -> Rule {
    rule(vec![m])
}

#[test]
fn rules_are_alternatives_and_no_rule_never_matches() {
    let (web, other) = (principals(vec![exact("cluster.local/ns/shop/sa/web")]), principals(vec![exact("x")]));
    let p = policy("shop/p", Scope::Namespace, Action::Deny, vec![one(other.clone()), one(web)]);
    assert_eq!(told(&judge(&set(vec![p]), &subject(&[]), &from("web"))), "denied by shop/p rule 1");
    let none = policy("shop/p", Scope::Namespace, Action::Deny, vec![]);
    assert_eq!(told(&judge(&set(vec![none]), &subject(&[]), &from("web"))), "permitted: no ALLOW policy applies");
    let none = policy("shop/p", Scope::Namespace, Action::Allow, vec![]);
    assert_eq!(told(&judge(&set(vec![none]), &subject(&[]), &from("web"))), "no ALLOW rule matched");
}

#[test]
fn clauses_must_all_hold_and_none_at_all_always_matches() {
    let port = |p| Match { destination_ports: vec![p], ..Match::default() };
    let web = principals(vec![exact("cluster.local/ns/shop/sa/web")]);
    assert!(matches(rule(vec![port(8080), web.clone()]), &from("web")));
    assert!(!matches(rule(vec![port(1), web.clone()]), &from("web")));
    assert!(!matches(rule(vec![port(8080), web]), &from("cart")));
    assert!(matches(Rule::default(), &plaintext()));
}

#[test]
fn matches_of_a_clause_are_alternatives_and_none_at_all_is_true() {
    let port = |p| Match { destination_ports: vec![p], ..Match::default() };
    let either = |ports: &[u16]| Rule { clauses: vec![Clause { matches: ports.iter().map(|p| port(*p)).collect() }] };
    assert!(matches(either(&[1, 8080]), &from("web")));
    assert!(!matches(either(&[1, 2]), &from("web")));
    assert!(matches(either(&[]), &from("web")));
}

#[test]
fn an_empty_match_matches_nothing_and_disarms_its_clause() {
    let empty = Match::default();
    assert!(!matches(one(empty.clone()), &from("web")));
    let beside = Clause { matches: vec![empty.clone(), Match { destination_ports: vec![8080], ..Match::default() }] };
    assert!(matches(Rule { clauses: vec![beside] }, &from("web")));
    // discovery.md, lowering: `from` kept, `to` stripped to nothing = the rule is off.
    assert!(!matches(rule(vec![principals(vec![StringMatch::Presence]), empty]), &from("web")));
}

#[test]
fn each_kind_compares_what_it_should() {
    let d = Match::default;
    let net = |t: &str| vec![t.parse().unwrap()];
    let yes: Vec<(&str, Match)> = vec![
        ("namespace", Match { namespaces: vec![exact("x"), exact("shop")], ..d() }),
        ("not namespace", Match { not_namespaces: vec![exact("x"), exact("y")], ..d() }),
        ("principal", principals(vec![exact("cluster.local/ns/shop/sa/web")])),
        ("principal prefix", principals(vec![StringMatch::Prefix("cluster.local/ns/shop/".into())])),
        ("principal suffix", principals(vec![StringMatch::Suffix("/sa/web".into())])),
        ("principal presence", principals(vec![StringMatch::Presence])),
        ("not principal", Match { not_principals: vec![exact("x")], ..d() }),
        ("service account", Match { service_accounts: vec![account("shop", "web")], ..d() }),
        ("not service account", Match { not_service_accounts: vec![account("web", "shop")], ..d() }),
        ("source ip", Match { source_ips: net("10.1.0.0/24"), ..d() }),
        ("not source ip", Match { not_source_ips: net("10.2.0.0/24"), ..d() }),
        ("destination ip", Match { destination_ips: net("10.1.0.2"), ..d() }),
        ("not destination ip", Match { not_destination_ips: net("10.1.0.1"), ..d() }),
        ("port", Match { destination_ports: vec![80, 8080], ..d() }),
        ("not port", Match { not_destination_ports: vec![80], ..d() }),
        ("two kinds", Match { destination_ports: vec![8080], namespaces: vec![exact("shop")], ..d() }),
    ];
    for (name, m) in yes {
        assert!(matches(one(m), &from("web")), "{name}");
    }
    let no: Vec<(&str, Match)> = vec![
        ("namespace", Match { namespaces: vec![exact("sho"), StringMatch::Prefix("x".into())], ..d() }),
        ("not namespace", Match { not_namespaces: vec![exact("x"), exact("shop")], ..d() }),
        ("principal with scheme", principals(vec![exact("spiffe://cluster.local/ns/shop/sa/web")])),
        ("not principal", Match { not_principals: vec![StringMatch::Presence], ..d() }),
        ("service account", Match { service_accounts: vec![account("shop", "cart")], ..d() }),
        ("not service account", Match { not_service_accounts: vec![account("shop", "web")], ..d() }),
        ("source ip", Match { source_ips: net("10.2.0.0/24"), ..d() }),
        ("not source ip", Match { not_source_ips: net("10.1.0.0/16"), ..d() }),
        ("destination ip", Match { destination_ips: net("10.1.0.1"), ..d() }),
        ("not destination ip", Match { not_destination_ips: net("0.0.0.0/0"), ..d() }),
        ("port", Match { destination_ports: vec![15008], ..d() }),
        ("not port", Match { not_destination_ports: vec![8080], ..d() }),
        ("two kinds", Match { destination_ports: vec![8080], namespaces: vec![exact("x")], ..d() }),
        ("other family", Match { source_ips: net("::/0"), ..d() }),
    ];
    for (name, m) in no {
        assert!(!matches(one(m), &from("web")), "{name}");
    }
}

#[test]
fn service_accounts_ignore_the_trust_domain() {
    let m = Match { service_accounts: vec![account("shop", "web")], ..Match::default() };
    let foreign = mesh::Identity::new("other.mesh", "shop", "web").unwrap();
    assert!(matches(one(m), &Connection { source: Some(foreign), ..from("web") }));
}

#[test]
fn without_an_identity_no_principal_matches_and_the_namespace_is_empty() {
    let d = Match::default;
    for (name, m, want) in [
        ("presence", principals(vec![StringMatch::Presence]), false),
        ("empty prefix", principals(vec![StringMatch::Prefix("".into())]), false),
        ("not presence", Match { not_principals: vec![StringMatch::Presence], ..d() }, true),
        ("service account", Match { service_accounts: vec![account("", "")], ..d() }, false),
        ("not service account", Match { not_service_accounts: vec![account("shop", "web")], ..d() }, true),
        ("namespace presence", Match { namespaces: vec![StringMatch::Presence], ..d() }, false),
        ("namespace empty", Match { namespaces: vec![exact("")], ..d() }, true),
        ("not namespace", Match { not_namespaces: vec![exact("shop")], ..d() }, true),
    ] {
        assert_eq!(matches(one(m), &plaintext()), want, "{name}");
    }
}

#[test]
fn mapped_addresses_count_as_ipv4() {
    let mapped = Connection { source_ip: "::ffff:10.1.0.1".parse().unwrap(), ..from("web") };
    let m = Match { source_ips: vec!["10.1.0.0/24".parse().unwrap()], ..Match::default() };
    assert!(matches(one(m), &mapped));
    let v6 = Connection { source_ip: "fd00::1".parse().unwrap(), ..from("web") };
    let m = Match { source_ips: vec!["fd00::/64".parse().unwrap()], ..Match::default() };
    assert!(matches(one(m), &v6));
}

#[test]
fn strict_is_a_deny_policy_on_an_absent_principal() {
    let absent = Match { not_principals: vec![StringMatch::Presence], ..Match::default() };
    let key = "istio-system/istio_converted_static_strict";
    let set = set(vec![policy(key, Scope::WorkloadSelector, Action::Deny, vec![one(absent)])]);
    assert_eq!(told(&judge(&set, &subject(&[key]), &plaintext())), format!("denied by {key} rule 0"));
    assert_eq!(told(&judge(&set, &subject(&[key]), &from("web"))), "permitted: no ALLOW policy applies");
    assert_eq!(told(&judge(&set, &subject(&[]), &plaintext())), "permitted: no ALLOW policy applies");
}

#[test]
fn the_order_is_deny_then_no_allow_then_allow_then_deny() {
    let all = || vec![Rule::default()];
    let never = || vec![one(principals(vec![exact("x")]))];
    let ns = Scope::Namespace;
    for (name, policies, want) in [
        ("nothing", vec![], "permitted: no ALLOW policy applies"),
        ("deny misses", vec![policy("shop/d", ns, Action::Deny, never())], "permitted: no ALLOW policy applies"),
        (
            "deny beats allow",
            vec![policy("shop/a", ns, Action::Allow, all()), policy("shop/d", ns, Action::Deny, all())],
            "denied by shop/d rule 0",
        ),
        (
            "one allow of two",
            vec![policy("shop/a", ns, Action::Allow, never()), policy("shop/b", ns, Action::Allow, all())],
            "permitted: shop/b rule 0",
        ),
        (
            "no allow matches",
            vec![policy("shop/a", ns, Action::Allow, never())],
            "no ALLOW rule matched; nearest is shop/a rule 0: principals want x, got cluster.local/ns/shop/sa/web",
        ),
    ] {
        assert_eq!(told(&judge(&set(policies), &subject(&[]), &from("web"))), want, "{name}");
    }
}

#[test]
fn scopes_reach_whom_they_should() {
    let deny = |key, scope| set(vec![policy(key, scope, Action::Deny, vec![Rule::default()])]);
    let denied = |set: &PolicySet, subject: &Subject| told(&judge(set, subject, &from("web"))).starts_with("denied");
    assert!(denied(&deny("root/p", Scope::Global), &subject(&[])));
    assert!(denied(&deny("shop/p", Scope::Namespace), &subject(&[])));
    assert!(!denied(&deny("other/p", Scope::Namespace), &subject(&[])));
    assert!(!denied(&deny("shop/p", Scope::WorkloadSelector), &subject(&[])));
    assert!(denied(&deny("shop/p", Scope::WorkloadSelector), &subject(&["shop/p"])));
}

#[test]
fn trap_4_a_named_policy_that_is_not_held_leaves_the_answer_open() {
    let s = subject(&["shop/a", "shop/gone", "shop/gone"]);
    let a = policy("shop/a", Scope::WorkloadSelector, Action::Allow, vec![Rule::default()]);
    let mut set = set(vec![a]);
    assert_eq!(told(&judge(&set, &s, &from("web"))), "unknown: shop/gone");
    // Istio would say "no ALLOW policy" here and let it pass.
    set.remove("shop/a");
    assert_eq!(told(&judge(&set, &s, &from("web"))), "unknown: shop/a, shop/gone");
    // A DENY that matches cannot be taken back by what is missing.
    set.insert(policy("shop/d", Scope::Namespace, Action::Deny, vec![Rule::default()]));
    assert_eq!(told(&judge(&set, &s, &from("web"))), "denied by shop/d rule 0");
    let denial = crate::Denial::not_held(vec!["shop/gone".into()]);
    assert_eq!(denial.to_string(), "the workload names policies that are not known here: shop/gone");
}

#[test]
fn dry_run_never_decides_and_says_what_it_would_change() {
    let all = || vec![Rule::default()];
    let never = || vec![one(principals(vec![exact("x")]))];
    let ns = Scope::Namespace;
    let dry = |key, action, rules| mesh::authz::Authorization { dry_run: true, ..policy(key, ns, action, rules) };
    for (enforced, dry, verdict, effect) in [
        (None, dry("shop/d", Action::Deny, all()), "permitted: no ALLOW policy applies", Effect::WouldDeny),
        (None, dry("shop/d", Action::Deny, never()), "permitted: no ALLOW policy applies", Effect::None),
        (None, dry("shop/d", Action::Allow, all()), "permitted: no ALLOW policy applies", Effect::None),
        (None, dry("shop/d", Action::Allow, never()), "permitted: no ALLOW policy applies", Effect::WouldDeny),
        (Some(all()), dry("shop/d", Action::Allow, never()), "permitted: shop/a rule 0", Effect::None),
        (
            Some(never()),
            dry("shop/d", Action::Allow, all()),
            "no ALLOW rule matched; nearest is shop/a rule 0: principals want x, got cluster.local/ns/shop/sa/web",
            Effect::WouldPermit,
        ),
    ] {
        let enforced = enforced.map(|rules| policy("shop/a", ns, Action::Allow, rules));
        let judgement = judge(&set(enforced.into_iter().chain([dry]).collect()), &subject(&[]), &from("web"));
        assert_eq!(told(&judgement), verdict);
        assert_eq!(judgement.dry_run.len(), 1);
        assert_eq!(judgement.dry_run[0].effect, effect, "{}", judgement.dry_run[0]);
    }
}

#[test]
fn the_nearest_miss_is_the_rule_that_lacks_least() {
    let port = |p| Match { destination_ports: vec![p], ..Match::default() };
    let who = |a: &str| principals(vec![exact(&format!("cluster.local/ns/shop/sa/{a}"))]);
    let far = policy("shop/a", Scope::Namespace, Action::Allow, vec![rule(vec![who("x"), port(1)])]);
    let near =
        policy("shop/recommender", Scope::Namespace, Action::Allow, vec![rule(vec![port(8080), who("api-gateway")])]);
    let said = told(&judge(&set(vec![far.clone(), near]), &subject(&[]), &from("web")));
    assert_eq!(
        said,
        "no ALLOW rule matched; nearest is shop/recommender rule 0: principals want \
         cluster.local/ns/shop/sa/api-gateway, got cluster.local/ns/shop/sa/web"
    );
    let said = told(&judge(&set(vec![far]), &subject(&[]), &plaintext()));
    let want = "nearest is shop/a rule 0: principals want cluster.local/ns/shop/sa/x, got no identity (and 1 more)";
    assert!(said.ends_with(want), "{said}");
    let many = (0..10).map(|i| exact(&format!("{i}{}", "y".repeat(400)))).collect();
    let many = policy("shop/a", Scope::Namespace, Action::Allow, vec![rule(vec![principals(many)])]);
    let said = told(&judge(&set(vec![many]), &subject(&[]), &from("web")));
    assert!(said.contains(" or 7 more, got ") && said.len() < 700, "{said}");
    let empty = policy("shop/a", Scope::Namespace, Action::Allow, vec![rule(vec![Match::default()])]);
    let said = told(&judge(&set(vec![empty]), &subject(&[]), &from("web")));
    assert!(said.ends_with("it holds an empty match, which matches nothing"), "{said}");
}

#[test]
fn judging_touches_only_what_can_matter() {
    let mut many = PolicySet::default();
    for i in 0..10_000 {
        let scope = if i % 2 == 0 { Scope::Namespace } else { Scope::WorkloadSelector };
        many.insert(policy(&format!("ns{}/p{i}", i % 100), scope, Action::Allow, vec![]));
    }
    many.insert(policy("root/g", Scope::Global, Action::Deny, vec![]));
    many.insert(policy("shop/n", Scope::Namespace, Action::Deny, vec![]));
    let named = subject(&["ns1/p1", "shop/n", "root/g"]);
    let applicable = many.applicable(&named);
    let keys: Vec<&str> = applicable.held.iter().map(|(k, _)| &***k).collect();
    assert_eq!(keys, ["root/g", "shop/n", "ns1/p1"]);
}

#[test]
fn a_snapshot_is_not_changed_by_edits_to_a_clone() {
    let mut set = set(vec![policy("shop/a", Scope::Namespace, Action::Deny, vec![Rule::default()])]);
    let old = set.clone();
    set.insert(policy("shop/a", Scope::WorkloadSelector, Action::Deny, vec![Rule::default()]));
    set.insert(policy("shop/b", Scope::Global, Action::Allow, vec![]));
    assert_eq!((old.len(), set.len()), (1, 2));
    assert_eq!(told(&judge(&old, &subject(&[]), &from("web"))), "denied by shop/a rule 0");
    assert_eq!(told(&judge(&set, &subject(&[]), &from("web"))), "no ALLOW rule matched");
    assert!(set.remove("shop/b") && !set.remove("shop/b"));
    assert_eq!(told(&judge(&set, &subject(&[]), &from("web"))), "permitted: no ALLOW policy applies");
}

#[test]
fn a_permit_can_be_judged_again() {
    let mut set = PolicySet::default();
    let judgement = judge(&set, &subject(&[]), &from("web"));
    let crate::Verdict::Permitted(permit) = judgement.verdict else { panic!("nothing forbids it") };
    assert_eq!((permit.connection(), permit.subject()), (&from("web"), &subject(&[])));
    set.insert(policy("shop/d", Scope::Namespace, Action::Deny, vec![Rule::default()]));
    assert_eq!(told(&permit.rejudge(&set, &subject(&[]))), "denied by shop/d rule 0");
}

#[test]
fn what_a_pod_says_to_itself_is_exempt_from_network_policies_alone() {
    let deny = |name: &str| policy(name, Scope::WorkloadSelector, Action::Deny, vec![Rule::default()]);
    let (network, user) = ("shop/culvert_network_policy_a", "shop/a");
    let itself = Connection { source_ip: from("web").destination_ip, ..from("web") };
    for (connection, of, wanted) in [
        (from("web"), network, "denied by shop/culvert_network_policy_a rule 0"),
        (itself.clone(), network, "permitted: no ALLOW policy applies"),
        // In clear as well: the kernel lets nobody else show this address.
        (Connection { source: None, ..itself.clone() }, network, "permitted: no ALLOW policy applies"),
        (itself.clone(), user, "denied by shop/a rule 0"),
    ] {
        assert_eq!(told(&judge(&set(vec![deny(of)]), &subject(&[of]), &connection)), wanted, "{connection:?}");
    }
    // One that has not arrived yet cannot change the answer either.
    assert_eq!(told(&judge(&set(vec![]), &subject(&[network]), &itself)), "permitted: no ALLOW policy applies");
    assert_eq!(told(&judge(&set(vec![]), &subject(&[user]), &itself)), "unknown: shop/a");
}

#[test]
fn what_its_own_node_says_in_clear_is_exempt_from_network_policies_alone() {
    let (user, network) = ("shop/a", "shop/culvert_network_policy_web");
    let node: std::sync::Arc<[std::net::IpAddr]> = ["192.168.0.1", "fd00::1"].map(|ip| ip.parse().unwrap()).into();
    let subject = |policies: &[&str]| Subject { node: Some(node.clone()), ..subject(policies) };
    let at = |ip: &str| Connection { source_ip: ip.parse().unwrap(), ..plaintext() };
    let deny = |key: &str| policy(key, Scope::WorkloadSelector, Action::Deny, vec![Rule::default()]);
    let set = set(vec![deny(user), deny(network)]);
    let own = at("192.168.0.1");
    let told = |c: &Connection, policies: &[&str]| told(&judge(&set, &subject(policies), c));
    assert_eq!(told(&own, &[network]), "permitted: no ALLOW policy applies");
    assert_eq!(told(&at("::ffff:192.168.0.1"), &[network]), "permitted: no ALLOW policy applies");
    assert_eq!(told(&at("fd00::1"), &[network]), "permitted: no ALLOW policy applies");
    assert_eq!(told(&own, &[network, user]), "denied by shop/a rule 0");
    assert_eq!(told(&own, &[network, "shop/gone"]), "unknown: shop/gone");
    assert_eq!(told(&own, &["shop/culvert_network_policy_gone"]), "permitted: no ALLOW policy applies");
    let denied = format!("denied by {network} rule 0");
    assert_eq!(told(&at("192.168.0.2"), &[network]), denied, "another node");
    let tunnelled = Connection { source: from("web").source, ..own.clone() };
    assert_eq!(told(&tunnelled, &[network]), denied, "a pod that shows the node's address");
    let nobody = Subject { node: None, ..subject(&[network]) };
    assert!(matches!(judge(&set, &nobody, &own).verdict, Verdict::Denied(_)));
}
