//! Programs and files of others, from their Go modules (`hack/tools.sh`).
#![allow(dead_code, reason = "each test uses its part")]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e_cluster::Cluster;

/// Where they are.
pub(crate) struct Tools {
    pub(crate) istiod: PathBuf,
    helm: PathBuf,
    istioctl: PathBuf,
    /// Istio's module.
    module: PathBuf,
}

impl Tools {
    /// Builds what is not in the cache.
    pub(crate) fn find() -> Result<Self> {
        let [istiod, helm, istioctl, module] = paths(["istiod", "helm", "istioctl", "istio-module"])?;
        Ok(Self { istiod, helm, istioctl, module })
    }

    /// A chart of Istio, or a file beside the charts.
    pub(crate) fn chart(&self, path: &str) -> String {
        self.module.join("manifests/charts").join(path).display().to_string()
    }

    pub(crate) fn helm(&self, cluster: &Cluster, arguments: &[&str]) -> Result<String> {
        run(cluster, &self.helm, arguments)
    }

    pub(crate) fn istioctl(&self, cluster: &Cluster, arguments: &[&str]) -> Result<String> {
        run(cluster, &self.istioctl, arguments)
    }
}

/// Where programs and folders of others are, by the names that `hack/tools.sh` has for them. Builds what is not in the cache.
pub(crate) fn paths<const N: usize>(names: [&str; N]) -> Result<[PathBuf; N]> {
    let output = Command::new(crate::common::workspace().join("hack/tools.sh")).args(names).output()?;
    ensure!(output.status.success(), "hack/tools.sh: {}", String::from_utf8_lossy(&output.stderr));
    let told = String::from_utf8(output.stdout)?;
    let path = |name: &str| {
        let found = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        found.map(PathBuf::from).with_context(|| format!("hack/tools.sh does not say where {name} is"))
    };
    let found = names.into_iter().map(path).collect::<Result<Vec<_>>>()?;
    found.try_into().map_err(|_| anyhow::anyhow!("as many paths as names"))
}

/// A folder that goes with the cluster.
pub(crate) fn folder(cluster: &Cluster) -> Result<PathBuf> {
    let folder = cluster.kubeconfig().parent().context("the kubeconfig is in no folder")?.join("istio");
    std::fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Runs a program beside the control plane to its end.
pub(crate) fn run(cluster: &Cluster, program: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = cluster.command(&program.display().to_string());
    // Helm keeps a cache at home.
    let output = command.args(arguments).env("HOME", folder(cluster)?).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    let line = format!("{} {}", program.display(), arguments.join(" "));
    ensure!(output.status.success(), "{line}: {}\n{said}\n{complaint}", output.status);
    Ok(said)
}
