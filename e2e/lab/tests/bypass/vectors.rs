//! The table: ways around the capture that a program in a pod can try by itself.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use e2e_lab::attack::{Attack, Said, Who};
use e2e_lab::wire;
use lab::Lab;

use Proof::{Carried, Counter, Left, Refused};
use Who::{Container, NetAdmin, NetRaw, Nobody, Outside, Root};

/// What shows that an attack was really tried, and what became of it. All that a vector names must hold.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Proof {
    /// A step was tried and ended with this errno.
    Refused(&'static str, &'static str),
    /// The redirector counted it (the pod's counters in the agent's `/status`).
    Counter(&'static str),
    /// Its bytes left the pod: they are on the node's end of the veth pair, where the guard stands.
    Left,
    /// The attempt changed nothing: the bytes arrived, through the tunnel.
    Carried,
}

/// One vector.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Vector {
    pub(crate) name: &'static str,
    /// Its name in `attack.py`.
    pub(crate) attack: &'static str,
    pub(crate) who: Who,
    pub(crate) proofs: &'static [Proof],
    /// The same attack from a pod outside the mesh puts its bytes on the wire in clear.
    pub(crate) leaks_elsewhere: bool,
    /// It spoils the network of its pod; the agent repairs it when it starts.
    pub(crate) spoils: bool,
}

const fn row(name: &'static str, attack: &'static str, who: Who, proofs: &'static [Proof]) -> Vector {
    Vector { name, attack, who, proofs, leaks_elsewhere: true, spoils: false }
}

/// An attack of which no router lets the frames pass, or that no unmeshed pod could make work.
const fn only_here(name: &'static str, attack: &'static str, who: Who, proofs: &'static [Proof]) -> Vector {
    Vector { leaks_elsewhere: false, ..row(name, attack, who, proofs) }
}

const fn spoils(name: &'static str, attack: &'static str, proofs: &'static [Proof]) -> Vector {
    Vector { spoils: true, leaks_elsewhere: false, ..row(name, attack, Root, proofs) }
}

const EPERM: &str = "EPERM";

/// The table.
pub(crate) const TABLE: &[Vector] = &[
    // Bound to a device: routing rules do not count then.
    row(
        "SO_BINDTODEVICE before connect",
        "device-before",
        Root,
        &[Refused("connect", EPERM), Counter("connect_bound_device")],
    ),
    row("SO_BINDTODEVICE before connect, any user", "device-before", Nobody, &[Refused("connect", EPERM)]),
    row(
        "SO_BINDTODEVICE after connect",
        "device-after",
        Root,
        &[Refused("bind", EPERM), Counter("option_refused"), Carried],
    ),
    row("SO_BINDTOIFINDEX before connect", "ifindex-before", Root, &[Refused("connect", EPERM)]),
    row("SO_BINDTOIFINDEX before connect, any user", "ifindex-before", Nobody, &[Refused("connect", EPERM)]),
    row("SO_BINDTOIFINDEX after connect", "ifindex-after", Root, &[Refused("bind", EPERM), Carried]),
    row("IP_UNICAST_IF", "unicast-if", Root, &[Carried]),
    row("disconnect, bind to the device, connect again", "reconnect", Root, &[Refused("bind", EPERM), Carried]),
    // Marks.
    row(
        "SO_MARK capture bit before connect",
        "mark-0x1000-before",
        Root,
        &[Refused("mark", EPERM), Counter("option_refused"), Carried],
    ),
    row("SO_MARK return bit before connect", "mark-0x2000-before", Root, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK 0x539 before connect", "mark-0x539-before", Root, &[Carried]),
    row("SO_MARK 0 before connect", "mark-0x0-before", Root, &[Carried]),
    row("SO_MARK capture bit after connect", "mark-0x1000-after", Root, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK return bit after connect", "mark-0x2000-after", Root, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK 0x539 after connect", "mark-0x539-after", Root, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK 0 after connect", "mark-0x0-after", Root, &[Refused("mark", EPERM), Carried]),
    row(
        "SO_MARK capture bit before connect, NET_RAW",
        "mark-0x1000-before",
        NetRaw,
        &[Refused("mark", EPERM), Carried],
    ),
    row("SO_MARK return bit before connect, NET_RAW", "mark-0x2000-before", NetRaw, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK 0x539 before connect, NET_RAW", "mark-0x539-before", NetRaw, &[Carried]),
    row("SO_MARK 0 before connect, NET_RAW", "mark-0x0-before", NetRaw, &[Carried]),
    row("SO_MARK return bit after connect, NET_RAW", "mark-0x2000-after", NetRaw, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK 0x539 after connect, NET_RAW", "mark-0x539-after", NetRaw, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK 0 after connect, NET_RAW", "mark-0x0-after", NetRaw, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK 0 after connect, NET_ADMIN", "mark-0x0-after", NetAdmin, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK 0 after connect, no capability", "mark-0x0-after", Nobody, &[Refused("mark", EPERM), Carried]),
    row("SO_MARK as a control message", "mark-by-message", Root, &[Carried]),
    row("SO_MARK 0 after connect, by io_uring", "uring-mark-after", Root, &[Refused("mark", EPERM), Carried]),
    // Other ways to a connection.
    row("v4-mapped IPv6", "v4-mapped", Root, &[Carried]),
    row("IPv6", "ipv6", Root, &[Carried]),
    row("TCP fast open by sendto", "fast-open", Root, &[Carried]),
    row("TCP_FASTOPEN_CONNECT", "fast-open-connect", Root, &[Carried]),
    row("io_uring connect and send", "uring", Root, &[Carried]),
    row("io_uring by a kernel thread", "uring-kernel-thread", Root, &[Carried]),
    row(
        "MPTCP (refused, so that programs fall back to TCP)",
        "mptcp",
        Root,
        &[Refused("socket", "EPROTONOSUPPORT"), Counter("socket_refused")],
    ),
    only_here("TCP_REPAIR: established without a handshake", "repair", Root, &[Refused("mark", EPERM)]),
    only_here("IP_TRANSPARENT with a foreign source", "foreign-source", Root, &[Counter("captured")]),
    row(
        "sockets that no hook saw (process outside the tree)",
        "plain-connect",
        Outside,
        &[Refused("connect", "timeout"), Counter("drop_app")],
    ),
    // Packets by hand.
    row("raw IPv4, TCP payload", "raw-ipv4", Root, &[Left, Counter("drop_app")]),
    row("raw IPv4, TCP payload, root in a default container", "raw-ipv4", Container, &[Left, Counter("drop_app")]),
    row("raw IPv4, TCP payload, NET_RAW", "raw-ipv4", NetRaw, &[Left, Counter("drop_app")]),
    only_here("raw IPv4 with the marks of proxies", "raw-ipv4-marked", NetRaw, &[Left, Counter("drop_app")]),
    row("raw IPv4, header by the kernel", "raw-tcp", Root, &[Left, Counter("drop_app")]),
    row("raw IPv6", "raw-ipv6", Root, &[Left, Counter("drop_app")]),
    row("SCTP (stated rule: dropped)", "sctp", Root, &[Left, Counter("drop_protocol")]),
    row("IP in IP", "ip-in-ip", Root, &[Left, Counter("drop_protocol")]),
    row("AF_PACKET: SYN with payload", "packet-syn", Root, &[Left, Counter("drop_app")]),
    row("AF_PACKET: SYN with payload, NET_RAW", "packet-syn", NetRaw, &[Left, Counter("drop_app")]),
    row("AF_PACKET: data without SYN", "packet-data", Root, &[Left, Counter("drop_app")]),
    row("AF_PACKET: data on odd flags", "packet-odd-flags", Root, &[Left, Counter("drop_app")]),
    row("AF_PACKET: bytes in TCP options", "packet-options", Root, &[Left, Counter("drop_app")]),
    only_here("AF_PACKET: bytes behind the end of the packet", "packet-trailer", Root, &[Left, Counter("drop_app")]),
    only_here("AF_PACKET: VLAN tag", "packet-vlan", Root, &[Left, Counter("drop_ether")]),
    row("AF_PACKET: IP fragments", "packet-fragments", Root, &[Left, Counter("drop_fragment")]),
    row("AF_PACKET: IPv6 extension headers", "packet-ipv6-extensions", Root, &[Left, Counter("drop_app")]),
    row("AF_XDP: frames past the stack", "af-xdp", Root, &[Left, Counter("drop_app")]),
    // Root in its own network.
    row("second interface (macvlan) with a route of its own", "second-interface", Root, &[Left, Counter("drop_app")]),
    row("forwarded from a namespace in the pod", "forwarded", Root, &[Left, Counter("drop_no_socket")]),
    row(
        "forwarded from a namespace in the pod: a bare ACK with bytes in its options",
        "forwarded-options",
        Root,
        &[Left],
    ),
    only_here(
        "packets on lo copied to the interface (nft dup)",
        "copied",
        Root,
        &[Left, Counter("drop_no_socket"), Carried],
    ),
    only_here("packets on lo moved to the interface (nft fwd)", "moved", Root, &[Left, Counter("drop_app")]),
    spoils("ip rules flushed", "rules-flushed", &[Refused("connect", "timeout"), Counter("drop_app")]),
    spoils(
        "routing tables 100 and 101 flushed",
        "routes-flushed",
        &[Refused("connect", "timeout"), Counter("drop_app")],
    ),
    spoils("a rule in front of ours", "rule-in-front", &[Refused("connect", "timeout"), Counter("drop_app")]),
];

/// Whom the vectors try to reach: in the mesh, in the mesh behind a policy, and outside.
const TARGETS: &[&str] = &["server", "protected", "plain"];

/// Tries one vector.
pub(crate) fn check(lab: &Lab, number: usize, vector: &Vector) -> Result<()> {
    let pod = if vector.spoils { "vandal" } else { "attacker" };
    let (marker, control) = (format!("cvt{number:02}x"), format!("cvt{number:02}y"));
    let attack = Attack { vector: vector.attack, pod, who: vector.who, marker: &marker, targets: TARGETS };
    let wire = lab.wire_capture("")?;
    let host = vector.proofs.iter().any(|p| matches!(p, Left)).then(|| lab.host_side_capture(pod, "")).transpose()?;
    let before = counters(lab, pod)?;
    let elsewhere = Attack { pod: "free", marker: &control, ..attack };
    let (said, free) = std::thread::scope(|scope| {
        let free = vector.leaks_elsewhere.then(|| scope.spawn(|| elsewhere.run(lab)));
        (attack.run(lab), free.map(|f| f.join()))
    });
    let said = said?;
    let wire = wire.finish()?;
    let host = host.map(lab::Capture::finish).transpose()?;
    if let Some(free) = free {
        let free = free.map_err(|_| anyhow::anyhow!("the control panicked"))??;
        ensure!(
            wire.count_bytes(control.as_bytes()) > 0,
            "no leak from outside the mesh either: the attack is no attack: {free:?}"
        );
    }
    for target in ["server", "protected"] {
        let clear = wire.count_bytes(format!("{marker}-{target}").as_bytes());
        ensure!(clear == 0, "{clear} bytes to {target} in clear: {:?}", said.get(target));
    }
    // Towards a server outside the mesh clear is right, but only from a socket of the proxy.
    let outside = said.get("plain").context("nothing was tried with plain")?;
    let ports = wire::ports_that_show(&wire, &format!("{marker}-plain"));
    let own = ports.iter().filter(|p| Some(**p) == outside.port || **p == 0).count();
    ensure!(own == 0, "{own} packets of the attacker's own to plain: {outside:?}");
    ensure!(
        !received(lab, "protected")?.contains(&marker),
        "the protected server received it: {:?}",
        said.get("protected")
    );
    ensure!(!received(lab, "protected")?.contains(&control), "the protected server received it from outside the mesh");
    for proof in vector.proofs {
        match proof {
            Refused(step, end) => refused(&said, step, end)?,
            Counter(name) => rose(&before, &counters(lab, pod)?, name, &said)?,
            Left => {
                let left = host.as_ref().map_or(0, |h| h.packets_with(marker.as_bytes()));
                ensure!(left > 0, "nothing of it left the pod: {said:?}");
            }
            Carried => {
                let answered = said.get("server").is_some_and(|s| s.ends("said").any(|a| a.starts_with("server ")));
                ensure!(answered && received(lab, "server")?.contains(&marker), "not carried: {said:?}");
            }
        }
    }
    Ok(())
}

fn refused(said: &BTreeMap<String, Said>, step: &str, end: &str) -> Result<()> {
    for (target, said) in said {
        let ends: Vec<&str> = said.ends(step).collect();
        // A step that was never reached at a target (the policy cut the connection first) proves nothing, and need not.
        if target == "server" || !ends.is_empty() {
            ensure!(
                !ends.is_empty() && ends.iter().all(|e| *e == end),
                "{step} at {target} did not end with {end}: {said:?}"
            );
        }
    }
    Ok(())
}

fn rose(before: &Counters, after: &Counters, name: &str, said: &BTreeMap<String, Said>) -> Result<()> {
    let count = |all: &Counters| all.get(name).copied().unwrap_or(0);
    if count(after) <= count(before) {
        let rest: Vec<_> = after.iter().filter(|(n, c)| before.get(*n).copied().unwrap_or(0) < **c).collect();
        bail!("{name} was not counted, only {rest:?}: {said:?}");
    }
    Ok(())
}

pub(crate) type Counters = BTreeMap<String, u64>;

/// What the redirector counted for a pod.
pub(crate) fn counters(lab: &Lab, pod: &str) -> Result<Counters> {
    let plan = lab.plan();
    let pod = plan.pod(pod)?;
    let status = lab.agent_admin(&pod.pod.node, "/status")?.json()?;
    let pods = status["pods"].as_array().context("no pods in the agent's status")?;
    let found = pods.iter().find(|p| p["uid"] == pod.uid.as_str()).context("the agent does not know the pod")?;
    Ok(serde_json::from_value(found["counters"].clone())?)
}

/// All that a recording server has written.
pub(crate) fn received(lab: &Lab, pod: &str) -> Result<String> {
    Ok(String::from_utf8_lossy(&std::fs::read(lab.log_path(&format!("pod/{pod}"))?)?).into_owned())
}
