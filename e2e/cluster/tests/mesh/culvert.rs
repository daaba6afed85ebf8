//! Our command line against the cluster.
#![allow(dead_code, reason = "each test uses its part")]

use anyhow::{Result, ensure};
use e2e_cluster::Cluster;

/// Runs our command line against the cluster; what it wrote to stdout.
pub(crate) fn culvert(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    Ok(culvert_tells(cluster, arguments)?.0)
}

/// The same; what it wrote to stdout and to stderr.
pub(crate) fn culvert_tells(cluster: &Cluster, arguments: &[&str]) -> Result<(String, String)> {
    let program = crate::common::workspace().join("target/debug/culvert").display().to_string();
    let mut command = cluster.command(&program);
    command.args(arguments).env("KUBECONFIG", cluster.kubeconfig());
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "culvert {}: {}\n{said}\n{complaint}", arguments.join(" "), output.status);
    Ok((said, complaint))
}

/// Values that fit this cluster: its nodes share one tree of control groups, in which each has a folder.
pub(crate) const VALUES: [&str; 4] = [
    "--set=node.cgroupRoot=/sys/fs/cgroup/unified/${NODE_NAME}",
    "--set=image.pullPolicy=Never",
    "--set=mesh.podCIDRs={10.244.0.0/16}",
    "--set=logLevel=info",
];

/// Runs a command that is to fail, and gives back what it said.
pub(crate) fn fails(cluster: &Cluster, arguments: &[&str]) -> Result<String> {
    let program = crate::common::workspace().join("target/debug/culvert").display().to_string();
    let output = cluster.command(&program).args(arguments).env("KUBECONFIG", cluster.kubeconfig()).output()?;
    ensure!(!output.status.success(), "culvert {} did not fail", arguments.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
