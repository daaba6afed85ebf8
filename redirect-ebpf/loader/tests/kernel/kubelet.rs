//! Probes of the kubelet reach applications past the proxy; nobody else does.

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

use redirect_loader::{Reason, RedirectError};

use crate::Test;
use crate::actor::Proxy;
use crate::lab::{Lab, NODE4, NODE6, PEER4, POD4, POD6, Said, eventually, mount_point, serve};

pub const TESTS: &[Test] = &[
    ("a_kubelet_reaches_a_pod_without_proxy", a_kubelet_reaches_a_pod_without_proxy),
    ("a_kubelet_passes_the_proxy", a_kubelet_passes_the_proxy),
    ("others_of_the_node_do_not", others_of_the_node_do_not),
    ("a_tuple_is_the_kubelets_while_it_is_open", a_tuple_is_the_kubelets_while_it_is_open),
    ("a_remote_host_does_not_get_the_port", a_remote_host_does_not_get_the_port),
    ("an_answer_shows_the_pods_own_address", an_answer_shows_the_pods_own_address),
    ("a_kubelet_elsewhere_is_nobody", a_kubelet_elsewhere_is_nobody),
    ("a_kubelet_outside_of_the_root_is_found", a_kubelet_outside_of_the_root_is_found),
    ("the_root_cgroup_is_no_kubelet", the_root_cgroup_is_no_kubelet),
];

fn app4() -> String {
    format!("{POD4}:8080")
}

fn app6() -> String {
    format!("[{POD6}]:8080")
}

fn kubelet(lab: &mut Lab) -> Proxy {
    let process = lab.process("kubelet", "node");
    let (cgroup, node) = (lab.cgroup_of("kubelet"), lab.netns("node"));
    let id = lab.redirector().exempt_kubelet(&cgroup, node.as_fd()).unwrap();
    assert_eq!(id, std::fs::metadata(&cgroup).unwrap().ino());
    process
}

/// Open, with bytes in both directions (the server's line), and closed by both sides without a packet held back.
fn probe(lab: &mut Lab, kubelet: &mut Proxy) {
    for (app, node) in [(app4(), NODE4), (app6(), NODE6)] {
        let said = Said::parse(&kubelet.dial(0, &app));
        assert_eq!((said.generation, said.local), (0, app.parse().unwrap()), "{app}");
        assert_eq!(said.peer.ip(), node.parse::<std::net::IpAddr>().unwrap());
    }
    assert_eq!(lab.redirector().open_probes().unwrap(), 2);
    kubelet.hang_up(false);
    assert!(eventually(|| lab.redirector().open_probes().unwrap() == 0), "tuples stay after the close");
    assert!(eventually(|| connections(lab) == 0), "the application's end of a probe did not close");
    assert_eq!([lab.count(Reason::DropApp), lab.count(Reason::DropNoSocket)], [0, 0]);
    assert!(lab.count(Reason::LookupProbe) >= 2 && lab.count(Reason::GuardProbe) >= 6);
}

/// TCP connections in the pod that are not over.
fn connections(lab: &Lab) -> usize {
    lab.run("pod", || {
        let rows = |path| std::fs::read_to_string(path).unwrap();
        let table = rows("/proc/thread-self/net/tcp") + &rows("/proc/thread-self/net/tcp6");
        // Column 4 is the state: 0A listening, 06 TIME_WAIT.
        let states = table.lines().filter_map(|line| line.split_whitespace().nth(3).map(str::to_owned));
        states.filter(|state| !["st", "0A", "06"].contains(&state.as_str())).count()
    })
}

fn a_kubelet_reaches_a_pod_without_proxy() {
    let mut lab = Lab::new();
    let _server = lab.run("pod", || serve("[::]:8080"));
    lab.enroll_with(None, false).unwrap();
    let mut kubelet = kubelet(&mut lab);
    probe(&mut lab, &mut kubelet);
}

fn a_kubelet_passes_the_proxy() {
    let (mut lab, _proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    let mut kubelet = kubelet(&mut lab);
    probe(&mut lab, &mut kubelet);
    assert_eq!(lab.count(Reason::LookupInbound), 0);
    // A closed port is refused by the pod itself, at once.
    assert_eq!(kubelet.dial(0, &format!("{POD4}:9")), "error ConnectionRefused");
    assert!(eventually(|| lab.redirector().open_probes().unwrap() == 0));
    // The proxy's own ports are not applications.
    for (port, listener) in [(15001, 15006), (15006, 15006), (15008, 15008)] {
        let said = Said::parse(&kubelet.dial(0, &format!("{POD4}:{port}")));
        assert_eq!((said.generation, said.port), (1, listener), "{port}");
    }
}

fn others_of_the_node_do_not() {
    let (mut lab, proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    let mut kubelet = kubelet(&mut lab);
    let mut other = lab.process("other", "node");
    assert_eq!(Said::parse(&kubelet.dial(0, &app4())).generation, 0);
    for app in [app4(), app6()] {
        let said = Said::parse(&other.dial(0, &app));
        assert_eq!((said.generation, said.port), (1, 15006), "{app}");
    }
    drop(proxy);
    for app in [app4(), app6()] {
        assert_eq!(other.dial(0, &app), "error ConnectionRefused", "{app}");
        assert_eq!(Said::parse(&kubelet.dial(0, &app)).generation, 0, "{app}");
    }
    // Forgotten, it is one of the others.
    let id = std::fs::metadata(lab.cgroup_of("kubelet")).unwrap().ino();
    lab.redirector().forget_kubelet(id).unwrap();
    assert_eq!(kubelet.dial(0, &app4()), "error ConnectionRefused");
}

fn a_tuple_is_the_kubelets_while_it_is_open() {
    let (mut lab, _proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    let mut kubelet = kubelet(&mut lab);
    let mut other = lab.process("other", "node");
    for app in [app4(), app6()] {
        assert_eq!(Said::parse(&kubelet.dial(45001, &app)).generation, 0);
        // Nobody else on the node can have the tuple now.
        assert!(other.dial(45001, &app).starts_with("error Addr"), "{app}");
        kubelet.hang_up(true);
        assert!(eventually(|| lab.redirector().open_probes().unwrap() == 0));
        // A reset leaves no TIME_WAIT, so the very same tuple can be had at once.
        let said = Said::parse(&other.dial(45001, &app));
        assert_eq!((said.generation, said.port, said.peer.port()), (1, 15006, 45001), "{app}");
        other.hang_up(true);
    }
}

fn a_remote_host_does_not_get_the_port() {
    let (mut lab, _proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    let mut kubelet = kubelet(&mut lab);
    let mut remote = lab.process("remote", "peer");
    for app in [app4(), app6()] {
        assert_eq!(Said::parse(&kubelet.dial(45002, &app)).generation, 0);
        let said = Said::parse(&remote.dial(45002, &app));
        assert_eq!((said.generation, said.peer.port()), (1, 45002), "{app}");
    }
    let said = Said::parse(&remote.dial(45002, &format!("{POD4}:8081")));
    assert_eq!((said.generation, said.peer.ip().to_string().as_str()), (1, PEER4));
}

/// Root in a pod answers in a neighbour's name, while the kubelet calls that neighbour.
fn an_answer_shows_the_pods_own_address() {
    let (mut lab, _proxy) = Lab::captured();
    let mut kubelet = kubelet(&mut lab);
    // A neighbour that does not exist: the kubelet's SYN waits for its address.
    let neighbour = [10, 77, 0, 9];
    let caller = std::thread::spawn(move || kubelet.dial(45003, "10.77.0.9:8080"));
    assert!(eventually(|| lab.redirector().open_probes().unwrap() == 1));
    let mut segment = crate::wire::segment(0x10);
    segment[..2].copy_from_slice(&8080u16.to_be_bytes());
    segment[2..4].copy_from_slice(&45003u16.to_be_bytes());
    let mut packet = crate::wire::ipv4(6, 0, &segment);
    packet[12..16].copy_from_slice(&neighbour);
    packet[16..20].copy_from_slice(&NODE4.parse::<std::net::Ipv4Addr>().unwrap().octets());
    let dropped = |lab: &Lab| lab.count(Reason::DropApp) + lab.count(Reason::DropNoSocket);
    let before = dropped(&lab);
    lab.run("pod", || crate::wire::send_frame(&crate::wire::frame(&packet)));
    assert!(eventually(|| dropped(&lab) == before + 1));
    assert_eq!(lab.count(Reason::GuardProbe), 0);
    assert!(caller.join().unwrap().starts_with("error"));
}

fn a_kubelet_elsewhere_is_nobody() {
    let (mut lab, _proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    // Its cgroup is the kubelet's, but it calls from another namespace than the node's.
    let mut kubelet = lab.process("kubelet", "peer");
    let (cgroup, node) = (lab.cgroup_of("kubelet"), lab.netns("node"));
    lab.redirector().exempt_kubelet(&cgroup, node.as_fd()).unwrap();
    assert_eq!(Said::parse(&kubelet.dial(0, &app4())).generation, 1);
    assert_eq!(lab.redirector().open_probes().unwrap(), 0);
}

fn a_kubelet_outside_of_the_root_is_found() {
    let (mut lab, _proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("[::]:8080"));
    let node = lab.netns("node");
    // Twice, because a restarted kubelet comes in another cgroup; the first one is forgotten.
    let mut earlier: Option<Proxy> = None;
    for round in 0..2 {
        let cgroup = mount_point().join(format!("culvert-kubelet-{}-{round}", std::process::id()));
        let cgroup = lab.make_cgroup(cgroup);
        let mut kubelet = Proxy::start(0, &cgroup, &lab.path("node"));
        assert_eq!(Said::parse(&kubelet.dial(0, &app4())).generation, 1);
        for _ in 0..2 {
            lab.redirector().exempt_kubelet(&cgroup, node.as_fd()).unwrap();
        }
        assert_eq!(Said::parse(&kubelet.dial(0, &app4())).generation, 0);
        if let Some(earlier) = &mut earlier {
            assert_eq!(Said::parse(&earlier.dial(0, &app4())).generation, 1);
        }
        earlier = Some(kubelet);
    }
    // A new agent finds it again.
    lab.redirector = None;
    lab.load();
    assert_eq!(Said::parse(&earlier.unwrap().dial(0, &app4())).generation, 0);
}

fn the_root_cgroup_is_no_kubelet() {
    let mut lab = Lab::new();
    let node = lab.netns("node");
    let error = lab.redirector().exempt_kubelet(&mount_point(), node.as_fd()).unwrap_err();
    assert!(matches!(error, RedirectError::KubeletInRoot), "{error}");
    let error = lab.redirector().exempt_kubelet("/nowhere".as_ref(), node.as_fd()).unwrap_err();
    assert!(error.to_string().contains("/nowhere"), "{error}");
}
