//! Requests without end, each on a connection of its own, with the moment at which each was answered.

use std::process::{Child, Stdio};

use anyhow::{Context, Result};
use e2e_cluster::Cluster;

use crate::mesh::shop;

/// They go on until [`Load::finish`].
pub(crate) struct Load<'a> {
    cluster: &'a Cluster,
    pod: &'static str,
    child: Child,
}

/// What became of one.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    /// Seconds since the machine came up, when it was asked: one clock for all nodes of the cluster and for us.
    pub(crate) at: f64,
    /// Status; 000 for none.
    pub(crate) status: String,
}

impl<'a> Load<'a> {
    pub(crate) fn start(cluster: &'a Cluster, pod: &'static str, url: &str) -> Result<Self> {
        let line = format!(
            "rm -f /tmp/stop; while [ ! -e /tmp/stop ]; do read up rest < /proc/uptime; \
             echo \"$up $(curl -s -m 10 -o /dev/null -w '%{{http_code}}' '{url}')\"; done"
        );
        let mut command = cluster.kubectl_command();
        command.args(["exec", "-n", "shop", pod, "--", "sh", "-c", &line]);
        Ok(Self { cluster, pod, child: command.stdout(Stdio::piped()).spawn()? })
    }

    /// All of them.
    pub(crate) fn finish(self) -> Result<Vec<Answer>> {
        shop::in_pod(self.cluster, self.pod, "touch /tmp/stop")?;
        let output = self.child.wait_with_output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let one = |line: &str| {
            let (at, status) = line.split_once(' ').with_context(|| line.to_owned())?;
            Ok(Answer { at: at.parse()?, status: status.trim().to_owned() })
        };
        text.lines().map(one).collect()
    }
}

/// The same clock.
pub(crate) fn now() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/uptime")?;
    Ok(text.split(' ').next().context("no number")?.parse()?)
}
