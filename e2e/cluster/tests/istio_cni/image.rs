//! An image of Istio's node agent: its two programs from Istio's Go module, around them this machine's iptables and nft, as Istio's own
//! image has a distribution's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e_cluster::Cluster;

use crate::common::workspace;
use crate::istiod::tools;

/// The image's name.
pub(crate) const NAME: &str = "culvert.dev/istio-cni:test";

/// One program under many names, as the Debian package has it.
const IPTABLES: &str = "/usr/sbin/xtables-nft-multi";
const NAMES: [&str; 3] = ["", "-save", "-restore"];
/// What the agent writes rules with when it is told to do without iptables.
const NFT: &str = "/usr/sbin/nft";

/// Its archive, in a folder that goes with the cluster.
pub(crate) struct Image {
    archive: PathBuf,
}

impl Image {
    pub(crate) fn make(cluster: &Cluster) -> Result<Self> {
        let [installer, plugin] = tools::paths(["install-cni", "istio-cni"])?;
        // Where Istio's own image has them.
        let mut files = vec![
            format!("{}:/usr/local/bin/install-cni", installer.display()),
            format!("{}:/opt/cni/bin/istio-cni", plugin.display()),
            format!("{NFT}:{NFT}"),
        ];
        // By these names the agent asks for the kernel's newer interface, which it takes where both are there and neither has rules.
        for program in ["iptables", "ip6tables"] {
            files.extend(NAMES.map(|name| format!("{IPTABLES}:/usr/sbin/{program}-nft{name}")));
        }
        for extension in extensions()? {
            files.push(format!("{0}:{0}", extension.display()));
        }
        let archive = tools::folder(cluster)?.join("istio-cni.tar");
        let mut command = Command::new(workspace().join("target/debug/xtask"));
        command.args(["image-of", NAME, "--entrypoint", "/usr/local/bin/install-cni", "--user", "0", "--out"]);
        command.arg(&archive).args(files.iter().flat_map(|file| ["--file", file]));
        let output = command.output().context("target/debug/xtask; build it (cargo build -p xtask)")?;
        ensure!(output.status.success(), "xtask image-of: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self { archive })
    }

    /// As `ctr images import` reads it.
    pub(crate) fn archive(&self) -> &Path {
        &self.archive
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // The cluster's folder is in memory, and this is large.
        if let Err(error) = fs::remove_file(&self.archive) {
            println!("{}: {error}", self.archive.display());
        }
    }
}

/// The matches and targets of iptables, which it loads as rules name them.
fn extensions() -> Result<Vec<PathBuf>> {
    let missing = "it is not where Debian has it; install the packages iptables and nftables (hack/cluster.sh does)";
    for program in [IPTABLES, NFT] {
        ensure!(Path::new(program).is_file(), "{program}: {missing}");
    }
    let folders = fs::read_dir("/usr/lib")?.flatten().map(|entry| entry.path().join("xtables"));
    let folder =
        folders.into_iter().find(|folder| folder.is_dir()).with_context(|| format!("/usr/lib/*/xtables: {missing}"))?;
    let all = fs::read_dir(&folder)?.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    Ok(all.into_iter().filter(|path| path.extension().is_some_and(|e| e == "so")).collect())
}
