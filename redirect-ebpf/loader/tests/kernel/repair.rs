//! Enrolling again puts right what is damaged, and damages nothing when it fails.

use std::net::IpAddr;
use std::os::fd::AsFd;

use redirect_loader::{EnrollError, HostLink, Link, PodSpec};

use crate::Test;
use crate::generations::echo;
use crate::lab::{Lab, PEER4, PEER6, POD4, POD6, call};

pub const TESTS: &[Test] = &[
    ("a_failed_repair_leaves_what_stands", a_failed_repair_leaves_what_stands),
    ("lost_rules_and_routes_are_seen_and_repaired", lost_rules_and_routes_are_seen_and_repaired),
];

fn a_failed_repair_leaves_what_stands() {
    let (mut lab, _proxy) = Lab::captured();
    let (mut held, _) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    let (pod, node) = (lab.netns("pod"), lab.netns("node"));
    let before = crate::leaving::rules(&lab);
    // An IPv6 address that the pod does not have (yet) cannot be a source.
    let addresses = [POD4.parse::<IpAddr>().unwrap(), PEER6.parse().unwrap()];
    let spec = PodSpec {
        uid: "pod",
        netns: pod.as_fd(),
        addresses: &addresses,
        host_link: HostLink { netns: node.as_fd(), link: Link::Name("pod0") },
        generation: None,
        keep_established: true,
        dns: false,
    };
    let error = lab.redirector().enroll(&spec).unwrap_err();
    assert!(matches!(error, EnrollError::Route { .. }), "{error}");
    let after = crate::leaving::rules(&lab);
    let lost: Vec<&String> = before.iter().filter(|rule| !after.contains(rule)).collect();
    assert!(lost.is_empty(), "{lost:#?}");
    lab.run("pod", || {
        let accept = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fwmark_accept").unwrap();
        assert_eq!(accept.trim(), "1");
    });
    echo(&mut held);
    for (from, to) in [("pod", format!("{PEER4}:80")), ("peer", format!("{POD4}:80"))] {
        assert_eq!(lab.run(from, || call(&to)).unwrap().1.generation, 1, "{to}");
    }
}

fn lost_rules_and_routes_are_seen_and_repaired() {
    let mut lab = Lab::new();
    lab.dns = true;
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    let addresses = [POD4.parse::<IpAddr>().unwrap(), POD6.parse().unwrap()];
    let routed = |lab: &Lab, dns| redirect_loader::is_routed(lab.netns("pod").as_fd(), &addresses, dns).unwrap();
    assert!(!routed(&lab, false));
    lab.enroll_with(Some(1), true).unwrap();
    assert!(routed(&lab, true));
    for family in ["-4", "-6"] {
        let own = if family == "-4" { POD4 } else { POD6 };
        let damages = [
            "rule flush".to_owned(),
            "rule del pref 0".to_owned(),
            "rule del pref 1".to_owned(),
            "rule del pref 2".to_owned(),
            "rule del pref 3".to_owned(),
            "rule del pref 4".to_owned(),
            "rule del pref 5".to_owned(),
            "rule del pref 6".to_owned(),
            "route flush table 100".to_owned(),
            format!("route del local {own} dev lo table 101"),
        ];
        for damage in damages {
            lab.ip("pod", &format!("{family} {damage}"));
            assert!(!routed(&lab, true), "{family} {damage} was not seen");
            lab.enroll_with(None, true).unwrap();
            assert!(routed(&lab, true), "{family} {damage} was not repaired");
        }
        // A rule of somebody else's before ours.
        lab.ip("pod", &format!("{family} rule add pref 1 lookup main"));
        assert!(!routed(&lab, true), "{family}: a rule before ours was not seen");
        lab.ip("pod", &format!("{family} rule del pref 1 lookup main"));
        // One behind them, as VPNs have, does no harm.
        lab.ip("pod", &format!("{family} rule add pref 5210 lookup 52"));
        assert!(routed(&lab, true));
    }
    lab.enroll_with(None, true).unwrap();
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 1);
}
