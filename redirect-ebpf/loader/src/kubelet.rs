//! The node's kubelet: the one process whose probes reach applications without the proxy.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use redirect_abi::{Kubelet, maps, programs};

use crate::bpf::Attach;
use crate::netns::cookie_of;
use crate::object;
use crate::redirector::{Hook, attach_hook, open_cgroup};
use crate::store::{Raw, gone, map_error};
use crate::{RedirectError, Redirector, pins};

/// What must run at the kubelet's cgroup: its sockets are tagged at birth and filed when they connect.
const HOOKS: [(&str, &str, Attach); 2] = [
    ("kubelet_sock", programs::SOCK_CREATE, Attach::SockCreate),
    ("kubelet_sockops", programs::SOCK_OPS, Attach::SockOps),
];
/// The root of a cgroup hierarchy has this inode: KERNFS_ROOT_INO, fs/kernfs.
const ROOT_INODE: u64 = 1;

impl Redirector {
    /// Exempts the kubelet that runs in this cgroup and probes from this network namespace, and forgets every other kubelet of that
    /// namespace. Where the cgroup is not below the configured root, programs are attached to it as well. Call it again when the
    /// kubelet was restarted: systemd makes a new cgroup then. Returns the cgroup's id.
    ///
    /// What runs in the cgroup counts as the kubelet, its helper programs too; so it must be the kubelet's own
    /// (`/system.slice/kubelet.service`, `/kubelet`).
    ///
    /// # Errors
    /// A cgroup that cannot be opened or that is the root of all; attaching; map errors.
    pub fn exempt_kubelet(&mut self, cgroup: &Path, host: BorrowedFd<'_>) -> Result<u64, RedirectError> {
        let bad = |source| RedirectError::Cgroup { path: cgroup.into(), source };
        let folder = open_cgroup(cgroup).map_err(bad)?;
        let id = folder.metadata().map_err(bad)?.ino();
        let netns = cookie_of(host).map_err(|source| RedirectError::Cgroup { path: cgroup.into(), source })?;
        if id == ROOT_INODE {
            return Err(RedirectError::KubeletInRoot);
        }
        let (inside, root) = (cgroup.canonicalize().map_err(bad)?, self.cgroup_root.canonicalize().map_err(bad)?);
        if inside.starts_with(root) {
            for (pin, _, _) in HOOKS {
                pins::remove_link(&self.pins.links().join(pin))?;
            }
        } else {
            let mut object = self.loader.load(0)?;
            for (pin, name, attach) in HOOKS {
                let program = object::program(&mut object, name)?;
                let failed = |source| RedirectError::Program { name, source: Box::new(source) };
                let program = program.fd().map_err(failed)?.as_fd().try_clone_to_owned();
                let program = program.map_err(|source| RedirectError::Attach { name, source })?;
                // A link to the cgroup of an earlier kubelet is taken off: it was the one of this node.
                let hook = Hook { name, pin, attach, first: false, moves: true };
                attach_hook(&self.pins, hook, program.as_fd(), (folder.as_fd(), id))?;
            }
        }
        for (other, kubelet) in self.kubelets()? {
            if kubelet.netns == netns && other != id {
                self.forget_kubelet(other)?;
            }
        }
        let value = Raw(Kubelet { netns });
        self.store.kubelets.insert(id, value, 0).map_err(|e| map_error(maps::KUBELETS, e))?;
        Ok(id)
    }

    /// Takes the exemption away: new connections of that cgroup meet the policy; those that are open go on. One that was not
    /// registered is not missed.
    ///
    /// # Errors
    /// Map errors.
    pub fn forget_kubelet(&mut self, cgroup_id: u64) -> Result<(), RedirectError> {
        gone(maps::KUBELETS, self.store.kubelets.remove(&cgroup_id))
    }

    /// How many connections the kubelets have open, among them those that are no probes.
    ///
    /// # Errors
    /// Map errors.
    pub fn open_probes(&self) -> Result<usize, RedirectError> {
        let mut open = 0;
        for key in self.store.probes.keys() {
            key.map_err(|e| map_error(maps::PROBES, e))?;
            open += 1;
        }
        Ok(open)
    }

    fn kubelets(&self) -> Result<Vec<(u64, Kubelet)>, RedirectError> {
        let entries = self.store.kubelets.iter();
        entries.map(|entry| entry.map(|(id, k)| (id, k.0)).map_err(|e| map_error(maps::KUBELETS, e))).collect()
    }
}
