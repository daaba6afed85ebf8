//! What can go wrong, where, and what to do about it.

use std::io;
use std::path::PathBuf;

use crate::MissingFeature;

/// Loading, pinning or talking to the maps failed.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The kernel lacks something; only found when loading fails.
    #[error("the kernel cannot carry the redirector: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Missing(Vec<MissingFeature>),
    /// The folder for pins is no BPF file system and none could be mounted there.
    #[error("{}: cannot use as BPF file system: {source}; remedy: mount -t bpf bpf {}", .path.display(), .path.display())]
    Bpffs {
        /// The configured folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The configured cgroup cannot be opened or is not on cgroup v2.
    #[error("{}: not a usable cgroup v2 folder: {source}; remedy: name the mount point of cgroup2", .path.display())]
    Cgroup {
        /// The configured folder.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// A pin is there that this program did not make, or made for something else.
    #[error("{}: {reason}; remedy: unload the redirector (this ends capture) and load again", .path.display())]
    ForeignPin {
        /// The pin.
        path: PathBuf,
        /// How it differs.
        reason: String,
    },
    /// A newer agent was here, or pins of two versions are.
    #[error(
        "{}: pins of another version than {ours}, which this agent cannot take over; remedy: run the agent that made them, or unload \
         the redirector (this ends capture) and load again", .path.display()
    )]
    OtherVersion {
        /// The other version's folder.
        path: PathBuf,
        /// Version of this agent's maps.
        ours: u32,
    },
    /// A pin could not be made, opened or removed.
    #[error("{}: pin: {source}", .path.display())]
    Pin {
        /// The pin.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// The embedded object could not be loaded.
    #[error("kernel programs: {0}")]
    Object(#[from] Box<aya::EbpfError>),
    /// The embedded object has no place, or several, for a pod's cookie.
    #[error("kernel programs: the object does not fit this loader; remedy: make ebpf, and build again")]
    Unpatchable,
    /// The kernel refused a program.
    #[error("kernel program {name}: {source}")]
    Program {
        /// Its name in the object.
        name: &'static str,
        /// What the verifier said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program could not be attached or replaced.
    #[error("attach {name}: {source}")]
    Attach {
        /// Its name in the object.
        name: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A map operation failed.
    #[error("map {name}: {source}")]
    Map {
        /// Its name in the object.
        name: &'static str,
        /// What the kernel said.
        source: Box<aya::maps::MapError>,
    },
    /// The pod is not enrolled.
    #[error("no pod with namespace cookie {cookie} is enrolled; remedy: enroll it first")]
    UnknownPod {
        /// The cookie that was asked for.
        cookie: u64,
    },
    /// The kubelet has no cgroup of its own.
    #[error(
        "the kubelet runs in the root cgroup like everybody; remedy: give it one of its own (kubeletCgroups, or a systemd service)"
    )]
    KubeletInRoot,
    /// Generation 0 means "none".
    #[error("proxy generation 0 is reserved; remedy: count generations from 1")]
    ZeroGeneration,
}

/// A pod could not be enrolled or un-enrolled. After a failed enrolment nothing of the pod is left.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// Maps, pins or programs.
    #[error(transparent)]
    Redirect(#[from] RedirectError),
    /// The pod has no address that could be captured.
    #[error("pod {uid}: no address; remedy: wait until the network plugin has set one")]
    NoAddress {
        /// The pod.
        uid: String,
    },
    /// Another mesh captures the pod.
    #[error(
        "pod {uid}: {mesh} captures it already ({found}); remedy: take it out of {mesh} and make it anew, then enroll it"
    )]
    OtherMesh {
        /// The pod.
        uid: String,
        /// Which mesh.
        mesh: &'static str,
        /// What shows it.
        found: String,
    },
    /// Somebody's policy routing in the pod fights with ours.
    #[error(
        "pod {uid}: {found}, and Culvert needs tables 100 and 101 and mark bits 0x3000 in the pod; remedy: let whoever made it \
         use others (the CNI plug-in sbr takes tables from 100 on)"
    )]
    Conflict {
        /// The pod.
        uid: String,
        /// What was found.
        found: String,
    },
    /// The UID does not fit.
    #[error("pod {uid}: UID longer than {max} bytes", max = redirect_abi::UID_BYTES)]
    LongUid {
        /// The pod.
        uid: String,
    },
    /// The namespace could not be entered or asked.
    #[error(
        "network namespace of {whose}: {source}; remedy: check that the pod still runs and that we have CAP_SYS_ADMIN"
    )]
    Namespace {
        /// Pod or host side.
        whose: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A setting in the pod's namespace could not be written.
    #[error("{path} in the pod's namespace: {source}; remedy: mount /proc/sys writable for the agent")]
    Sysctl {
        /// The setting.
        path: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// A rule or route in the pod's namespace could not be changed.
    #[error("{what} in the pod's namespace: {source}; remedy: check CAP_NET_ADMIN and that the pod has the address")]
    Route {
        /// What was to be changed.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pod's connections could not be listed or closed.
    #[error(
        "connections of the pod: {source}; remedy: the kernel needs CONFIG_INET_DIAG, and CONFIG_INET_DIAG_DESTROY to close them"
    )]
    Sockets {
        /// What the kernel said.
        source: io::Error,
    },
    /// The host's end of the pod's link was not found.
    #[error(
        "host side of the pod's link {link}: {source}; remedy: name the veth's end outside of the pod, and set the network plugin to veth (no netkit, ipvlan, macvlan)"
    )]
    HostLink {
        /// As given.
        link: String,
        /// What the kernel said.
        source: io::Error,
    },
}
