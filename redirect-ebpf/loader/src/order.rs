//! Keeping our connect hooks around those of others (design: a Service's address must reach the proxy).
//!
//! The first one decides and notes where the application wants to go; the last one puts that back. Kernels from 6.15 on let the
//! first one run before everybody's (BPF_F_PREORDER). The last one is last as long as nobody attaches a program after it at the same
//! cgroup or above; then it is attached anew behind that, unless the other one is above.

use std::os::fd::{AsFd, BorrowedFd};

use redirect_abi::programs;

use crate::bpf::{self, Attach};
use crate::redirector::{open_cgroup, open_link};
use crate::{RedirectError, Redirector, pins};

/// A program of somebody else that may change where connects go, at a place where we cannot put that right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignHook {
    /// Its name.
    pub program: String,
    /// Its id, as `bpftool prog` shows it.
    pub id: u32,
    /// For IPv6 and v4-mapped sockets, not IPv4.
    pub v6: bool,
    /// It runs after ours, not before.
    pub after: bool,
}

impl std::fmt::Display for ForeignHook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { program, id, v6, after } = self;
        let (hook, place) = (if *v6 { "connect6" } else { "connect4" }, if *after { "after" } else { "before" });
        write!(
            f,
            "program {program} (id {id}) at {hook} runs {place} ours and may turn a Service's address into a pod's; remedy: restrict \
             socket load balancing to the host's namespace (Cilium: socketLB.hostNamespaceOnly=true; Calico: \
             bpfConnectTimeLoadBalancing=Disabled), or set cgroupRoot to the cgroup where it is attached"
        )
    }
}

/// First and last program of each family.
const PAIRS: [(&str, &str, Attach, bool); 2] = [
    (programs::CONNECT4, programs::RESTORE4, Attach::Connect4, false),
    (programs::CONNECT6, programs::RESTORE6, Attach::Connect6, true),
];

impl Redirector {
    /// Puts our connect hooks around those of others again, if others came between (a load balancer that was restarted). Returns
    /// those that stay outside. Cheap enough for every audit; connects that are made meanwhile are captured all along.
    ///
    /// # Errors
    /// When the kernel does not tell the order, or a program cannot be attached anew.
    pub fn keep_order(&mut self) -> Result<Vec<ForeignHook>, RedirectError> {
        let root = self.cgroup_root.clone();
        let bad = |source| RedirectError::Cgroup { path: root.clone(), source };
        let cgroup = open_cgroup(&root).map_err(bad)?;
        let mut left = Vec::new();
        for (first, last, attach, v6) in PAIRS {
            let before = self.outside(cgroup.as_fd(), first, last, attach)?;
            if before.iter().any(|(_, after)| !after) {
                self.renew(cgroup.as_fd(), first, attach, true)?;
            }
            if before.iter().any(|(_, after)| *after) {
                self.renew(cgroup.as_fd(), last, attach, false)?;
            }
            if before.is_empty() {
                continue;
            }
            for (id, after) in self.outside(cgroup.as_fd(), first, last, attach)? {
                left.push(ForeignHook { program: name(id), id, v6, after });
            }
        }
        Ok(left)
    }

    /// Ids of others' programs before our first or after our last one, and which of the two.
    fn outside(
        &self,
        cgroup: BorrowedFd<'_>,
        first: &'static str,
        last: &'static str,
        attach: Attach,
    ) -> Result<Vec<(u32, bool)>, RedirectError> {
        let failed = |source| RedirectError::Attach { name: first, source };
        let order = bpf::effective(cgroup, attach).map_err(failed)?;
        let (first, last) = (self.attached_program(first)?, self.attached_program(last)?);
        let mut found = outside(&order, first, last);
        // Programs of another agent's set stand where ours do.
        found.retain(|(id, _)| !name(*id).starts_with("culvert_"));
        Ok(found)
    }

    fn attached_program(&self, hook: &'static str) -> Result<Option<u32>, RedirectError> {
        let path = self.pins.links().join(hook);
        let Some((link, _)) = open_link(&path)? else { return Ok(None) };
        bpf::program_id(link.as_fd()).map(Some).map_err(|source| RedirectError::Pin { path, source })
    }

    /// Attaches a hook's program once more, at the place that is right now, and takes the old link off after that.
    fn renew(
        &self,
        cgroup: BorrowedFd<'_>,
        hook: &'static str,
        attach: Attach,
        first: bool,
    ) -> Result<(), RedirectError> {
        let path = self.pins.links().join(hook);
        let failed = |source| RedirectError::Attach { name: hook, source };
        let pin = |source| RedirectError::Pin { path: path.clone(), source };
        let Some((old, _)) = open_link(&path)? else { return Ok(()) };
        let program = bpf::program_id(old.as_fd()).and_then(bpf::program_by_id).map_err(failed)?;
        let link = bpf::attach(program.as_fd(), cgroup, attach, first).map_err(failed)?;
        let fresh = fresh(&path);
        pins::remove_link(&fresh)?;
        bpf::pin(link.as_fd(), &fresh).map_err(pin)?;
        std::fs::rename(&fresh, &path).map_err(pin)?;
        bpf::detach(old.as_fd()).map_err(failed)
    }
}

/// Where a link is pinned while it takes another's place.
pub(crate) fn fresh(path: &std::path::Path) -> std::path::PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_os_string();
    name.push("_fresh");
    path.with_file_name(name)
}

/// Programs before the first and after the last of ours, in the order in which they run.
fn outside(order: &[u32], first: Option<u32>, last: Option<u32>) -> Vec<(u32, bool)> {
    let place = |id: Option<u32>| id.and_then(|id| order.iter().position(|other| *other == id));
    let (first, last) = (place(first), place(last));
    let mut found = Vec::new();
    for (at, id) in order.iter().enumerate() {
        if first.is_some_and(|first| at < first) {
            found.push((*id, false));
        } else if last.is_some_and(|last| at > last) {
            found.push((*id, true));
        }
    }
    found
}

fn name(id: u32) -> String {
    let program = aya::programs::loaded_programs().flatten().find(|program| program.id() == id);
    program.and_then(|program| program.name_as_str().map(str::to_owned)).unwrap_or_else(|| "without a name".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn others_between_ours_are_fine() {
        assert_eq!(outside(&[1, 7, 8, 2], Some(1), Some(2)), []);
        assert_eq!(outside(&[7, 1, 2], Some(1), Some(2)), [(7, false)]);
        assert_eq!(outside(&[1, 2, 7, 8], Some(1), Some(2)), [(7, true), (8, true)]);
        assert_eq!(outside(&[7, 1, 2, 8], Some(1), Some(2)), [(7, false), (8, true)]);
        assert_eq!(outside(&[7, 8], None, None), []);
    }
}
