//! The foreign programs that a cluster is made of, and where they are on this machine.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::{Deserialize, Serialize};

use crate::error::{ClusterError, Doing};
use crate::tool::run;

/// Where the built things are.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Parts {
    kubernetes: PathBuf,
    pub(crate) coredns: PathBuf,
    /// Archive of the image that holds a pod's namespaces.
    pub(crate) pause: PathBuf,
}

/// From Debian; (what, path).
const INSTALLED: [(&str, &str); 6] = [
    ("etcd", "/usr/bin/etcd"),
    ("containerd", "/usr/bin/containerd"),
    ("runc", "/usr/sbin/runc"),
    ("conntrack", "/usr/sbin/conntrack"),
    ("the CNI plug-in ptp", "/usr/lib/cni/ptp"),
    ("iptables", "/usr/sbin/iptables"),
];

/// Installs and builds what is missing; says what it does on stdout. Takes no time when nothing is.
///
/// # Errors
/// When something cannot be had; the lines on stderr say what.
pub fn setup() -> Result<(), ClusterError> {
    let status = script().status().doing(|| "cannot start hack/cluster.sh".to_owned())?;
    if status.success() {
        return Ok(());
    }
    let stderr = "the lines above say why".to_owned();
    Err(ClusterError::Tool { command: "hack/cluster.sh".to_owned(), status: status.to_string(), stderr })
}

impl Parts {
    /// Finds them.
    ///
    /// # Errors
    /// When one is missing.
    pub(crate) fn find() -> Result<Self, ClusterError> {
        let mut paths = script();
        paths.arg("paths");
        let text = run(paths, "")?;
        let path = |name: &str| {
            let found = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('=')).map(PathBuf::from);
            found.ok_or_else(|| ClusterError::Unfit(format!("hack/cluster.sh paths does not name {name}")))
        };
        let parts = Self { kubernetes: path("kubernetes")?, coredns: path("coredns")?, pause: path("pause")? };
        let built = [("Kubernetes", &parts.kubernetes), ("CoreDNS", &parts.coredns), ("the pause image", &parts.pause)];
        let installed = INSTALLED.iter().map(|(what, path)| (*what, Path::new(path)));
        for (what, path) in built.into_iter().map(|(w, p)| (w, p.as_path())).chain(installed) {
            if !fs::exists(path).doing(|| format!("cannot look for {}", path.display()))? {
                return Err(ClusterError::Missing { what, path: path.to_owned() });
            }
        }
        Ok(parts)
    }

    /// A program of Kubernetes: a link to the one binary, which goes by the name that it is called by.
    pub(crate) fn program(&self, name: &str) -> String {
        self.kubernetes.with_file_name(name).display().to_string()
    }
}

fn script() -> Command {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new("."));
    Command::new(root.join("hack/cluster.sh"))
}
