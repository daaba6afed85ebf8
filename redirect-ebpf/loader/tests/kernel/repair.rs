//! Enrolling again puts right what is damaged, and damages nothing when it fails.

use std::net::IpAddr;
use std::os::fd::AsFd;

use redirect_loader::{EnrollError, HostLink, Link, PodSpec};

use crate::Test;
use crate::generations::echo;
use crate::lab::{Lab, PEER4, PEER6, POD4, POD6, call};

pub const TESTS: &[Test] = &[("a_failed_repair_leaves_what_stands", a_failed_repair_leaves_what_stands)];

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
