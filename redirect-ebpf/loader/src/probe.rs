//! Which kernel features are missing, found by trying.
#![allow(unsafe_code, reason = "unshare(2): a scratch namespace to try things in")]

use std::fmt;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use redirect_abi::programs;

use crate::bpf::{self, Attach};
use crate::object::{self, Loader};
use crate::{RedirectError, netns, sockets, tc};

/// Something the redirector needs and this kernel (or this process's rights) does not give.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MissingFeature {
    /// What is missing.
    pub feature: &'static str,
    /// Since when kernels have it.
    pub since: &'static str,
    /// What to do.
    pub remedy: &'static str,
    /// What the kernel answered.
    pub detail: String,
}

impl fmt::Display for MissingFeature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { feature, since, remedy, detail } = self;
        write!(f, "{feature} (Linux {since}): {detail}; remedy: {remedy}")
    }
}

const PROGRAMS: [(&str, &str, &str); 10] = [
    (programs::SOCK_CREATE, "cgroup/sock_create with socket storage and bpf_set_retval", "5.18"),
    (programs::CONNECT4, "cgroup/connect4 that marks sockets and sees listeners", "5.18"),
    (programs::CONNECT6, "cgroup/connect6 that marks sockets and sees listeners", "5.18"),
    (programs::RESTORE4, "cgroup/connect4 with socket storage", "5.12"),
    (programs::RESTORE6, "cgroup/connect6 with socket storage", "5.12"),
    (programs::SETSOCKOPT, "cgroup/setsockopt with netns cookies", "5.15"),
    (programs::SOCK_OPS, "sockops with netns cookies and SOCKHASH", "5.15"),
    (programs::LOOKUP, "sk_lookup with ingress_ifindex", "5.17"),
    (programs::DNS, "tc programs that assign sockets and redirect by neighbour", "5.10"),
    (programs::GUARD, "tc programs that read the sender's cgroup and cookie", "5.6"),
];
const UPGRADE: &str =
    "run a kernel of that version or newer, with CONFIG_CGROUP_BPF, CONFIG_BPF_SYSCALL and CONFIG_BPF_JIT";
const CLSACT: &str = "build the kernel with CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF, or CONFIG_NET_XGRESS";
const RIGHTS: &str = "run as root, or with CAP_BPF, CAP_NET_ADMIN, CAP_PERFMON and CAP_SYS_ADMIN";

/// Tries everything the redirector needs, in a scratch network namespace, and leaves nothing behind.
///
/// # Errors
/// All missing features, each with the kernel that has it and the remedy.
pub fn probe() -> Result<(), Vec<MissingFeature>> {
    let outcome = std::thread::scope(|scope| scope.spawn(in_scratch).join());
    let missing = outcome.unwrap_or_else(|_| vec![missing("probing", "any", UPGRADE, "the probe ended early")]);
    if missing.is_empty() { Ok(()) } else { Err(missing) }
}

fn in_scratch() -> Vec<MissingFeature> {
    let mut found = Vec::new();
    // Why needed: rustix marks unshare unsafe, because CLONE_FILES breaks descriptor ownership.
    // SAFETY: only the network namespace of this short-lived thread changes.
    if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
        return vec![missing("network namespaces", "3.0", RIGHTS, io::Error::last_os_error())];
    }
    if let Err(error) = netns::own_cookie() {
        found.push(missing("network namespace cookies (SO_NETNS_COOKIE)", "5.14", UPGRADE, error));
    }
    if !std::path::Path::new("/proc/sys/net/ipv4/tcp_fwmark_accept").exists() {
        found.push(missing("net.ipv4.tcp_fwmark_accept", "3.15", "mount /proc", "no such setting"));
    }
    if let Err(error) = sockets::connections() {
        found.push(missing("listing connections (sock_diag)", "3.3", "build the kernel with CONFIG_INET_DIAG", error));
    }
    match Loader::new(None).load(0) {
        Ok(object) => try_programs(object, &mut found),
        Err(error) => found.push(missing("BPF maps (hash, SOCKHASH, socket storage)", "5.8", RIGHTS, error)),
    }
    found
}

fn try_programs(mut object: aya::Ebpf, found: &mut Vec<MissingFeature>) {
    for (name, feature, since) in PROGRAMS {
        let program = match object::program(&mut object, name) {
            Ok(program) => program,
            Err(error) => {
                found.push(missing(feature, since, UPGRADE, deep(&error)));
                continue;
            }
        };
        let Ok(program) = program.fd() else { continue };
        if name == programs::GUARD {
            if let Err(error) = at_device(program.as_fd()) {
                found.push(missing("programs at devices (tcx links, or the clsact qdisc)", "4.5", CLSACT, error));
            }
        } else if name == programs::LOOKUP {
            let attached = std::fs::File::open("/proc/thread-self/ns/net")
                .and_then(|netns| bpf::attach(program.as_fd(), netns.as_fd(), Attach::SkLookup, false));
            if let Err(error) = attached {
                found.push(missing("sk_lookup links", "5.9", UPGRADE, error));
            }
        }
    }
}

/// By a link, or else by a filter.
fn at_device(program: BorrowedFd<'_>) -> io::Result<()> {
    let lo = redirect_abi::LOOPBACK_IFINDEX;
    match bpf::attach_tcx_first(program, lo) {
        Err(error) if tc::unsupported(&error) => tc::try_filter(programs::GUARD, program, lo),
        other => other.map(drop),
    }
}

/// The verifier's words are in the source of the source.
fn deep(error: &RedirectError) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

fn missing(feature: &'static str, since: &'static str, remedy: &'static str, detail: impl ToString) -> MissingFeature {
    MissingFeature { feature, since, remedy, detail: detail.to_string() }
}
