//! Everything that the guard and the DNS program do, on kernels without tcx links: by filters of the clsact qdisc.

use std::os::fd::AsFd;
use std::sync::atomic::Ordering;

use redirect_loader::{Leave, Left};

use crate::Test;
use crate::lab::{CLSACT, Lab, PEER4, call};
use crate::{bypass, handmade, homes, kubelet, leaving, lifecycle, questions};

pub const TESTS: &[Test] = &[
    ("clsact_holds_what_tcx_holds", clsact_holds_what_tcx_holds),
    ("clsact_filters_come_and_go", clsact_filters_come_and_go),
    ("a_link_takes_over_from_a_filter", a_link_takes_over_from_a_filter),
];

/// Only while a test runs, also when it fails.
struct Forced;

impl Forced {
    fn on() -> Self {
        CLSACT.store(true, Ordering::Relaxed);
        Self
    }
}

impl Drop for Forced {
    fn drop(&mut self) {
        CLSACT.store(false, Ordering::Relaxed);
    }
}

fn clsact_holds_what_tcx_holds() {
    let _forced = Forced::on();
    // The first two look at pins of links. For the third the kernel takes the device down and up for a moment when it gets the qdisc
    // (net/sched/sch_api.c, `qdisc_graft`), and what is sent then is lost.
    let apart = [
        "programs_are_replaced_while_connections_run",
        "enrolling_again_repairs_the_guard",
        "no_connect_waits_for_an_enrolment",
    ];
    let suites = [
        handmade::TESTS,
        bypass::TESTS,
        leaving::TESTS,
        lifecycle::TESTS,
        kubelet::TESTS,
        questions::TESTS,
        homes::TESTS,
    ];
    for (name, test) in suites.concat().iter().filter(|(name, _)| !apart.contains(name)) {
        let start = std::time::Instant::now();
        test();
        println!("  with clsact: {name} ({} ms)", start.elapsed().as_millis());
    }
}

/// What `tc filter show` says of a device's ingress.
fn filters(lab: &Lab, role: &str, device: &str) -> String {
    let output = std::process::Command::new("tc")
        .args(["-n", &lab.ns(role), "filter", "show", "dev", device, "ingress"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn clsact_filters_come_and_go() {
    let _forced = Forced::on();
    let mut lab = Lab::new();
    lab.dns = true;
    for round in 0..3 {
        lab.enroll();
        for (role, device, name) in [("node", "pod0", "culvert_guard"), ("pod", "lo", "culvert_dns")] {
            let shown = filters(&lab, role, device);
            let lines: Vec<&str> = shown.lines().filter(|line| line.contains(" handle ")).collect();
            assert!(lines.len() == 1 && lines[0].contains(name), "round {round}: {shown}");
        }
        assert!(lab.redirector().pods().unwrap()[0].guard_attached);
        // A new agent, which enrols its pods again: replaced, not added.
        lab.redirector = None;
        lab.load();
    }
    let pod = lab.netns("pod");
    lab.enroll();
    assert_eq!(lab.redirector().unenroll(pod.as_fd(), Leave::WhenIdle).unwrap(), Left::Gone);
    for (role, device) in [("node", "pod0"), ("pod", "lo")] {
        assert!(!filters(&lab, role, device).contains("culvert"), "{role} {device}");
    }
    let _server = lab.run("peer", || crate::lab::serve("[::]:80"));
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 0);
}

fn a_link_takes_over_from_a_filter() {
    let forced = Forced::on();
    let mut lab = Lab::new();
    lab.dns = true;
    lab.enroll();
    assert!(filters(&lab, "node", "pod0").contains("culvert_guard"));
    lab.redirector = None;
    drop(forced);
    lab.load();
    lab.enroll();
    for (role, device) in [("node", "pod0"), ("pod", "lo")] {
        assert!(!filters(&lab, role, device).contains("handle 0x4356"), "{role} {device}");
    }
    assert!(lab.redirector().pods().unwrap()[0].guard_attached);
}
