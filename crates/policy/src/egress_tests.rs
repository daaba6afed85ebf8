use mesh::addr::Cidr;
use mesh::authz::{Clause, Rule, Scope};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::testing::{policy, set};

/// "Whatever is not to these blocks on these ports": a DENY as control writes it. Empty lists are "any".
fn only(key: &str, lets: &[(&[&str], &[u16])]) -> Authorization {
    let clause = |(blocks, ports): &(&[&str], &[u16])| {
        let ips = Match { not_destination_ips: cidrs(blocks), ..Match::default() };
        let ports = Match { not_destination_ports: ports.to_vec(), ..Match::default() };
        Clause { matches: [ips, ports].into_iter().filter(|m| *m != Match::default()).collect() }
    };
    policy(key, Scope::WorkloadSelector, Action::Deny, vec![Rule { clauses: lets.iter().map(clause).collect() }])
}

fn cidrs(texts: &[&str]) -> Vec<Cidr> {
    texts.iter().map(|t| t.parse().unwrap()).collect()
}

fn source(policies: &[&str], exempt: &[&str]) -> Workload {
    let egress = Egress {
        policies: policies.iter().map(|p| Arc::from(*p)).collect(),
        exempt: exempt.iter().map(|a| a.parse().unwrap()).collect(),
    };
    Workload { addresses: vec!["10.1.0.1".parse().unwrap()], egress: Some(Arc::new(egress)), ..Workload::default() }
}

fn to(text: &str) -> Target {
    let at: SocketAddr = text.parse().unwrap();
    at.into()
}

fn told(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Denied(d) => d.to_string(),
        Verdict::Permitted(_) => "permitted".to_owned(),
        Verdict::Unknown(names) => format!("unknown: {}", names.join(", ")),
    }
}

#[test]
fn who_names_no_policy_may_dial_anything() {
    let free = Workload::default();
    assert!(Leave::unrestricted(&free).is_some_and(|leave| leave.covers(to("9.9.9.9:1"))));
    assert!(Leave::unrestricted(&source(&[], &[])).is_none());
    let all = set(vec![only("shop/p", &[])]);
    assert_eq!(told(&judge(&all, &free, vec![to("9.9.9.9:1")])), "permitted");
}

#[test]
fn a_denial_says_what_was_closest() {
    let all = set(vec![
        only("shop/db", &[(&["10.1.0.3"], &[5432]), (&["10.2.0.0/16", "10.3.0.0/16"], &[80, 443])]),
        only("shop/none", &[]),
    ]);
    let db = |target: &str| told(&judge(&all, &source(&["shop/db"], &[]), vec![to(target)]));
    assert_eq!(db("10.1.0.3:5432"), "permitted");
    assert_eq!(db("10.3.9.9:443"), "permitted");
    assert_eq!(
        db("10.1.0.3:80"),
        "egress to 10.1.0.3:80 is not let out by shop/db; nearest is shop/db rule 0: destination_ports want 5432, got 80"
    );
    assert_eq!(
        db("10.9.0.1:443"),
        "egress to 10.9.0.1:443 is not let out by shop/db; nearest is shop/db rule 0: destination_ips want \
         10.2.0.0/16 or 10.3.0.0/16, got 10.9.0.1"
    );
    assert_eq!(
        db("10.9.0.1:1"),
        "egress to 10.9.0.1:1 is not let out by shop/db; nearest is shop/db rule 0: destination_ips want 10.1.0.3/32, \
         got 10.9.0.1 (and 1 more)"
    );
    let none = judge(&all, &source(&["shop/none"], &[]), vec![to("10.1.0.3:5432")]);
    assert_eq!(told(&none), "egress to 10.1.0.3:5432 is not let out by shop/none");
    let Verdict::Denied(denial) = none else { panic!("{none:?}") };
    assert_eq!(denial.policy_name(), Some("shop/none"));
}

#[test]
fn itself_and_its_node_are_not_judged() {
    let all = set(vec![only("shop/none", &[])]);
    let pod = source(&["shop/none"], &["192.168.0.10", "fd00::a"]);
    for (target, permitted) in [
        ("10.1.0.1:80", true),
        ("[::ffff:10.1.0.1]:80", true),
        ("192.168.0.10:10250", true),
        ("[fd00::a]:10250", true),
        ("192.168.0.11:10250", false),
    ] {
        assert_eq!(told(&judge(&all, &pod, vec![to(target)])) == "permitted", permitted, "{target}");
    }
    // Nor are they held for a policy that has not come.
    assert_eq!(told(&judge(&set(vec![]), &pod, vec![to("10.1.0.1:80")])), "permitted");
}

#[test]
fn of_several_targets_each_must_be_allowed() {
    let all = set(vec![only("shop/p", &[(&["10.1.0.0/24"], &[80])])]);
    let pod = source(&["shop/p"], &[]);
    let leave = judge(&all, &pod, vec![to("10.1.0.7:80"), to("10.1.0.8:80")]);
    assert!(matches!(&leave, Verdict::Permitted(l) if l.covers(to("10.1.0.8:80")) && !l.covers(to("10.1.0.9:80"))));
    let mixed = judge(&all, &pod, vec![to("10.1.0.7:80"), to("10.2.0.8:80")]);
    assert!(told(&mixed).starts_with("egress to 10.2.0.8:80 is not let out by shop/p"), "{}", told(&mixed));
}

#[test]
fn a_policy_that_is_not_held_leaves_it_open_unless_another_denies() {
    let pod = source(&["shop/gone", "shop/p"], &[]);
    let open = set(vec![only("shop/p", &[(&["10.1.0.0/24"], &[])])]);
    assert_eq!(told(&judge(&open, &pod, vec![to("10.1.0.7:80")])), "unknown: shop/gone");
    assert!(told(&judge(&open, &pod, vec![to("10.2.0.7:80")])).starts_with("egress to"));
}

#[test]
fn a_name_is_let_out_only_where_every_address_is() {
    let name = Target { ip: None, port: 443 };
    for (lets, permitted) in [
        (&[(&[][..], &[443][..])][..], true),
        (&[(&["0.0.0.0/0", "::/0"], &[443])], true),
        (&[(&["0.0.0.0/0"], &[443])], false),
        (&[(&["10.0.0.0/8"], &[443])], false),
        (&[(&[], &[80])], false),
        (&[], false),
    ] {
        let verdict = judge(&set(vec![only("shop/p", lets)]), &source(&["shop/p"], &[]), vec![name]);
        assert_eq!(told(&verdict) == "permitted", permitted, "{lets:?}: {}", told(&verdict));
    }
    let verdict = judge(&set(vec![only("shop/p", &[])]), &source(&["shop/p"], &[]), vec![name]);
    assert_eq!(told(&verdict), "egress to a name on port 443 is not let out by shop/p");
}

#[test]
fn an_allow_policy_lets_out_what_it_matches_and_a_dry_run_decides_nothing() {
    let m = Match { destination_ports: vec![80], ..Match::default() };
    let allow = policy("shop/a", Scope::WorkloadSelector, Action::Allow, vec![crate::testing::rule(vec![m])]);
    let dry = Authorization { dry_run: true, ..only("shop/dry", &[]) };
    let all = set(vec![allow, dry]);
    let pod = source(&["shop/a", "shop/dry"], &[]);
    assert_eq!(told(&judge(&all, &pod, vec![to("10.1.0.7:80")])), "permitted");
    assert_eq!(told(&judge(&all, &pod, vec![to("10.1.0.7:81")])), "egress to 10.1.0.7:81 is not let out by shop/a");
}

const BLOCKS: [&str; 5] = ["10.0.0.1", "10.0.0.0/30", "0.0.0.0/0", "fd00::/64", "::/0"];
const ADDRESSES: [&str; 5] = ["10.0.0.1", "10.0.0.2", "10.0.1.1", "fd00::1", "2001:db8::1"];

proptest! {
    /// The rule of clauses against what it was made from: somebody lets the target out.
    #[test]
    fn a_target_passes_exactly_when_something_lets_it_out(
        lets in vec((vec(select(&BLOCKS[..]), 1..3), vec(select(&[80_u16, 81][..]), 1..2)), 0..4),
        ip in select(&ADDRESSES[..]), port in select(vec![80_u16, 81, 82]),
    ) {
        let all: Vec<(&[&str], &[u16])> = lets.iter().map(|(b, p)| (&b[..], &p[..])).collect();
        let ip: IpAddr = ip.parse().unwrap();
        let out = all.iter().any(|(b, p)| p.contains(&port) && cidrs(b).iter().any(|c| c.contains(ip)));
        let verdict = judge(&set(vec![only("shop/p", &all)]), &source(&["shop/p"], &[]), vec![Target { ip: Some(ip), port }]);
        prop_assert_eq!(told(&verdict) == "permitted", out, "{}", told(&verdict));
        // What is let out by name is let out at every address.
        let by_name = judge(&set(vec![only("shop/p", &all)]), &source(&["shop/p"], &[]), vec![Target { ip: None, port }]);
        prop_assert!(told(&by_name) != "permitted" || out);
    }
}
