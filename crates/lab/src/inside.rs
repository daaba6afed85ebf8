//! The helper that every process of a lab begins as: it goes where the process belongs and becomes it.
//!
//! `culvert __in-namespace <JSON of Enter> <program> <argument>…` joins the control group first, so that from then on
//! taking the lab down finds it, then the network namespace, then makes a mount namespace with the pod's own files.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};
use serde::{Deserialize, Serialize};

use crate::caps;
use crate::delay;
use crate::error::{Doing, LabError};
use crate::netns::fresh_namespace;
use crate::paths::LABS;

/// The hidden subcommand of `culvert` that leads to [`run_helper`].
pub const HELPER: &str = "__in-namespace";

/// Where a process belongs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Enter {
    /// The control group.
    pub(crate) cgroup: PathBuf,
    /// Handle of the network namespace.
    pub(crate) netns: PathBuf,
    /// Files and folders that lie over others: (ours, theirs). Makes a mount namespace, without the mounts of labs.
    pub(crate) binds: Vec<(PathBuf, PathBuf)>,
    /// Where it starts.
    pub(crate) folder: PathBuf,
    /// Whether it leaves the terminal of the one who started it.
    pub(crate) session: bool,
    /// Capabilities that are left to it, as bits; all when not given.
    pub(crate) capabilities: Option<u64>,
    /// Who it runs as: user and group number.
    pub(crate) user: Option<(u32, u32)>,
}

// As shells have them (POSIX 2.8.2): found but not executable, not found.
const CANNOT_RUN: u8 = 126;
const NOT_FOUND: u8 = 127;

/// The helper itself: `args` are those after its name. Returns only when it failed.
pub fn run_helper(mut args: impl Iterator<Item = OsString>) -> ExitCode {
    let usage = || {
        eprintln!("culvert {HELPER}: for the lab's own use");
        ExitCode::from(CANNOT_RUN)
    };
    let Some(enter) = args.next().and_then(|a| serde_json::from_str::<Enter>(a.to_str()?).ok()) else { return usage() };
    let Some(program) = args.next() else { return usage() };
    if let Err(error) = enter.go() {
        eprintln!("culvert {HELPER}: {error}");
        return ExitCode::from(CANNOT_RUN);
    }
    if program == delay::PROGRAM {
        return delay::run(args);
    }
    let mut command = Command::new(&program);
    command.args(args);
    if let Some((user, group)) = enter.user {
        command.uid(user).gid(group);
    }
    let error = command.exec();
    eprintln!("cannot run {}: {error}", program.display());
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    ExitCode::from(if missing { NOT_FOUND } else { CANNOT_RUN })
}

impl Enter {
    fn go(&self) -> Result<(), LabError> {
        let procs = self.cgroup.join("cgroup.procs");
        // "0" is the writing process.
        fs::write(&procs, "0").doing(|| format!("cannot join {}", procs.display()))?;
        if self.session {
            rustix::process::setsid().doing(|| "cannot leave the terminal".to_owned())?;
        }
        let netns = File::open(&self.netns).doing(|| format!("cannot open {}", self.netns.display()))?;
        let entered = move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network));
        entered.doing(|| format!("cannot enter {}", self.netns.display()))?;
        if !self.binds.is_empty() {
            self.own_mounts()?;
        }
        std::env::set_current_dir(&self.folder).doing(|| format!("cannot go to {}", self.folder.display()))?;
        self.capabilities.map_or(Ok(()), caps::keep_only)
    }

    fn own_mounts(&self) -> Result<(), LabError> {
        fresh_namespace(UnshareFlags::NEWNS).doing(|| "cannot make a mount namespace".to_owned())?;
        let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
        mount_change("/", private).doing(|| "cannot make mounts private".to_owned())?;
        let programs = self.hidden_programs()?;
        for (ours, theirs) in &self.binds {
            mount_bind(ours, theirs).doing(|| format!("cannot put {} over {}", ours.display(), theirs.display()))?;
        }
        if let Some((folder, path)) = programs {
            let again = || format!("cannot show {} to the pod", path.display());
            fs::create_dir_all(&path).doing(again)?;
            mount_bind(format!("/proc/self/fd/{}", folder.as_raw_fd()), &path).doing(again)?;
        }
        // Else this copy of the lab's mounts would keep its namespaces alive as long as this process lives.
        for lab in fs::read_dir(LABS).into_iter().flatten().flatten() {
            hide(&lab.path())?;
        }
        Ok(())
    }
}

impl Enter {
    /// The folder of our own programs, open, when a pod's own folders would cover it: a build below /tmp must work too.
    fn hidden_programs(&self) -> Result<Option<(fs::File, PathBuf)>, LabError> {
        let own = env::current_exe().doing(|| "cannot tell where this program is".to_owned())?;
        let Some(path) = own.parent().filter(|p| self.binds.iter().any(|(_, over)| p.starts_with(over))) else {
            return Ok(None);
        };
        let folder = fs::File::open(path).doing(|| format!("cannot open {}", path.display()))?;
        Ok(Some((folder, path.to_owned())))
    }
}

fn hide(lab: &Path) -> Result<(), LabError> {
    match unmount(lab, UnmountFlags::DETACH) {
        // Not a mount (EINVAL): a lock file, or half a lab. Gone (ENOENT): a lab that was taken down meanwhile.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => Ok(()),
        Err(e) => Err(e).doing(|| format!("cannot hide {}", lab.display())),
    }
}
