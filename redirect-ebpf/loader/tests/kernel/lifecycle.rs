//! The agent's own life: death, restart, upgrade, wrong pins, failed enrolments.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use aya::maps::MapData;
use aya::programs::links::{FdLink, PinnedLink};
use redirect_loader::{
    EnrollError, HostLink, Leave, Left, Link, LoadConfig, PodSpec, PodState, Reason, RedirectError, Redirector,
};

use crate::Test;
use crate::generations::echo;
use crate::lab::{AT_ONCE, Lab, PEER4, POD4, POD6, call, eventually, serve};

pub const TESTS: &[Test] = &[
    ("a_dead_agent_changes_nothing", a_dead_agent_changes_nothing),
    ("programs_are_replaced_while_connections_run", programs_are_replaced_while_connections_run),
    ("unload_ends_capture", unload_ends_capture),
    ("foreign_pins_are_refused", foreign_pins_are_refused),
    ("a_wrong_cgroup_is_named", a_wrong_cgroup_is_named),
    ("a_failed_enrolment_leaves_nothing", a_failed_enrolment_leaves_nothing),
    ("enrolling_again_repairs_the_guard", enrolling_again_repairs_the_guard),
    ("a_pod_that_died_is_forgotten", a_pod_that_died_is_forgotten),
    ("an_ipv4_pod_cannot_call_ipv6", an_ipv4_pod_cannot_call_ipv6),
    ("another_mesh_in_the_pod_is_named", another_mesh_in_the_pod_is_named),
    ("no_connect_waits_for_an_enrolment", no_connect_waits_for_an_enrolment),
];

/// Neither one that the pod makes nor one to it: a SYN that is lost is sent again after a second.
fn no_connect_waits_for_an_enrolment() {
    let mut lab = Lab::new();
    let mut proxy = lab.proxy(1);
    let _servers = [lab.run("peer", || serve("[::]:80")), lab.run("pod", || serve("[::]:8080"))];
    let stop = AtomicBool::new(false);
    let (pod, peer) = (lab.netns("pod"), lab.netns("peer"));
    let dial = |netns: &std::fs::File, to: &str| {
        use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
        move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
        let (mut calls, mut slowest) = (0, Duration::ZERO);
        while !stop.load(Ordering::Relaxed) {
            let begun = Instant::now();
            call(to).unwrap_or_else(|e| panic!("call {calls} to {to}: {e}"));
            slowest = slowest.max(begun.elapsed());
            calls += 1;
        }
        (calls, slowest)
    };
    std::thread::scope(|scope| {
        let ways = [(&pod, format!("{PEER4}:80")), (&peer, format!("{POD4}:8080"))];
        let callers = ways.map(|(netns, to)| scope.spawn(move || dial(netns, &to)));
        for _ in 0..10 {
            proxy.listen_all();
            lab.enroll_with(Some(1), true).unwrap();
            let gone = || lab.redirector().unenroll(pod.as_fd(), Leave::WhenIdle).unwrap() == Left::Gone;
            assert!(eventually(gone));
            proxy.close();
        }
        stop.store(true, Ordering::Relaxed);
        for caller in callers {
            let (calls, slowest) = caller.join().unwrap();
            assert!(calls > 10 && slowest < AT_ONCE, "{calls} calls, the slowest took {slowest:?}");
        }
    });
}

fn a_dead_agent_changes_nothing() {
    let (mut lab, _proxy) = Lab::captured();
    let cookie = lab.cookie();
    lab.redirector = None;
    for (from, to) in [("pod", format!("{PEER4}:80")), ("peer", format!("{POD4}:80"))] {
        assert_eq!(lab.run(from, || call(&to)).unwrap().1.generation, 1);
    }
    lab.load();
    let pods = lab.redirector().pods().unwrap();
    assert_eq!(pods.len(), 1);
    let pod = &pods[0];
    assert_eq!((pod.cookie, pod.uid.as_str()), (cookie, "11111111-2222-3333-4444-555555555555"));
    assert_eq!((pod.active, pod.previous, pod.state), (1, 0, PodState::Enrolled));
    assert!(pod.lookup_attached && pod.guard_attached);
    let mut addresses = pod.addresses.clone();
    addresses.sort();
    assert_eq!(addresses, [POD4.parse::<IpAddr>().unwrap(), POD6.parse().unwrap()]);
    assert!(lab.count(Reason::LookupOutbound) >= 1);
}

fn programs_are_replaced_while_connections_run() {
    let (mut lab, _proxy) = Lab::captured();
    let (mut held, _) = lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap();
    let before = program_ids(&lab);
    let stop = AtomicBool::new(false);
    let redirector = lab.redirector.take();
    let calls = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                for (from, to) in [("pod", format!("{PEER4}:80")), ("peer", format!("{POD4}:80"))] {
                    let (_, said) = lab.run(from, || call(&to)).unwrap_or_else(|e| panic!("call {calls} to {to}: {e}"));
                    assert_eq!(said.generation, 1, "call {calls} to {to}");
                    calls += 1;
                }
            }
            calls
        });
        drop(redirector);
        for _ in 0..5 {
            drop(Redirector::load(&lab.config).unwrap());
        }
        stop.store(true, Ordering::Relaxed);
        caller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(calls >= 10, "only {calls} calls were made while programs were replaced");
    assert!(program_ids(&lab).iter().all(|id| !before.contains(id)), "a program was not replaced");
    lab.load();
    echo(&mut held);
}

/// Ids of the programs in the pinned links.
fn program_ids(lab: &Lab) -> Vec<u32> {
    let root = lab.config.bpffs.join("culvert/v1");
    let pod = root.join("pods").join(lab.cookie().to_string());
    let mut ids = Vec::new();
    for folder in [root.join("links"), pod] {
        for entry in std::fs::read_dir(folder).unwrap() {
            let link = FdLink::from(PinnedLink::from_pin(entry.unwrap().path()).unwrap());
            ids.push(link.info().unwrap().program_id());
        }
    }
    assert_eq!(ids.len(), 9);
    ids
}

fn unload_ends_capture() {
    let (mut lab, _proxy) = Lab::captured();
    let _server = lab.run("peer", || serve("[::]:80"));
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 1);
    lab.redirector = None;
    Redirector::unload(&lab.config.bpffs).unwrap();
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 0);
    // And again from nothing.
    lab.load();
    assert!(lab.redirector().pods().unwrap().is_empty());
}

fn foreign_pins_are_refused() {
    let mut lab = Lab::new();
    lab.redirector = None;
    let root = lab.config.bpffs.join("culvert/v1");
    let refused = |what: &str| match Redirector::load(&lab.config).err() {
        Some(error @ RedirectError::ForeignPin { .. }) => assert!(error.to_string().contains("remedy"), "{error}"),
        other => panic!("{what}: {other:?}"),
    };
    // A map of another shape in the place of one of ours.
    std::fs::rename(root.join("maps/PODS"), root.join("aside")).unwrap();
    std::fs::rename(root.join("maps/META"), root.join("maps/PODS")).unwrap();
    refused("another map");
    std::fs::rename(root.join("maps/PODS"), root.join("maps/META")).unwrap();
    std::fs::rename(root.join("aside"), root.join("maps/PODS")).unwrap();
    // A map where a link should be.
    std::fs::rename(root.join("links/culvert_conn4"), root.join("aside")).unwrap();
    std::fs::rename(root.join("maps/TAGS"), root.join("links/culvert_conn4")).unwrap();
    refused("a map for a link");
    std::fs::rename(root.join("links/culvert_conn4"), root.join("maps/TAGS")).unwrap();
    std::fs::rename(root.join("aside"), root.join("links/culvert_conn4")).unwrap();
    // Unloading is the remedy, so it works in spite of that.
    std::fs::rename(root.join("maps/PODS"), root.join("aside")).unwrap();
    std::fs::rename(root.join("maps/META"), root.join("maps/PODS")).unwrap();
    refused("another map again");
    Redirector::unload(&lab.config.bpffs).unwrap();
    drop(Redirector::load(&lab.config).unwrap());
    // Another cgroup than the one the pins belong to.
    let elsewhere = LoadConfig { cgroup_root: lab.config.cgroup_root.join("app"), ..lab.config.clone() };
    assert!(matches!(Redirector::load(&elsewhere), Err(RedirectError::ForeignPin { .. })));
    lab.load();
}

fn a_wrong_cgroup_is_named() {
    let lab = Lab::new();
    for folder in ["/nowhere", "/proc"] {
        let config = LoadConfig { cgroup_root: folder.into(), ..lab.config.clone() };
        let error = Redirector::load(&config).err().unwrap();
        assert!(matches!(error, RedirectError::Cgroup { .. }), "{error}");
        assert!(error.to_string().contains(folder));
    }
}

fn a_failed_enrolment_leaves_nothing() {
    let mut lab = Lab::new();
    let _server = lab.run("peer", || serve("[::]:80"));
    let (pod, node) = (lab.netns("pod"), lab.netns("node"));
    let addresses = [POD4.parse::<IpAddr>().unwrap()];
    let spec = PodSpec {
        uid: "pod",
        netns: pod.as_fd(),
        addresses: &addresses,
        host_link: HostLink { netns: node.as_fd(), link: Link::Name("absent0") },
        generation: None,
        keep_established: true,
        dns: false,
    };
    let error = lab.redirector().enroll(&spec).unwrap_err();
    assert!(matches!(error, EnrollError::HostLink { .. }), "{error}");
    nothing_left(&mut lab);
    // A guard on another device would guard nothing: one that leads elsewhere, and one that leads nowhere.
    for link in [Link::Name("up0"), Link::Name("lo"), Link::Index(4000)] {
        let wrong = PodSpec { host_link: HostLink { netns: node.as_fd(), link }, ..spec.clone() };
        let error = lab.redirector().enroll(&wrong).unwrap_err();
        assert!(matches!(error, EnrollError::HostLink { .. }), "{link:?}: {error}");
        assert!(lab.redirector().pods().unwrap().is_empty());
    }
    // Links that have no place for a guard are named as what they are.
    lab.ip("node", "link add bridge0 type bridge");
    lab.ip("node", &format!("link add link up0 name net7 netns {} type macvlan mode bridge", lab.ns("pod")));
    for (name, words) in [("bridge0", "is a bridge device"), ("up0", "ipvlan and macvlan name their parent here")] {
        let link = Link::Name(name);
        let other = PodSpec { host_link: HostLink { netns: node.as_fd(), link }, ..spec.clone() };
        let text = lab.redirector().enroll(&other).unwrap_err().to_string();
        assert!(text.contains(words) && text.contains("set the network plugin to veth"), "{text}");
    }
    lab.ip("pod", "link del net7");
    // An address that the pod does not have cannot be a source.
    let foreign = [PEER4.parse::<IpAddr>().unwrap()];
    let good = PodSpec { host_link: HostLink { netns: node.as_fd(), link: Link::Name("pod0") }, ..spec.clone() };
    let error = lab.redirector().enroll(&PodSpec { addresses: &foreign, ..good.clone() }).unwrap_err();
    assert!(matches!(error, EnrollError::Route { .. }), "{error}");
    nothing_left(&mut lab);
    // The last step fails: something else is pinned where the guard belongs.
    let folder = lab.config.bpffs.join("culvert/v1/pods").join(lab.cookie().to_string());
    std::fs::create_dir(&folder).unwrap();
    let tags = MapData::from_pin(lab.config.bpffs.join("culvert/v1/maps/TAGS")).unwrap();
    tags.pin(folder.join("guard")).unwrap();
    let error = lab.redirector().enroll(&PodSpec { dns: true, ..good }).unwrap_err();
    assert!(matches!(error, EnrollError::Redirect(RedirectError::ForeignPin { .. })), "{error}");
    nothing_left(&mut lab);
    let error = lab.redirector().enroll(&PodSpec { addresses: &[], ..spec.clone() }).unwrap_err();
    assert!(matches!(error, EnrollError::NoAddress { .. }), "{error}");
    let long = "u".repeat(65);
    let error = lab.redirector().enroll(&PodSpec { uid: &long, ..spec }).unwrap_err();
    assert!(matches!(error, EnrollError::LongUid { .. }), "{error}");
    lab.enroll();
}

/// As if nobody had ever tried.
fn nothing_left(lab: &mut Lab) {
    assert!(lab.redirector().pods().unwrap().is_empty());
    assert!(!lab.config.bpffs.join("culvert/v1/pods").join(lab.cookie().to_string()).exists());
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 0);
    lab.run("pod", || {
        let accept = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_fwmark_accept").unwrap();
        assert_eq!(accept.trim(), "0");
    });
    assert!(crate::leaving::rules(lab).iter().all(|rule| !rule.starts_with("2:\t")));
}

fn enrolling_again_repairs_the_guard() {
    let (mut lab, _proxy) = Lab::captured();
    let pod = lab.config.bpffs.join("culvert/v1/pods").join(lab.cookie().to_string());
    for pin in ["guard", "lookup"] {
        std::fs::remove_file(pod.join(pin)).unwrap();
    }
    let status = lab.redirector().pods().unwrap().remove(0);
    assert!(!status.guard_attached && !status.lookup_attached);
    lab.enroll();
    let status = lab.redirector().pods().unwrap().remove(0);
    assert!(status.guard_attached && status.lookup_attached);
    assert_eq!((status.active, status.previous), (1, 0));
    assert_eq!(lab.run("peer", || call(&format!("{POD4}:80"))).unwrap().1.generation, 1);
}

fn a_pod_that_died_is_forgotten() {
    let (mut lab, proxy) = Lab::captured();
    drop(proxy);
    let cookie = lab.cookie();
    lab.ip("node", "link del pod0");
    lab.ip_plain(&format!("netns del {}", lab.ns("pod")));
    // The namespace lives until the last of its sockets is gone.
    assert!(crate::lab::eventually(|| {
        let status = lab.redirector().pods().unwrap().remove(0);
        !status.guard_attached && !status.lookup_attached
    }));
    lab.redirector().forget(cookie).unwrap();
    assert!(lab.redirector().pods().unwrap().is_empty());
    assert!(matches!(lab.redirector().counters(cookie), Err(RedirectError::UnknownPod { .. })));
    lab.ip_plain(&format!("netns add {}", lab.ns("pod")));
}

fn an_ipv4_pod_cannot_call_ipv6() {
    let mut lab = Lab::new();
    let (pod, node) = (lab.netns("pod"), lab.netns("node"));
    let addresses = [POD4.parse::<IpAddr>().unwrap()];
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    lab.redirector()
        .enroll(&PodSpec {
            uid: "four",
            netns: pod.as_fd(),
            addresses: &addresses,
            host_link: HostLink { netns: node.as_fd(), link: Link::Name("pod0") },
            generation: Some(1),
            keep_established: false,
            dns: false,
        })
        .unwrap();
    assert_eq!(lab.run("pod", || call(&format!("{PEER4}:80"))).unwrap().1.generation, 1);
    let error = lab.run("pod", || call("[fd78::2]:80")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(1));
    assert_eq!(lab.count(Reason::ConnectUnroutable), 1);
}

fn nft(lab: &Lab, rules: &str) {
    let netns = format!("--net={}", lab.path("pod").display());
    let status = std::process::Command::new("nsenter").args([&netns, "nft", rules]).status().unwrap();
    assert!(status.success(), "{rules}");
}

fn another_mesh_in_the_pod_is_named() {
    let mut lab = Lab::new();
    let _server = lab.run("peer", || serve("[::]:80"));
    let refused = |lab: &mut Lab, word: &str| -> EnrollError {
        let error = lab.enroll_with(None, true).unwrap_err();
        let text = error.to_string();
        assert!(text.contains(word) && text.contains("remedy"), "{text}");
        nothing_left(lab);
        error
    };
    for family in ["-4", "-6"] {
        lab.ip("pod", &format!("{family} rule add pref 32764 fwmark 0x111/0xfff lookup 77"));
        lab.ip("pod", &format!("{family} rule add pref 900 lookup 101"));
        let error = refused(&mut lab, "rule 900 leads to table 101");
        assert!(matches!(error, EnrollError::Conflict { .. }), "{error}");
        lab.ip("pod", &format!("{family} rule del pref 900"));
        lab.ip("pod", &format!("{family} rule add pref 901 fwmark 0x1000/0x1000 lookup 77"));
        refused(&mut lab, "mark 0x1000/0x1000");
        lab.ip("pod", &format!("{family} rule del pref 901"));
    }
    for rule in ["-4", "-6"] {
        lab.ip("pod", &format!("{rule} rule add pref 32764 fwmark 0x111/0xfff lookup 100"));
        refused(&mut lab, "Istio ambient");
        lab.ip("pod", &format!("{rule} rule del pref 32764 lookup 100"));
    }
    for command in ["iptables-legacy", "ip6tables-legacy"] {
        let netns = format!("--net={}", lab.path("pod").display());
        let run = |arguments: &[&str]| {
            let status =
                std::process::Command::new("nsenter").arg(&netns).arg(command).args(arguments).status().unwrap();
            assert!(status.success(), "{command} {arguments:?}");
        };
        run(&["-t", "nat", "-N", "ISTIO_OUTPUT"]);
        refused(&mut lab, "chain ISTIO_OUTPUT in table nat");
        run(&["-t", "nat", "-X", "ISTIO_OUTPUT"]);
    }
    nft(&lab, "add table inet istio-ambient-nat; add chain inet istio-ambient-nat istio-output");
    let error = refused(&mut lab, "Istio ambient");
    assert!(matches!(error, EnrollError::OtherMesh { .. }), "{error}");
    nft(&lab, "delete table inet istio-ambient-nat");
    nft(&lab, "add table ip nat; add chain ip nat PROXY_INIT_OUTPUT");
    refused(&mut lab, "Linkerd");
    nft(&lab, "delete table ip nat; add table ip mine; add chain ip mine o");
    lab.enroll();
    // Once enrolled it stays so; only the log tells.
    nft(&lab, "add table inet istio-ambient-nat; add chain inet istio-ambient-nat istio-output");
    lab.enroll();
}
