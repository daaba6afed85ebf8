//! What can go wrong with a lab, each with its remedy in the text.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use document::Mistakes;

/// Why the lab did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// Raising was called off from outside.
    #[error("called off; what was raised so far is undone")]
    Cancelled,
    /// A capture lost packets, so that it proves nothing.
    #[error("the capture on {interface} lost {lost} packets and proves nothing; capture with a narrower filter")]
    CaptureLost {
        /// Where it listened.
        interface: String,
        /// As the kernel counted.
        lost: u64,
    },
    /// A lab of this name is there.
    #[error(
        "a lab named {0} is already there; take it down (culvert lab down --name {0}) or give this one another name"
    )]
    Exists(String),
    /// A system call or file operation failed.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        source: io::Error,
    },
    /// The lab of this name is being raised or taken down by somebody else right now.
    #[error("the lab {0} is being raised or taken down by another process; wait for it")]
    Locked(String),
    /// Processes are left that cannot be killed.
    #[error(
        "these processes of the lab do not end even on SIGKILL: {0:?}; they wait inside the kernel (see /proc/<pid>/stack)"
    )]
    Leftover(Vec<i32>),
    /// The document is wrong.
    #[error(transparent)]
    Mistakes(#[from] Mistakes),
    /// No control group v2 file system is mounted.
    #[error(
        "no cgroup2 file system is mounted; mount one: mkdir -p /sys/fs/cgroup/unified && mount -t cgroup2 none /sys/fs/cgroup/unified"
    )]
    NoCgroup2,
    /// There is no lab of this name.
    #[error("there is no lab named {name}; {}", labs_there(.there))]
    NoLab {
        /// The name asked for.
        name: String,
        /// The ones that are there.
        there: Vec<String>,
    },
    /// Our program is not beside our executable.
    #[error("the program {program} is not in {}; build it first (cargo build -p {package})", .folder.display())]
    NoProgram {
        /// Name of the file.
        program: String,
        /// Package that makes it.
        package: &'static str,
        /// Where it was looked for.
        folder: PathBuf,
    },
    /// A tool of the system is missing.
    #[error("the tool {tool} is missing; install it (apt-get install {package})")]
    NoTool {
        /// The tool.
        tool: String,
        /// Debian's package with it.
        package: &'static str,
    },
    /// The lab is for root.
    #[error("the lab makes and enters network namespaces and control groups and needs root; run it with sudo")]
    NotRoot,
    /// A process of the lab did not come up.
    #[error("{process} did not become ready: {why}{log}")]
    NotReady {
        /// Its name in the lab.
        process: String,
        /// What was waited for, or how it ended.
        why: String,
        /// The last lines it said, with a heading; empty when there are none.
        log: String,
    },
    /// A list of revoked certificates cannot be made of what the authority keeps.
    #[error("the list of revoked certificates cannot be signed with the lab's authority: {0}; raise the lab again")]
    Revocation(rcgen::Error),
    /// A document of the lab's own folder cannot be read.
    #[error("{} is not what the lab writes ({source}); take the lab down (culvert lab down)", .path.display())]
    State {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: serde_json::Error,
    },
    /// Something asked for did not happen in time.
    #[error("{what} took longer than {after:?}")]
    TimedOut {
        /// What.
        what: String,
        /// The time that was given.
        after: Duration,
    },
    /// A tool failed.
    #[error("{command} failed ({status}): {stderr}")]
    Tool {
        /// The command line.
        command: String,
        /// How it ended.
        status: String,
        /// What it said.
        stderr: String,
    },
    /// A name that this lab does not have.
    #[error("there is no {kind} {name:?} in this lab; there is: {known}")]
    Unknown {
        /// Kind of thing.
        kind: &'static str,
        /// The name asked for.
        name: String,
        /// Names that there are.
        known: String,
    },
    /// What was asked does not fit this lab.
    #[error("{0}")]
    Unfit(String),
}

fn labs_there(there: &[String]) -> String {
    if there.is_empty() {
        "raise one (culvert lab up examples/shop.yaml)".to_owned()
    } else {
        format!("there is: {}", there.join(", "))
    }
}

/// Says what was tried when an [`io::Error`] comes up.
pub(crate) trait Doing<T> {
    /// Adds what was tried.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LabError>;
}

impl<T, E: Into<io::Error>> Doing<T> for Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T, LabError> {
        self.map_err(|e| LabError::Io { what: what(), source: e.into() })
    }
}
