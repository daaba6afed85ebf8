//! A load balancer in the socket layer, as Cilium and Calico have: a connect hook that turns a Service's address into a pod's.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use redirect_loader::Reason;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::Test;
use crate::lab::{Lab, PATIENCE, PEER4, PEER6, call, mount_point, serve};

pub const TESTS: &[Test] = &[
    ("a_balancer_that_was_there_first", a_balancer_that_was_there_first),
    ("a_balancer_that_comes_later", a_balancer_that_comes_later),
    ("a_balancer_in_the_pods_cgroup", a_balancer_in_the_pods_cgroup),
    ("a_balancer_above_is_named", a_balancer_above_is_named),
    ("a_balancer_that_is_restarted_all_the_time", a_balancer_that_is_restarted_all_the_time),
    ("what_is_not_captured_is_balanced", what_is_not_captured_is_balanced),
    ("a_note_does_not_outlive_its_connect", a_note_does_not_outlive_its_connect),
];

// In no cluster's range: for a moment one test changes them on the whole machine (RFC 2544 section 12.1.2, and a ULA of ours).
const VIP4: [u8; 4] = [198, 18, 0, 77];
const VIP6: [u16; 8] = [0xfd77, 0x7777, 0, 0, 0, 0, 0, 0x77];
const PORT: u16 = 80;
/// Where the peer's server listens.
const BACKEND_PORT: u16 = 8888;

fn services() -> [String; 3] {
    ["198.18.0.77:80".into(), "[fd77:7777::77]:80".into(), "[::ffff:198.18.0.77]:80".into()]
}

// enum bpf_cmd, bpf_attach_type, include/uapi/linux/bpf.h
const PROG_LOAD: u32 = 5;
const PROG_ATTACH: u32 = 8;
const PROG_DETACH: u32 = 9;
const LINK_CREATE: u32 = 28;
const CGROUP_SOCK_ADDR: u32 = 18;
const CONNECT4: u32 = 10;
const CONNECT6: u32 = 11;
const ALLOW_MULTI: u32 = 2;
// struct bpf_sock_addr
const USER_IP4: i16 = 4;
const USER_IP6: i16 = 8;
const USER_PORT: i16 = 24;

pub fn bpf<const N: usize>(command: u32, attr: &mut [u32; N]) -> io::Result<i64> {
    // SAFETY: a prefix of union bpf_attr with its true size; pointers in it outlive the call.
    let value = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), size_of_val(attr)) };
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

/// One instruction: code, destination, source, offset, immediate.
fn op(code: u8, dst: u8, src: u8, offset: i16, immediate: u32) -> u64 {
    u64::from(code) | u64::from(dst | src << 4) << 8 | u64::from(offset as u16) << 16 | u64::from(immediate) << 32
}

const LOAD: u8 = 0x61;
const STORE: u8 = 0x63;
const SET: u8 = 0xb4;
const JUMP_UNEQUAL: u8 = 0x56;

/// `if every word is as asked { write the other words }; return 1`
fn code(asked: &[(i16, u32)], written: &[(i16, u32)]) -> Vec<u64> {
    let mut code = Vec::new();
    let end = asked.len() * 2 + written.len() * 2;
    for (offset, value) in asked {
        code.push(op(LOAD, 2, 1, *offset, 0));
        let rest = (end - code.len() - 1) as i16;
        code.push(op(JUMP_UNEQUAL, 2, 0, rest, *value));
    }
    for (offset, value) in written {
        code.push(op(SET, 2, 0, 0, *value));
        code.push(op(STORE, 1, 2, *offset, 0));
    }
    code.push(op(SET, 0, 0, 0, 1));
    code.push(op(0x95, 0, 0, 0, 0));
    code
}

fn load(code: &[u64], expected: u32) -> OwnedFd {
    let license = b"GPL\0";
    let (insns, license) = (code.as_ptr() as u64, license.as_ptr() as u64);
    // prog_type, insn_cnt, insns, license, log_level, log_size, log_buf, kern_version, prog_flags, prog_name, ifindex, expected
    let mut attr = [0u32; 18];
    attr[0] = CGROUP_SOCK_ADDR;
    attr[1] = code.len() as u32;
    (attr[2], attr[3]) = (insns as u32, (insns >> 32) as u32);
    (attr[4], attr[5]) = (license as u32, (license >> 32) as u32);
    attr[12..16].copy_from_slice(&[u32::from_le_bytes(*b"bala"), u32::from_le_bytes(*b"ncer"), 0, 0]);
    attr[17] = expected;
    let fd = bpf(PROG_LOAD, &mut attr).unwrap();
    // SAFETY: a new descriptor that nobody else owns.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn word(bytes: [u8; 4]) -> u32 {
    u32::from_ne_bytes(bytes)
}

fn words6(address: &str) -> [u32; 4] {
    let octets = address.parse::<std::net::Ipv6Addr>().unwrap().octets();
    [0, 4, 8, 12].map(|at| word(octets[at..at + 4].try_into().unwrap()))
}

/// Three rules: IPv4, IPv6, v4-mapped.
struct Balancer {
    cgroup: File,
    /// Attached without links, as Cilium did for years; empty when by links.
    programs: Vec<(OwnedFd, u32)>,
    /// They live as long as these.
    _links: Vec<OwnedFd>,
}

impl Balancer {
    fn programs() -> Vec<(OwnedFd, u32)> {
        let port = u32::from(PORT.to_be());
        let backend = u32::from(BACKEND_PORT.to_be());
        let peer4 = word(PEER4.parse::<std::net::Ipv4Addr>().unwrap().octets());
        let four = code(&[(USER_IP4, word(VIP4)), (USER_PORT, port)], &[(USER_IP4, peer4), (USER_PORT, backend)]);
        let at = |words: [u32; 4]| [0, 1, 2, 3].map(|i| (USER_IP6 + 4 * i as i16, words[i]));
        let vip6 = words6(&std::net::Ipv6Addr::from(VIP6).to_string());
        let six = code(&at(vip6), &[at(words6(PEER6)).as_slice(), &[(USER_PORT, backend)]].concat());
        let mapped =
            code(&at([0, 0, word([0, 0, 0xff, 0xff]), word(VIP4)]), &[(USER_IP6 + 12, peer4), (USER_PORT, backend)]);
        [(four, CONNECT4), (six, CONNECT6), (mapped, CONNECT6)].map(|(code, at)| (load(&code, at), at)).into()
    }

    fn attach(cgroup: &Path, by_link: bool) -> Self {
        let cgroup = File::open(cgroup).unwrap();
        let (programs, mut links) = (Self::programs(), Vec::new());
        for (program, at) in &programs {
            let (target, program) = (cgroup.as_raw_fd() as u32, program.as_raw_fd() as u32);
            if by_link {
                let link = bpf(LINK_CREATE, &mut [program, target, *at, 0, 0, 0, 0, 0]).unwrap();
                // SAFETY: a new descriptor that nobody else owns.
                links.push(unsafe { OwnedFd::from_raw_fd(link as i32) });
            } else {
                bpf(PROG_ATTACH, &mut [target, program, *at, ALLOW_MULTI]).unwrap();
            }
        }
        let programs = if by_link { Vec::new() } else { programs };
        Self { cgroup, programs, _links: links }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        for (program, at) in &self.programs {
            let (target, program) = (self.cgroup.as_raw_fd() as u32, program.as_raw_fd() as u32);
            if let Err(error) = bpf(PROG_DETACH, &mut [target, program, *at, 0]) {
                eprintln!("clean-up: balancer: {error}");
            }
        }
    }
}

fn serving(lab: &mut Lab) -> crate::actor::Proxy {
    lab.enroll();
    let mut proxy = lab.proxy(1);
    proxy.listen_all();
    lab.activate(1);
    proxy
}

/// The proxy sees the Service's address, and the application too.
fn services_reach_the_proxy(lab: &Lab) {
    for service in services() {
        let (stream, said) = lab.run("pod", || call(&service)).unwrap_or_else(|e| panic!("{service}: {e}"));
        let wanted = crate::actor::canonical(service.parse::<SocketAddr>().unwrap());
        assert_eq!((said.generation, said.port, said.local), (1, 15001, wanted), "{service}");
        assert_eq!(crate::actor::canonical(stream.peer_addr().unwrap()), wanted);
    }
}

fn a_balancer_that_was_there_first() {
    for by_link in [false, true] {
        let mut lab = Lab::unloaded();
        let _balancer = Balancer::attach(&lab.config.cgroup_root, by_link);
        lab.load();
        let _proxy = serving(&mut lab);
        services_reach_the_proxy(&lab);
        assert_eq!((lab.count(Reason::ConnectRestored), lab.count(Reason::ConnectRewritten)), (3, 0));
        assert_eq!(lab.redirector().keep_order().unwrap(), []);
    }
}

fn a_balancer_that_comes_later() {
    for by_link in [false, true] {
        let (mut lab, _proxy) = Lab::captured();
        for round in 0..3 {
            let _balancer = Balancer::attach(&lab.config.cgroup_root, by_link);
            // Captured all the same, but the proxy sees the pod that the balancer chose: counted.
            let before = lab.count(Reason::ConnectRewritten);
            let (_, said) = lab.run("pod", || call(&services()[0])).unwrap();
            assert_eq!((said.generation, said.local), (1, format!("{PEER4}:{BACKEND_PORT}").parse().unwrap()));
            assert_eq!(lab.count(Reason::ConnectRewritten), before + 1, "round {round}");
            assert_eq!(lab.redirector().keep_order().unwrap(), []);
            services_reach_the_proxy(&lab);
            assert_eq!(lab.count(Reason::ConnectRewritten), before + 1, "round {round}");
        }
        // And without it.
        services_reach_the_proxy(&lab);
        assert_eq!(lab.redirector().keep_order().unwrap(), []);
    }
}

fn a_balancer_in_the_pods_cgroup() {
    let (mut lab, _proxy) = Lab::captured();
    let _balancer = Balancer::attach(&lab.config.cgroup_root.join("app"), true);
    services_reach_the_proxy(&lab);
    assert_eq!(lab.count(Reason::ConnectRestored), 3);
    assert_eq!(lab.redirector().keep_order().unwrap(), []);
}

fn a_balancer_above_is_named() {
    let (mut lab, _proxy) = Lab::captured();
    let balancer = Balancer::attach(&mount_point(), true);
    let left = lab.redirector().keep_order().unwrap();
    assert_eq!(
        left.iter().map(|hook| (hook.v6, hook.after)).collect::<Vec<_>>(),
        [(false, true), (true, true), (true, true)]
    );
    assert!(left.iter().all(|hook| hook.program == "balancer" && hook.to_string().contains("remedy")), "{left:?}");
    // Still captured, and said to be wrong.
    assert_eq!(lab.run("pod", || call(&services()[0])).unwrap().1.generation, 1);
    assert_eq!(lab.count(Reason::ConnectRewritten), 1);
    drop(balancer);
    assert_eq!(lab.redirector().keep_order().unwrap(), []);
    services_reach_the_proxy(&lab);
}

fn a_balancer_that_is_restarted_all_the_time() {
    let (mut lab, _proxy) = Lab::captured();
    let root = lab.config.cgroup_root.clone();
    let stop = AtomicBool::new(false);
    let mut redirector = lab.redirector.take().unwrap();
    let calls = std::thread::scope(|scope| {
        let caller = scope.spawn(|| {
            let mut calls = 0;
            while !stop.load(Ordering::Relaxed) {
                let (_, said) = lab.run("pod", || call(&services()[calls % 3])).unwrap();
                assert_eq!((said.generation, said.port), (1, 15001), "call {calls}");
                calls += 1;
            }
            calls
        });
        for round in 0..10 {
            let _balancer = Balancer::attach(&root, round % 2 == 0);
            assert_eq!(redirector.keep_order().unwrap(), []);
        }
        stop.store(true, Ordering::Relaxed);
        caller.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    });
    assert!(calls > 0);
    lab.redirector = Some(redirector);
    services_reach_the_proxy(&lab);
}

fn what_is_not_captured_is_balanced() {
    let mut lab = Lab::unloaded();
    let _balancer = Balancer::attach(&lab.config.cgroup_root, true);
    lab.load();
    let _server = lab.run("peer", || serve(&format!("[::]:{BACKEND_PORT}")));
    // Before the enrolment, and in namespaces that are never enrolled.
    for service in services() {
        assert_eq!(lab.run("pod", || call(&service)).unwrap().1.generation, 0, "{service}");
    }
    let mut proxy = serving(&mut lab);
    assert_eq!(lab.run("node", || call(&services()[0])).unwrap().1.generation, 0);
    // The proxy's own connects are not ours to put back.
    assert!(proxy.connect("-", &services()[0], 0).starts_with("gen=0"));
    assert_eq!(lab.count(Reason::ConnectRestored), 0);
}

fn a_note_does_not_outlive_its_connect() {
    let (lab, _proxy) = Lab::captured();
    let _server = lab.run("pod", || serve("127.0.0.1:7070"));
    lab.run("pod", || {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        let said = |socket: &Socket| {
            let mut said = [0u8; 6];
            std::io::Read::read_exact(&mut &*socket, &mut said).unwrap();
            String::from_utf8(said.to_vec()).unwrap()
        };
        let to = |text: &str| SockAddr::from(text.parse::<SocketAddr>().unwrap());
        socket.connect_timeout(&to("10.96.0.77:80"), PATIENCE).unwrap();
        assert_eq!(said(&socket), "gen=1 ");
        crate::leaving::disconnect(&socket);
        socket.connect_timeout(&to("127.0.0.1:7070"), PATIENCE).unwrap();
        assert_eq!(said(&socket), "gen=0 ");
        crate::leaving::disconnect(&socket);
        socket.connect_timeout(&to("10.96.0.78:80"), PATIENCE).unwrap();
        assert_eq!(said(&socket), "gen=1 ");
        assert_eq!(socket.peer_addr().unwrap(), to("10.96.0.78:80"));
    });
    assert_eq!((lab.count(Reason::ConnectRestored), lab.count(Reason::ConnectRewritten)), (0, 0));
}
