//! The charts by Helm on a real API server: hooks and tests run with the rights that the charts give them.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use e2e_cluster::Cluster;

use super::culvert::VALUES;
use crate::common::workspace;

const DEFINITIONS: &str = "culvert-crds";
const CULVERT: &str = "culvert";

/// Definitions, then everything else; waits until it is ready.
pub(crate) fn install(cluster: &Cluster) -> Result<()> {
    helm(cluster, &["install", DEFINITIONS, "manifests/culvert-crds", "--create-namespace"], &[])?;
    let label = "pod-security.kubernetes.io/enforce=privileged";
    cluster.kubectl(&["label", "namespace", "culvert-system", label])?;
    helm(cluster, &["install", CULVERT, "manifests/culvert", "--wait", "--timeout", "180s"], &VALUES)?;
    Ok(())
}

/// `helm test`: `culvert check`, from inside.
pub(crate) fn test(cluster: &Cluster) -> Result<()> {
    let said = helm(cluster, &["test", CULVERT, "--logs", "--timeout", "120s"], &[])?;
    ensure!(said.contains("Phase:          Succeeded"), "{said}");
    Ok(())
}

/// An upgrade to the same starts no pod anew.
pub(crate) fn upgrade_to_the_same(cluster: &Cluster) -> Result<()> {
    let pods = || cluster.kubectl(&["get", "pods", "-n", "culvert-system", "-o", "jsonpath={.items[*].metadata.uid}"]);
    let before = pods()?;
    helm(cluster, &["upgrade", CULVERT, "manifests/culvert", "--wait", "--timeout", "180s"], &VALUES)?;
    ensure!(pods()? == before, "pods were replaced");
    Ok(())
}

/// Both releases, the way back.
pub(crate) fn uninstall(cluster: &Cluster) -> Result<()> {
    for release in [CULVERT, DEFINITIONS] {
        helm(cluster, &["uninstall", release, "--wait", "--timeout", "180s"], &[])?;
    }
    Ok(())
}

fn helm(cluster: &Cluster, arguments: &[&str], more: &[&str]) -> Result<String> {
    let tools = Command::new(workspace().join("hack/tools.sh")).arg("helm").output()?;
    ensure!(tools.status.success(), "hack/tools.sh helm: {}", String::from_utf8_lossy(&tools.stderr));
    let told = String::from_utf8(tools.stdout)?;
    let program = told.trim().strip_prefix("helm=").context("hack/tools.sh told no helm")?;
    let mut command = cluster.command(program);
    command.args(arguments).args(more).args(["-n", "culvert-system"]);
    let output = command.current_dir(workspace()).env("KUBECONFIG", cluster.kubeconfig()).output()?;
    let (said, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    ensure!(output.status.success(), "helm {}: {}\n{said}\n{complaint}", arguments.join(" "), output.status);
    Ok(said.into_owned())
}
