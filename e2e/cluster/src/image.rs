//! Images, without a registry.

use std::fs::{self, File};
use std::path::Path;
use std::thread;

use crate::cluster::Cluster;
use crate::error::{ClusterError, Doing};
use crate::node::Node;
use crate::paths::within;
use crate::tool::{on_node, run_on};

impl Cluster {
    /// Loads an archive (`docker save`, `cargo xtask image`) into all nodes; gives back the names of its images. Pods use
    /// them with `imagePullPolicy: Never` or `IfNotPresent`.
    ///
    /// # Errors
    /// When it cannot be read, or containerd refuses it.
    pub fn load_image(&self, archive: &Path) -> Result<Vec<String>, ClusterError> {
        let nodes = self.nodes();
        let loaded: Result<Vec<_>, _> = thread::scope(|scope| {
            let each: Vec<_> = nodes.iter().map(|node| scope.spawn(|| load(node, archive))).collect();
            each.into_iter().map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        });
        // The same on every node.
        Ok(loaded?.into_iter().next().unwrap_or_default())
    }
}

impl Cluster {
    /// Loads every archive (`*.tar`) of a folder into all nodes; gives back the names of the images.
    ///
    /// # Errors
    /// When there is none, or one cannot be loaded.
    pub fn load_images(&self, folder: &Path) -> Result<Vec<String>, ClusterError> {
        let doing = || format!("cannot read {}", folder.display());
        let mut archives = Vec::new();
        for entry in fs::read_dir(folder).doing(doing)? {
            let path = entry.doing(doing)?.path();
            archives.extend((path.extension().is_some_and(|e| e == "tar")).then_some(path));
        }
        archives.sort();
        if archives.is_empty() {
            let text = format!("there is no image in {}; make some (cargo xtask image)", folder.display());
            return Err(ClusterError::Unfit(text));
        }
        let loaded = archives.iter().map(|archive| self.load_image(archive)).collect::<Result<Vec<_>, _>>()?;
        Ok(loaded.concat())
    }
}

/// Loads an archive into one node; gives back the names of its images.
pub(crate) fn load(node: &Node, archive: &Path) -> Result<Vec<String>, ClusterError> {
    // Opened here: on the node, the path may mean something else.
    let file = File::open(archive).doing(|| format!("cannot open {}", archive.display()))?;
    let ctr = ["ctr", "-a", within::CONTAINERD_SOCKET, "-n", "k8s.io", "images", "import", "-"];
    let said = run_on(on_node(node.holder, &ctr), file)?;
    // "unpacking <name> (<digest>)...done"
    let name = |line: &str| Some(line.strip_prefix("unpacking ")?.split_whitespace().next()?.to_owned());
    Ok(said.lines().filter_map(name).collect())
}
