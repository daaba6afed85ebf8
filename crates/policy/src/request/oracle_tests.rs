//! The judge against a naive oracle that is written in another way: it reads the user's texts anew for every request,
//! in a logic of three values (yes, no, not known), and lets ALLOW count a yes only and DENY everything but a no.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::testing::{Ask, compiled, policy};
use super::{Action, Authorization, Cause, Condition, Operation, Reason, Rule, Source, Verdict};
use crate::Effect;

/// Yes, no, or not known.
type Known = Option<bool>;

fn and(all: impl IntoIterator<Item = Known>) -> Known {
    let all: Vec<Known> = all.into_iter().collect();
    if all.contains(&Some(false)) {
        Some(false)
    } else if all.contains(&None) {
        None
    } else {
        Some(true)
    }
}

fn not(one: Known) -> Known {
    one.map(|k| !k)
}

fn or(all: impl IntoIterator<Item = Known>) -> Known {
    not(and(all.into_iter().map(not)))
}

/// An attribute: its texts of which one must fit; none when it is absent; unknown for what a connection does not have.
type Attribute = Option<Vec<String>>;

fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        Some(("", "")) => !text.is_empty(),
        Some((before, after)) => text.starts_with(before) && text.ends_with(after),
        None => pattern == text,
    }
}

fn pair(attribute: &Attribute, values: &[String], not_values: &[String], fits: impl Fn(&str, &str) -> bool) -> Known {
    let one =
        |patterns: &[String]| attribute.as_ref().map(|texts| texts.iter().any(|t| patterns.iter().any(|p| fits(p, t))));
    let wanted = if values.is_empty() { Some(true) } else { one(values) };
    let unwanted = if not_values.is_empty() { Some(false) } else { one(not_values) };
    and([wanted, not(unwanted)])
}

fn in_block(block: &str, ip: &str) -> bool {
    // All blocks of the universe end at a dot.
    match block.split_once('/') {
        Some((net, "8")) => net.split('.').next() == ip.split('.').next(),
        Some((net, _)) => net.rsplit_once('.').map(|n| n.0) == ip.rsplit_once('.').map(|n| n.0),
        None => block == ip,
    }
}

fn claim(ask: &Ask, name: &str) -> Attribute {
    let texts = |v: &Value| match v {
        Value::Array(items) => items.iter().filter_map(|i| i.as_str().map(ToOwned::to_owned)).collect(),
        Value::String(text) => vec![text.clone()],
        _ => vec![],
    };
    let found = ask.claims.as_ref().and_then(|c| c.get(name)).map(texts).unwrap_or_default();
    (!ask.tcp).then_some(found)
}

fn source(s: &Source, ask: &Ask) -> Known {
    let of = |text: &dyn Fn(&str) -> String| Some(ask.account.map(text).into_iter().collect::<Vec<_>>());
    let http = |texts: Vec<String>| (!ask.tcp).then_some(texts);
    let subject =
        || ask.claims.as_ref().map(|c| format!("{}/{}", c["iss"].as_str().unwrap(), c["sub"].as_str().unwrap()));
    and([
        pair(&of(&|a| format!("cluster.local/ns/shop/sa/{a}")), &s.principals, &s.not_principals, fits),
        pair(&of(&|_| "shop".into()), &s.namespaces, &s.not_namespaces, fits),
        pair(&of(&|a| format!("shop/{a}")), &s.service_accounts, &s.not_service_accounts, |p, t| {
            p == t || format!("shop/{p}") == t
        }),
        pair(&of(&|_| "cluster.local".into()), &s.trust_domains, &s.not_trust_domains, fits),
        pair(&Some(vec!["10.1.0.1".into()]), &s.ip_blocks, &s.not_ip_blocks, in_block),
        pair(&Some(vec!["192.0.2.7".into()]), &s.remote_ip_blocks, &s.not_remote_ip_blocks, in_block),
        pair(&http(subject().into_iter().collect()), &s.request_principals, &s.not_request_principals, fits),
    ])
}

fn operation(o: &Operation, ask: &Ask) -> Known {
    let http = |text: String| (!ask.tcp).then(|| vec![text]);
    let digits = |ports: &[u32]| ports.iter().map(u32::to_string).collect::<Vec<_>>();
    and([
        pair(&http(ask.target.clone().unwrap()), &o.hosts, &o.not_hosts, fits),
        pair(&Some(vec![ask.port.to_string()]), &digits(&o.ports), &digits(&o.not_ports), |p, t| p == t),
        pair(&http(ask.method.clone()), &o.methods, &o.not_methods, fits),
        pair(&http(ask.path.clone()), &o.paths, &o.not_paths, |pattern, path| match pattern.strip_suffix("{*}") {
            Some(before) => path.strip_prefix(before).is_some_and(|rest| !rest.is_empty() && !rest.contains('/')),
            None => fits(pattern, path),
        }),
    ])
}

fn condition(c: &Condition, ask: &Ask) -> Known {
    let attribute = match c.key.as_str() {
        "request.headers[x]" => (!ask.tcp).then(|| ask.headers.iter().map(|h| h.1.clone()).collect()),
        "request.auth.audiences" => claim(ask, "aud"),
        "request.auth.claims[groups]" => claim(ask, "groups"),
        "source.namespace" => Some(ask.account.map(|_| "shop".to_owned()).into_iter().collect()),
        "destination.port" => Some(vec![ask.port.to_string()]),
        other => panic!("{other} is not in the universe"),
    };
    pair(&attribute, &c.values, &c.not_values, fits)
}

fn rule_holds(rule: &Rule, ask: &Ask) -> Known {
    let from = if rule.from.is_empty() { Some(true) } else { or(rule.from.iter().map(|s| source(s, ask))) };
    let to = if rule.to.is_empty() { Some(true) } else { or(rule.to.iter().map(|o| operation(o, ask))) };
    and([from, to, and(rule.when.iter().map(|c| condition(c, ask)))])
}

fn hit(policy: &Authorization, ask: &Ask) -> bool {
    let counts = |known: Known| match policy.action {
        Action::Allow => known == Some(true),
        Action::Audit | Action::Custom | Action::Deny => known != Some(false),
    };
    policy.rules.iter().any(|r| counts(rule_holds(r, ask)))
}

fn oracle(policies: &[Authorization], ask: &Ask) -> bool {
    let enforced = |action| policies.iter().filter(move |p| p.action == action && !p.dry_run);
    let denied = enforced(Action::Deny).any(|p| hit(p, ask));
    !denied && (enforced(Action::Allow).count() == 0 || enforced(Action::Allow).any(|p| hit(p, ask)))
}

// A universe so small that about every second thing matches.

fn seldom(values: &'static [&'static str]) -> impl Strategy<Value = Vec<String>> {
    (vec(select(values), 1..3), 0..5u8)
        .prop_map(|(values, roll)| if roll == 0 { values.iter().map(ToString::to_string).collect() } else { vec![] })
}

fn both(values: &'static [&'static str]) -> impl Strategy<Value = (Vec<String>, Vec<String>)> {
    (seldom(values), seldom(values))
}

fn sources() -> impl Strategy<Value = Source> {
    (
        both(&["cluster.local/ns/shop/sa/web", "*/sa/till", "cluster.local/*", "*"]),
        both(&["shop", "sh*", "*op", "other", "*"]),
        both(&["shop/web", "till", "other/web"]),
        both(&["cluster.local", "cluster*", "td"]),
        both(&["10.1.0.1", "10.0.0.0/8", "10.2.0.0/24"]),
        both(&["192.0.2.0/24", "192.0.2.8", "10.0.0.0/8"]),
        both(&["issuer/me", "issuer/*", "*/you", "*"]),
    )
        .prop_map(|(principals, namespaces, accounts, domains, ips, remote, subjects)| Source {
            principals: principals.0,
            not_principals: principals.1,
            namespaces: namespaces.0,
            not_namespaces: namespaces.1,
            service_accounts: accounts.0,
            not_service_accounts: accounts.1,
            trust_domains: domains.0,
            not_trust_domains: domains.1,
            ip_blocks: ips.0,
            not_ip_blocks: ips.1,
            remote_ip_blocks: remote.0,
            not_remote_ip_blocks: remote.1,
            request_principals: subjects.0,
            not_request_principals: subjects.1,
        })
        .prop_filter("an empty one is a fault", |s| *s != Source::default())
}

fn operations() -> impl Strategy<Value = Operation> {
    let number = |ports: Vec<String>| ports.iter().map(|p| p.parse().unwrap()).collect();
    (
        both(&["cart", "ca*", "*rt", "admin"]),
        both(&["80", "81"]),
        both(&["GET", "PO*", "*"]),
        both(&["/a", "/a/*", "*/b", "/a/{*}", "*", "/c"]),
    )
        .prop_map(move |(hosts, ports, methods, paths)| Operation {
            hosts: hosts.0,
            not_hosts: hosts.1,
            ports: number(ports.0),
            not_ports: number(ports.1),
            methods: methods.0,
            not_methods: methods.1,
            paths: paths.0,
            not_paths: paths.1,
        })
        .prop_filter("an empty one is a fault", |o| *o != Operation::default())
}

fn conditions() -> impl Strategy<Value = Condition> {
    let keyed = prop_oneof![
        (Just("request.headers[x]"), both(&["1", "1*", "2"])),
        (Just("request.auth.audiences"), both(&["shop", "s*", "till"])),
        (Just("request.auth.claims[groups]"), both(&["a", "*b", "c"])),
        (Just("source.namespace"), both(&["shop", "other"])),
        (Just("destination.port"), both(&["80", "81"])),
    ];
    keyed
        .prop_map(|(key, (values, not_values))| Condition { key: key.into(), values, not_values })
        .prop_filter("an empty one is a fault", |c| !c.values.is_empty() || !c.not_values.is_empty())
}

fn rules() -> impl Strategy<Value = Rule> {
    (vec(sources(), 0..3), vec(operations(), 0..3), vec(conditions(), 0..2)).prop_map(|(from, to, when)| Rule {
        from,
        to,
        when,
    })
}

fn policies() -> impl Strategy<Value = Vec<Authorization>> {
    let actions = [Action::Allow, Action::Allow, Action::Deny, Action::Deny, Action::Audit];
    vec((select(actions.to_vec()), vec(rules(), 0..3), prop::bool::weighted(0.2)), 0..4).prop_map(|all| {
        let named = all.into_iter().enumerate();
        let made = named
            .map(|(i, (action, rules, dry_run))| Authorization { dry_run, ..policy(&format!("p{i}"), action, rules) });
        made.collect()
    })
}

fn asks() -> impl Strategy<Value = Ask> {
    let claims = select(vec![
        None,
        Some(json!({"iss": "issuer", "sub": "me", "aud": "shop", "groups": ["a", "bb"]})),
        Some(json!({"iss": "issuer", "sub": "you", "aud": ["till", "shop"]})),
    ]);
    let account = select(vec![Some("web"), Some("till"), None]);
    let header = select(vec![None, Some("1"), Some("12"), Some("3")]);
    let (method, path) = (select(vec!["GET", "POST", "PUT"]), select(vec!["/a", "/a/b", "/a/b/c", "/c", "/"]));
    let target = select(vec!["cart", "admin", "card"]);
    (account, claims, header, method, path, target, select(vec![80, 81]), prop::bool::weighted(0.2)).prop_map(
        |(account, claims, header, method, path, target, port, tcp)| Ask {
            account,
            method: method.into(),
            path: path.into(),
            target: Some(target.into()),
            headers: header.map(|h| ("x".to_owned(), h.to_owned())).into_iter().collect(),
            claims,
            port,
            tcp,
            ..Ask::default()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn the_judge_agrees_with_the_oracle(policies in policies(), ask in asks()) {
        let compiled = compiled(policies.clone());
        let judgement = ask.judge(&compiled).unwrap();
        let of = |key: &str| policies.iter().find(|p| format!("shop/{}", p.name) == key).unwrap();
        match &judgement.verdict {
            Verdict::Permitted(permit) => {
                prop_assert!(oracle(&policies, &ask), "{:?}", permit.reason());
                if let Reason::Rule { policy, rule } = permit.reason() {
                    prop_assert_eq!(rule_holds(&of(policy).rules[*rule], &ask), Some(true));
                }
            }
            Verdict::Denied(denial) => {
                prop_assert!(!oracle(&policies, &ask), "{}", denial);
                if let Cause::DenyRule { policy, rule } = &denial.cause {
                    prop_assert_ne!(rule_holds(&of(policy).rules[*rule], &ask), Some(false));
                }
                if let Some(miss) = &denial.nearest {
                    prop_assert_ne!(rule_holds(&of(&miss.policy).rules[miss.rule], &ask), Some(true));
                }
            }
        }
        let audits: Vec<&str> = judgement.audited.iter().map(|a| &*a.policy).collect();
        let want = policies.iter().filter(|p| p.action == Action::Audit && !p.dry_run && hit(p, &ask));
        prop_assert_eq!(audits, want.map(|p| format!("shop/{}", p.name)).collect::<Vec<_>>());
        for dry in &judgement.dry_run {
            let enforced: Vec<Authorization> = policies.iter().filter(|p| !p.dry_run).cloned().collect();
            let mut with = enforced.clone();
            with.push(Authorization { dry_run: false, ..of(&dry.policy).clone() });
            let change = match (oracle(&enforced, &ask), oracle(&with, &ask)) {
                (true, false) => Effect::WouldDeny,
                (false, true) => Effect::WouldPermit,
                _ => Effect::None,
            };
            prop_assert_eq!(dry.effect, change, "{}", dry);
        }
    }
}
