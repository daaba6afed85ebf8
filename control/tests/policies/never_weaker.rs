//! Rules made up at random: an ALLOW lets in nobody whom its author might not have let in, and a DENY keeps out whoever
//! one of its alternatives keeps out by what L4 sees.

use kubernetes::object::security as api;
use mesh::authz::Action;
use policy::{Connection, PolicySet, Subject, Verdict, judge};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use control::policies::AuthorizationPolicy;

const PRINCIPALS: [&str; 4] = ["td/ns/a/sa/x", "td/*", "*", ""];
const NAMESPACES: [&str; 3] = ["a", "b", "a*"];
const BLOCKS: [&str; 3] = ["10.0.0.1", "10.0.0.0/30", "ten"];
const PORTS: [&str; 4] = ["80", "81", "0", "http"];

fn some(values: &'static [&'static str]) -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![3 => Just(vec![]), 2 => vec(select(values), 1..3)]
}

fn sources() -> impl Strategy<Value = Value> {
    (some(&PRINCIPALS), some(&NAMESPACES), some(&BLOCKS), some(&BLOCKS), some(&["j"])).prop_map(|(p, n, b, not, r)| {
        json!({ "source": {
            "principals": p, "namespaces": n, "ipBlocks": b, "notIpBlocks": not, "requestPrincipals": r
        } })
    })
}

fn operations() -> impl Strategy<Value = Value> {
    (some(&PORTS), some(&PORTS), some(&["/a"]))
        .prop_map(|(p, not, paths)| json!({ "operation": { "ports": p, "notPorts": not, "paths": paths } }))
}

fn conditions() -> impl Strategy<Value = Value> {
    prop_oneof![
        some(&PORTS).prop_map(|v| json!({ "key": "destination.port", "values": v })),
        some(&BLOCKS).prop_map(|v| json!({ "key": "source.ip", "notValues": v })),
        Just(json!({ "key": "request.headers[x]", "values": ["y"] })),
    ]
}

fn rules() -> impl Strategy<Value = api::Rule> {
    (vec(sources(), 0..3), vec(operations(), 0..3), vec(conditions(), 0..2))
        .prop_map(|(from, to, when)| serde_json::from_value(json!({ "from": from, "to": to, "when": when })).unwrap())
}

fn connections() -> impl Strategy<Value = Connection> {
    let id = (select(&["td", "other"][..]), select(&["a", "b"][..]));
    let id = id.prop_map(|(td, ns)| mesh::Identity::new(td, ns, "x").unwrap());
    let ip = select(&["10.0.0.1", "10.0.0.2", "10.9.9.9"][..]);
    (prop::option::weighted(0.8, id), ip, select(&[80_u16, 81, 82][..])).prop_map(|(source, ip, port)| Connection {
        source,
        source_ip: ip.parse().unwrap(),
        destination_ip: "10.5.5.5".parse().unwrap(),
        destination_port: port,
    })
}

/// One thing that an alternative asks for: what it comes to at L4, or `None` where L4 cannot tell.
type Ask = Option<bool>;

fn text(pattern: &str, got: Option<&str>) -> Ask {
    let Some(got) = got else { return (!pattern.is_empty()).then_some(false) };
    match (pattern, pattern.strip_suffix('*')) {
        ("", _) => None,
        (_, Some(start)) => Some(!got.is_empty() && got.starts_with(start)),
        (whole, None) => Some(got == whole),
    }
}

fn block(text: &str, c: &Connection) -> Ask {
    Some(text.parse::<mesh::addr::Cidr>().ok()?.contains(c.source_ip))
}

fn port(text: &str, c: &Connection) -> Ask {
    Some(text.parse::<u16>().ok().filter(|p| *p != 0)? == c.destination_port)
}

/// Values of which one must hold: what holds for sure is enough; what cannot be told leaves it open.
fn any(values: &[String], one: impl Fn(&str) -> Ask) -> Option<Ask> {
    let asks: Vec<Ask> = values.iter().map(|v| one(v)).collect();
    if asks.is_empty() {
        return None;
    }
    Some(if asks.contains(&None) { None } else { Some(asks.contains(&Some(true))) })
}

/// Values of which none may hold. Those that cannot be told exclude nobody for sure.
fn none(values: &[String], one: impl Fn(&str) -> Ask) -> Vec<Ask> {
    let asks: Vec<Ask> = values.iter().map(|v| one(v)).collect();
    let told: Vec<bool> = asks.iter().flatten().copied().collect();
    let open = asks.contains(&None).then_some(None);
    (!told.is_empty()).then(|| Some(!told.contains(&true))).into_iter().chain(open).collect()
}

/// What each alternative of a rule asks for.
fn alternatives(rule: &api::Rule, c: &Connection) -> Vec<Vec<Ask>> {
    let principal = c.source.as_ref().map(mesh::Identity::principal);
    let namespace = c.source.as_ref().map(|s| s.namespace().to_string()).unwrap_or_default();
    let from = |f: &api::RuleFrom| -> Vec<Ask> {
        let s = f.source.clone().unwrap();
        let some = [
            any(&s.principals, |p| text(p, principal.as_deref())),
            any(&s.namespaces, |n| text(n, Some(&namespace))),
            any(&s.ip_blocks, |b| block(b, c)),
            any(&s.request_principals, |_| None),
        ];
        some.into_iter().flatten().chain(none(&s.not_ip_blocks, |b| block(b, c))).collect()
    };
    let to = |t: &api::RuleTo| -> Vec<Ask> {
        let o = t.operation.clone().unwrap();
        let some = [any(&o.ports, |p| port(p, c)), any(&o.paths, |_| None)];
        some.into_iter().flatten().chain(none(&o.not_ports, |p| port(p, c))).collect()
    };
    let when: Vec<Ask> = rule
        .when
        .iter()
        .flat_map(|w| match w.key.as_str() {
            "destination.port" => any(&w.values, |p| port(p, c)).into_iter().collect(),
            "source.ip" => none(&w.not_values, |b| block(b, c)),
            _ => vec![None],
        })
        .collect();
    let of = |list: Vec<Vec<Ask>>| if list.is_empty() { vec![vec![]] } else { list };
    let (sources, operations) = (of(rule.from.iter().map(from).collect()), of(rule.to.iter().map(to).collect()));
    let pairs = sources.iter().flat_map(|s| operations.iter().map(move |o| (s, o)));
    pairs.map(|(s, o)| [&s[..], &o[..], &when[..]].concat()).collect()
}

/// Whether the lowered rule matches, asked by a policy with this rule alone.
fn matches(action: Action, rule: &api::Rule, c: &Connection) -> bool {
    let (name, denies) = match action {
        Action::Allow => ("ALLOW", false),
        Action::Deny => ("DENY", true),
    };
    let object: api::AuthorizationPolicy = serde_json::from_value(json!({
        "metadata": { "namespace": "shop", "name": "p" }, "spec": { "action": name, "rules": [rule] }
    }))
    .unwrap();
    let mut set = PolicySet::default();
    set.insert(AuthorizationPolicy::from(&object).resource("root").unwrap());
    let subject = Subject { namespace: "shop".into(), policies: vec![], node: None };
    matches!(judge(&set, &subject, c).verdict, Verdict::Denied(_)) == denies
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_deny_is_the_union_of_what_its_alternatives_say_at_l4(rule in rules(), c in connections()) {
        let all = alternatives(&rule, &c);
        let empty = rule == api::Rule::default();
        let want = empty || all.iter().any(|asks| {
            let told: Vec<bool> = asks.iter().flatten().copied().collect();
            !told.is_empty() && told.iter().all(|t| *t)
        });
        prop_assert_eq!(matches(Action::Deny, &rule, &c), want, "{:?}", rule);
    }

    #[test]
    fn an_allow_lets_in_only_what_is_sure(rule in rules(), c in connections()) {
        if matches(Action::Allow, &rule, &c) {
            let sure = |values: &[String], one: &dyn Fn(&str) -> Ask| values.is_empty() || values.iter().any(|v| one(v) == Some(true));
            let not = |values: &[String], one: &dyn Fn(&str) -> Ask| values.iter().all(|v| one(v) == Some(false));
            let principal = c.source.as_ref().map(mesh::Identity::principal);
            let namespace = c.source.as_ref().map(|s| s.namespace().to_string()).unwrap_or_default();
            let from = rule.from.is_empty() || rule.from.iter().any(|f| {
                let s = f.source.as_ref().unwrap();
                s.request_principals.is_empty()
                    && sure(&s.principals, &|p| text(p, principal.as_deref()))
                    && sure(&s.namespaces, &|n| text(n, Some(&namespace)))
                    && sure(&s.ip_blocks, &|b| block(b, &c))
                    && not(&s.not_ip_blocks, &|b| block(b, &c))
            });
            let to = rule.to.is_empty() || rule.to.iter().any(|t| {
                let o = t.operation.as_ref().unwrap();
                o.paths.is_empty() && sure(&o.ports, &|p| port(p, &c)) && not(&o.not_ports, &|p| port(p, &c))
            });
            let when = rule.when.iter().all(|w| match w.key.as_str() {
                "destination.port" => sure(&w.values, &|p| port(p, &c)),
                "source.ip" => not(&w.not_values, &|b| block(b, &c)),
                _ => false,
            });
            prop_assert!(from && to && when, "{rule:?}");
        }
    }
}

#[test]
fn the_made_up_rules_match_and_do_not() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut counts = [0; 4];
    for _ in 0..1500 {
        let (rule, c) = (rules(), connections()).new_tree(&mut runner).unwrap().current();
        counts[usize::from(matches(Action::Allow, &rule, &c))] += 1;
        counts[2 + usize::from(matches(Action::Deny, &rule, &c))] += 1;
    }
    assert!(counts.iter().all(|n| *n > 100), "{counts:?}");
}
