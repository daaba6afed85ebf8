//! The judge against a naive oracle that is written in another way: it keeps all policies in a list, turns each kind
//! into "wanted" and "unwanted" tests on plain texts, and compares addresses as strings of bits.

use std::net::IpAddr;

use mesh::Identity;
use mesh::addr::Cidr;
use mesh::authz::{Action, Authorization, Clause, Match, Rule, Scope, ServiceAccount, StringMatch};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use crate::testing::set;
use crate::{Cause, Connection, Effect, Reason, Subject, Verdict, judge};

#[derive(Debug, PartialEq)]
enum Answer {
    No,
    Open,
    Yes,
}

fn oracle(policies: &[Authorization], subject: &Subject, c: &Connection) -> Answer {
    let named = |p: &Authorization| subject.policies.iter().any(|n| **n == *format!("{}/{}", p.namespace, p.name));
    let mut allows = 0;
    let mut allowed = false;
    for p in policies {
        let reaches = p.scope == Scope::Global || p.scope == Scope::Namespace && p.namespace == subject.namespace;
        if p.dry_run || !(reaches || named(p)) {
            continue;
        }
        let hit = p.rules.iter().any(|r| !r.clauses.iter().any(|k| !clause_holds(k, c)));
        match p.action {
            Action::Deny if hit => return Answer::No,
            Action::Deny => {}
            Action::Allow => {
                allows += 1;
                allowed |= hit;
            }
        }
    }
    let held = |n: &str| policies.iter().any(|p| format!("{}/{}", p.namespace, p.name) == n);
    if subject.policies.iter().any(|n| !held(n)) {
        Answer::Open
    } else if allows == 0 || allowed {
        Answer::Yes
    } else {
        Answer::No
    }
}

fn clause_holds(clause: &Clause, c: &Connection) -> bool {
    if clause.matches.is_empty() {
        return true;
    }
    clause.matches.iter().filter(|m| **m != Match::default()).any(|m| {
        let id = c.source.as_ref().map(ToString::to_string).unwrap_or_default();
        let parts: Vec<&str> = id.split('/').collect();
        // spiffe: "" td ns <ns> sa <sa>
        let (ns, sa) = if id.is_empty() { ("", "") } else { (parts[4], parts[6]) };
        let principal = id.trim_start_matches("spiffe://");
        let text = |v: &StringMatch, t: &str| match v {
            StringMatch::Exact(x) => **x == *t,
            StringMatch::Prefix(x) => t.get(..x.len()) == Some(x),
            StringMatch::Suffix(x) => t.len() >= x.len() && t.get(t.len() - x.len()..) == Some(x),
            StringMatch::Presence => !t.is_empty(),
        };
        let who = |v: &StringMatch| !id.is_empty() && text(v, principal);
        let acc = |v: &ServiceAccount| !id.is_empty() && (&*v.namespace, &*v.name) == (ns, sa);
        let src = |v: &Cidr| bits_of(v).is_some_and(|b| bits(c.source_ip).starts_with(&b));
        let dst = |v: &Cidr| bits_of(v).is_some_and(|b| bits(c.destination_ip).starts_with(&b));
        let port = |v: &u16| format!("{v}") == format!("{}", c.destination_port);
        let mut kinds = Vec::new();
        if !m.namespaces.is_empty() {
            kinds.push(m.namespaces.iter().any(|v| text(v, ns)))
        }
        if !m.principals.is_empty() {
            kinds.push(m.principals.iter().any(who))
        }
        if !m.service_accounts.is_empty() {
            kinds.push(m.service_accounts.iter().any(acc))
        }
        if !m.source_ips.is_empty() {
            kinds.push(m.source_ips.iter().any(src))
        }
        if !m.destination_ips.is_empty() {
            kinds.push(m.destination_ips.iter().any(dst))
        }
        if !m.destination_ports.is_empty() {
            kinds.push(m.destination_ports.iter().any(port))
        }
        let unwanted = m.not_namespaces.iter().any(|v| text(v, ns))
            || m.not_principals.iter().any(who)
            || m.not_service_accounts.iter().any(acc)
            || m.not_source_ips.iter().any(src)
            || m.not_destination_ips.iter().any(dst)
            || m.not_destination_ports.iter().any(port);
        !unwanted && !kinds.contains(&false)
    })
}

fn bits(ip: IpAddr) -> String {
    match ip.to_canonical() {
        IpAddr::V4(a) => format!("4{:032b}", u32::from(a)),
        IpAddr::V6(a) => format!("6{:0128b}", u128::from(a)),
    }
}

fn bits_of(cidr: &Cidr) -> Option<String> {
    bits(cidr.addr()).get(..=usize::from(cidr.prefix_len())).map(str::to_owned)
}

// A universe so small that about every second thing matches.
const NAMESPACES: [&str; 3] = ["a", "b", "ab"];
const ACCOUNTS: [&str; 2] = ["x", "y"];
const DOMAINS: [&str; 2] = ["td", "td2"];
const IPS: [&str; 5] = ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "fd00::1", "fd00::2"];
const BLOCKS: [&str; 6] = ["10.0.0.0/8", "10.0.0.1", "0.0.0.0/0", "fd00::/64", "fd00::2", "10.0.0.0/30"];
const PORTS: [u16; 3] = [80, 81, 8080];
const TEXTS: [&str; 9] = ["a", "b", "", "td/ns/a/sa/x", "td", "td2/ns/b/sa/y", "td/ns/", "/sa/x", "b/sa/x"];

fn texts() -> impl Strategy<Value = Vec<StringMatch>> {
    let one = (select(&TEXTS[..]), 0..4u8).prop_map(|(t, kind)| match kind {
        0 => StringMatch::Exact(t.into()),
        1 => StringMatch::Prefix(t.into()),
        2 => StringMatch::Suffix(t.into()),
        _ => StringMatch::Presence,
    });
    seldom(one)
}

/// Mostly none, so that a match has about two kinds.
fn seldom<S: Strategy>(one: S) -> impl Strategy<Value = Vec<S::Value>>
where
    S::Value: Clone,
{
    (vec(one, 1..3), 0..6u8).prop_map(|(values, roll)| if roll == 0 { values } else { Vec::new() })
}

fn accounts() -> impl Strategy<Value = Vec<ServiceAccount>> {
    let one = (select(&NAMESPACES[..]), select(&ACCOUNTS[..]));
    seldom(one.prop_map(|(n, a)| ServiceAccount { namespace: n.into(), name: a.into() }))
}

fn blocks() -> impl Strategy<Value = Vec<Cidr>> {
    seldom(select(&BLOCKS[..]).prop_map(|b| b.parse().unwrap()))
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    seldom(select(&PORTS[..]))
}

fn matches() -> impl Strategy<Value = Match> {
    let names = (texts(), texts(), texts(), texts(), accounts(), accounts());
    let places = (blocks(), blocks(), blocks(), blocks(), ports(), ports());
    (names, places).prop_map(|((ns, nns, p, np, a, na), (s, nots, d, notd, t, nt))| Match {
        namespaces: ns,
        not_namespaces: nns,
        principals: p,
        not_principals: np,
        service_accounts: a,
        not_service_accounts: na,
        source_ips: s,
        not_source_ips: nots,
        destination_ips: d,
        not_destination_ips: notd,
        destination_ports: t,
        not_destination_ports: nt,
    })
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let clause = vec(matches(), 0..3).prop_map(|matches| Clause { matches });
    vec(vec(clause, 0..3).prop_map(|clauses| Rule { clauses }), 0..3)
}

fn policies() -> impl Strategy<Value = Vec<Authorization>> {
    let scope = select(&[Scope::Global, Scope::Namespace, Scope::WorkloadSelector][..]);
    let action = select(&[Action::Allow, Action::Allow, Action::Deny][..]);
    let one = (select(&NAMESPACES[..]), 0..4u8, scope, action, rules(), prop::bool::weighted(0.2));
    let one = one.prop_map(|(ns, name, scope, action, rules, dry_run)| Authorization {
        name: format!("p{name}").into(),
        namespace: ns.into(),
        scope,
        action,
        rules,
        dry_run,
    });
    // The last of a name counts, as in the set.
    vec(one, 0..7).prop_map(|all| {
        let mut kept: Vec<Authorization> = Vec::new();
        for p in all {
            kept.retain(|k| k.key() != p.key());
            kept.push(p);
        }
        kept
    })
}

fn subjects() -> impl Strategy<Value = Subject> {
    let name = (select(&NAMESPACES[..]), 0..4u8).prop_map(|(ns, i)| format!("{ns}/p{i}").into());
    let names = (vec(name, 0..3), prop::bool::ANY).prop_map(|(n, some)| if some { n } else { Vec::new() });
    (select(&NAMESPACES[..]), names).prop_map(|(ns, policies)| Subject { namespace: ns.into(), policies, node: None })
}

fn connections() -> impl Strategy<Value = Connection> {
    let id = (select(&DOMAINS[..]), select(&NAMESPACES[..]), select(&ACCOUNTS[..]));
    let id = id.prop_map(|(t, n, a)| Identity::new(t, n, a).unwrap());
    let ip = || select(&IPS[..]).prop_map(|i| i.parse::<IpAddr>().unwrap());
    (prop::option::weighted(0.8, id), ip(), ip(), select(&PORTS[..])).prop_map(|(source, s, d, port)| Connection {
        source,
        source_ip: s,
        destination_ip: d,
        destination_port: port,
    })
}

fn answer(verdict: &Verdict) -> Answer {
    match verdict {
        Verdict::Denied(_) => Answer::No,
        Verdict::Permitted(_) => Answer::Yes,
        Verdict::Unknown(_) => Answer::Open,
    }
}

/// The policy of a key, with every rule but one taken away.
fn only_rule(policies: &[Authorization], key: &str, rule: usize) -> Authorization {
    let mut p = policies.iter().find(|p| p.key() == key).unwrap().clone();
    p.rules = vec![p.rules[rule].clone()];
    p
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 6000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_judge_and_the_oracle_agree(all in policies(), subject in subjects(), c in connections()) {
        let got = judge(&set(all.clone()), &subject, &c);
        prop_assert_eq!(answer(&got.verdict), oracle(&all, &subject, &c));
    }

    #[test]
    fn explanations_are_true(all in policies(), subject in subjects(), c in connections()) {
        let got = judge(&set(all.clone()), &subject, &c);
        let hit = |key: &str, rule| only_rule(&all, key, rule).rules[0].clauses.iter().all(|k| clause_holds(k, &c));
        match &got.verdict {
            Verdict::Denied(d) => match &d.cause {
                Cause::DenyRule { policy, rule } => prop_assert!(hit(policy, *rule)),
                Cause::NoAllowMatched => {
                    if let Some(near) = &d.nearest {
                        prop_assert!(!hit(&near.policy, near.rule));
                        prop_assert!(!d.to_string().is_empty());
                    }
                }
                Cause::NotHeld(_) => prop_assert!(false, "only a caller says that"),
                Cause::Egress { .. } => prop_assert!(false, "only the judge of the other end says that"),
            },
            Verdict::Permitted(p) => match p.reason() {
                Reason::Rule { policy, rule } => prop_assert!(hit(policy, *rule)),
                Reason::NoAllowApplies => {}
            },
            Verdict::Unknown(names) => {
                prop_assert!(names.iter().all(|n| subject.policies.contains(n)));
            }
        }
    }

    #[test]
    fn a_dry_run_effect_is_what_enforcing_would_do(all in policies(), subject in subjects(), c in connections()) {
        let now = judge(&set(all.clone()), &subject, &c);
        for dry in &now.dry_run {
            let mut enforced = all.clone();
            enforced.iter_mut().filter(|p| *p.key() == *dry.policy).for_each(|p| p.dry_run = false);
            let (before, after) = (oracle(&all, &subject, &c), oracle(&enforced, &subject, &c));
            match dry.effect {
                Effect::None => prop_assert!(before == after || before == Answer::Open),
                Effect::WouldDeny => prop_assert_eq!((before, after), (Answer::Yes, Answer::No)),
                Effect::WouldPermit => prop_assert_eq!((before, after), (Answer::No, Answer::Yes)),
            }
        }
    }
}

#[test]
fn the_universe_is_small_enough_that_every_answer_comes_up() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut counts = [0; 4];
    for _ in 0..2000 {
        let (all, subject, c) = (policies(), subjects(), connections()).new_tree(&mut runner).unwrap().current();
        let verdict = judge(&set(all), &subject, &c).verdict;
        counts[match &verdict {
            Verdict::Denied(d) if d.policy_name().is_some() => 0,
            Verdict::Denied(_) => 1,
            Verdict::Permitted(p) if *p.reason() != Reason::NoAllowApplies => 2,
            Verdict::Permitted(_) | Verdict::Unknown(_) => 3,
        }] += 1;
    }
    assert!(counts.iter().all(|n| *n > 100), "{counts:?}");
}
