//! Loading, attaching and replacing the programs that serve all pods.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use redirect_abi::{maps, programs};

use crate::bpf::{self, Attach, LinkTarget};
use crate::netns::inside;
use crate::object::{self, Loader};
use crate::pins::{self, Pins};
use crate::store::{Store, gone, keys, map_error};
use crate::tc::Way;
use crate::{RedirectError, migrate, order};

/// Where to attach and pin.
#[derive(Clone, Debug)]
pub struct LoadConfig {
    /// A cgroup v2 folder at or above the cgroups of all pods and proxies, commonly the mount point.
    pub cgroup_root: PathBuf,
    /// BPF file system for the pins; one is mounted there when none is. Design name: `/sys/fs/bpf`.
    pub bpffs: PathBuf,
}

/// The loaded redirector. Dropping it changes nothing: programs and maps are pinned.
pub struct Redirector {
    pub(crate) pins: Pins,
    pub(crate) store: Store,
    pub(crate) loader: Loader,
    pub(crate) cgroup_root: PathBuf,
    /// Namespace of the host's ends of the pods' links, as named by the last enrolment; `None` = that of the calling thread.
    pub(crate) host: Option<OwnedFd>,
    pub(crate) way: Way,
}

/// The programs at the cgroup, and which run before everybody's. The one that tags proxies comes first, so that none is captured
/// while the rest is attached; those that put destinations back come last.
const HOOKS: [(&str, Attach, bool); 7] = [
    (programs::SOCK_CREATE, Attach::SockCreate, false),
    (programs::SETSOCKOPT, Attach::SetSockopt, false),
    (programs::SOCK_OPS, Attach::SockOps, false),
    (programs::CONNECT4, Attach::Connect4, true),
    (programs::CONNECT6, Attach::Connect6, true),
    (programs::RESTORE4, Attach::Connect4, false),
    (programs::RESTORE6, Attach::Connect6, false),
];

impl Redirector {
    /// Loads the programs, or takes over from an earlier load: maps are kept, programs are replaced in place without a gap.
    ///
    /// # Errors
    /// See [`RedirectError`]; [`crate::probe`] says in advance what the kernel lacks.
    pub fn load(config: &LoadConfig) -> Result<Self, RedirectError> {
        let bad_cgroup = |source| RedirectError::Cgroup { path: config.cgroup_root.clone(), source };
        let cgroup = open_cgroup(&config.cgroup_root).map_err(bad_cgroup)?;
        let cgroup_id = cgroup.metadata().map_err(bad_cgroup)?.ino();
        let pins = Pins::prepare(&config.bpffs)?;
        let aside = migrate::set_aside(&pins)?;
        let mut loader = Loader::new(Some(&pins));
        let mut object = loader.load(0)?;
        aside.copy(&pins)?;
        let store = Store::open(&mut object, &pins)?;
        for (name, attach, first) in HOOKS {
            let program = object::program(&mut object, name)?;
            let failed = |source| RedirectError::Program { name, source: Box::new(source) };
            let program = program.fd().map_err(failed)?;
            let hook = Hook { name, pin: name, attach, first, moves: false };
            attach_hook(&pins, hook, program.as_fd(), (cgroup.as_fd(), cgroup_id))?;
        }
        let cgroup_root = config.cgroup_root.clone();
        let mut redirector = Self { pins, store, loader, cgroup_root, host: None, way: Way::default() };
        redirector.replace_pod_programs()?;
        aside.remove(&redirector.pins)?;
        for hook in redirector.keep_order()? {
            tracing::warn!(%hook, "the proxy may see pods' addresses instead of Services'");
        }
        tracing::info!(cgroup = %config.cgroup_root.display(), "redirector loaded");
        Ok(redirector)
    }

    /// Puts the guard and the DNS program at devices by `clsact` filters from now on, also where the kernel has tcx links. Without
    /// this call filters are used where the kernel has no tcx links (before 6.6).
    pub fn prefer_clsact(&mut self) {
        self.way = Way::Clsact;
    }

    /// Says where the host's ends of the pods' links are, for what is done before the first enrolment; without this call it is the
    /// namespace of the calling thread, and each enrolment says it anew.
    ///
    /// # Errors
    /// When the descriptor cannot be kept.
    pub fn set_host(&mut self, netns: BorrowedFd<'_>) -> io::Result<()> {
        self.host = Some(netns.try_clone_to_owned()?);
        Ok(())
    }

    /// Runs something in the namespace of the host's ends of the pods' links.
    pub(crate) fn at_host<T: Send>(&self, work: impl FnOnce() -> T + Send) -> io::Result<T> {
        match &self.host {
            Some(netns) => inside(netns.as_fd(), work),
            None => Ok(work()),
        }
    }

    /// Takes all programs, links and maps away, those of other versions too: capture ends on this node. Rules and routes inside pods stay where pods were not
    /// un-enrolled; they do nothing without marks.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn unload(bpffs: &Path) -> Result<(), RedirectError> {
        Pins::every(bpffs)?.iter().try_for_each(Pins::remove_all)?;
        Pins::remove_home(bpffs)
    }

    /// Declares a cgroup to be a proxy's: sockets made in it from now on are tagged with this generation; generations count upwards.
    /// Call it before the proxy opens sockets in pods (the cgroup comes from the credentials of its hand-over connection).
    ///
    /// # Errors
    /// Generation 0 is refused; map errors.
    pub fn register_proxy(&mut self, cgroup_id: u64, generation: u32) -> Result<(), RedirectError> {
        if generation == 0 {
            return Err(RedirectError::ZeroGeneration);
        }
        self.store.proxies.insert(cgroup_id, generation, 0).map_err(|e| map_error(maps::PROXIES, e))
    }

    /// Takes a cgroup's rights away: the guard drops TCP of its sockets from now on, also the last FIN of a proxy that just ended; so
    /// call it when the cgroup is gone, or to cut a proxy off. One that was not registered is not missed.
    ///
    /// # Errors
    /// Map errors.
    pub fn forget_proxy(&mut self, cgroup_id: u64) -> Result<(), RedirectError> {
        gone(maps::PROXIES, self.store.proxies.remove(&cgroup_id))
    }

    /// Makes a generation the one that receives a pod's new connections. The one before becomes the fall-back.
    ///
    /// # Errors
    /// Unknown pod, generation 0, map errors.
    pub fn activate(&mut self, cookie: u64, generation: u32) -> Result<(), RedirectError> {
        if generation == 0 {
            return Err(RedirectError::ZeroGeneration);
        }
        let mut pod = self.store.pod(cookie)?.ok_or(RedirectError::UnknownPod { cookie })?;
        if pod.active == generation {
            return Ok(());
        }
        pod.previous = pod.active;
        pod.active = generation;
        self.store.set_pod(cookie, pod)?;
        // Slots of generations that can never serve again. Newer ones may be about to listen, so they are left alone.
        let oldest = if pod.previous == 0 { generation } else { generation.min(pod.previous) };
        let stale =
            keys(maps::SLOTS, self.store.slots.keys(), |key| key.0.cookie == cookie && key.0.generation < oldest)?;
        stale.iter().try_for_each(|key| gone(maps::SLOTS, self.store.slots.remove(key)))
    }

    /// Puts fresh programs into the links of enrolled pods. Filters get theirs when the pod is enrolled again, which an agent does first.
    fn replace_pod_programs(&mut self) -> Result<(), RedirectError> {
        for cookie in self.pins.pod_cookies()? {
            let mut object = self.loader.load(cookie)?;
            for (name, path) in [
                (programs::LOOKUP, self.pins.lookup(cookie)),
                (programs::GUARD, self.pins.guard(cookie)),
                (programs::DNS, self.pins.dns(cookie)),
            ] {
                if let Some(link) = open_live(&path)? {
                    let program = object::program(&mut object, name)?;
                    let failed = |source| RedirectError::Program { name, source: Box::new(source) };
                    let program = program.fd().map_err(failed)?;
                    bpf::replace(link.as_fd(), program.as_fd())
                        .map_err(|source| RedirectError::Attach { name, source })?;
                }
            }
        }
        Ok(())
    }
}

/// Opens a pinned per-pod link; `None` when there is no pin, or what the link hung on is gone.
pub(crate) fn open_live(path: &Path) -> Result<Option<OwnedFd>, RedirectError> {
    let Some((link, target)) = open_link(path)? else { return Ok(None) };
    let dead = matches!(target, LinkTarget::Netns { inode: 0 } | LinkTarget::Tcx { ifindex: 0 });
    Ok((!dead).then_some(link))
}

/// Opens a pinned link with what it hangs on.
pub(crate) fn open_link(path: &Path) -> Result<Option<(OwnedFd, LinkTarget)>, RedirectError> {
    let link = match bpf::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other.map_err(|source| RedirectError::Pin { path: path.into(), source })?,
    };
    let target = bpf::target(link.as_fd())
        .map_err(|error| RedirectError::ForeignPin { path: path.into(), reason: error.to_string() })?;
    Ok(Some((link, target)))
}

/// A program at a cgroup.
pub(crate) struct Hook {
    pub(crate) name: &'static str,
    /// Name of its pin.
    pub(crate) pin: &'static str,
    pub(crate) attach: Attach,
    /// Before all others.
    pub(crate) first: bool,
    /// A link to another cgroup is an earlier one of ours.
    pub(crate) moves: bool,
}

/// Attaches a program to a cgroup (and its id), or replaces it there.
pub(crate) fn attach_hook(
    pins: &Pins,
    hook: Hook,
    program: BorrowedFd<'_>,
    (cgroup, cgroup_id): (BorrowedFd<'_>, u64),
) -> Result<(), RedirectError> {
    let Hook { name, pin, attach, first, moves } = hook;
    let path = pins.links().join(pin);
    let failed = |source| RedirectError::Attach { name, source };
    // Left by an agent that ended while it changed the order.
    pins::remove_link(&order::fresh(&path))?;
    match open_link(&path)? {
        Some((link, LinkTarget::Cgroup { id })) if id == cgroup_id => {
            return bpf::replace(link.as_fd(), program).map_err(failed);
        }
        // The cgroup was removed and the link with it.
        Some((_, LinkTarget::Cgroup { id: 0 })) => pins::remove_link(&path)?,
        Some((_, LinkTarget::Cgroup { .. })) if moves => pins::remove_link(&path)?,
        Some((_, other)) => {
            let reason = format!("attached to {other:?}, wanted cgroup {cgroup_id}");
            return Err(RedirectError::ForeignPin { path, reason });
        }
        None => {}
    }
    let link = bpf::attach(program, cgroup, attach, first).map_err(failed)?;
    bpf::pin(link.as_fd(), &path).map_err(|source| RedirectError::Pin { path, source })
}

pub(crate) fn open_cgroup(path: &Path) -> io::Result<File> {
    /// CGROUP2_SUPER_MAGIC, include/uapi/linux/magic.h
    const CGROUP2: i64 = 0x6367_7270;
    let folder = File::open(path)?;
    if rustix::fs::fstatfs(&folder)?.f_type != CGROUP2 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not on cgroup v2"));
    }
    Ok(folder)
}
