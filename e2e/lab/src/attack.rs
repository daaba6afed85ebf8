//! The attacks in `attacks/*.py`, run inside a pod.
//!
//! They are in Python because they are system calls by number: options, raw packets and rings that no safe Rust crate offers,
//! and that a user with a shell in a pod would try in the same way.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use lab::{Files, Finished, InsideCommand, Lab, Running};
use serde::Deserialize;

const PYTHON: &str = "/usr/bin/python3";

/// What a privileged container has on top of the default.
const PRIVILEGED: &[&str] = &[
    "AUDIT_CONTROL",
    "AUDIT_READ",
    "BLOCK_SUSPEND",
    "BPF",
    "CHECKPOINT_RESTORE",
    "DAC_READ_SEARCH",
    "IPC_LOCK",
    "IPC_OWNER",
    "LEASE",
    "LINUX_IMMUTABLE",
    "MAC_ADMIN",
    "MAC_OVERRIDE",
    "NET_ADMIN",
    "NET_BROADCAST",
    "PERFMON",
    "SYSLOG",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_MODULE",
    "SYS_NICE",
    "SYS_PACCT",
    "SYS_PTRACE",
    "SYS_RAWIO",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "WAKE_ALARM",
];

/// The files of the attacks, for a pod's `/srv`.
pub fn files() -> Files {
    let all = [
        ("attack.py", include_str!("attacks/attack.py")),
        ("frames.py", include_str!("attacks/frames.py")),
        ("uring.py", include_str!("attacks/uring.py")),
        ("xdp.py", include_str!("attacks/xdp.py")),
    ];
    all.into_iter().map(|(name, text)| (name.to_owned(), text.to_owned())).collect()
}

/// Who attacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Root with all capabilities.
    Root,
    /// Root as containers have it: NET_RAW, but not NET_ADMIN.
    Container,
    /// User 1000 without any.
    Nobody,
    /// User 1000 with NET_RAW, as default pods have it.
    NetRaw,
    /// User 1000 with NET_ADMIN.
    NetAdmin,
    /// Root in the pod's network, but in no control group that the agent's programs are attached to.
    Outside,
}

/// One attack, from where to where.
#[derive(Clone, Copy, Debug)]
pub struct Attack<'a> {
    /// Name of the vector in `attack.py`.
    pub vector: &'a str,
    /// The pod that attacks.
    pub pod: &'a str,
    /// As whom.
    pub who: Who,
    /// What it tries to bring there; `-<target>` is added to it.
    pub marker: &'a str,
    /// Pods that it tries to reach.
    pub targets: &'a [&'a str],
}

/// What the attacker saw at one target.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Said {
    /// Steps and how each ended: `ok`, or the name of an errno.
    pub steps: Vec<(String, String)>,
    /// Source port that was used.
    pub port: Option<u16>,
    /// Whether all steps came to an end in time.
    pub over: bool,
}

impl Said {
    /// How a step ended, every time it was tried.
    pub fn ends<'a>(&'a self, step: &'a str) -> impl Iterator<Item = &'a str> {
        self.steps.iter().filter(move |(name, _)| name == step).map(|(_, end)| end.as_str())
    }
}

impl Attack<'_> {
    /// Runs it to its end.
    ///
    /// # Errors
    /// When it could not even be tried.
    pub fn run(&self, lab: &Lab) -> Result<BTreeMap<String, Said>> {
        let done = self.finished(lab, &[])?;
        let line = done.text().lines().last().unwrap_or_default().to_owned();
        serde_json::from_str(&line).with_context(|| format!("{}: {line} {}", self.vector, done.errors()))
    }

    /// Runs it to its end, with further arguments; gives back everything it said.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn finished(&self, lab: &Lab, more: &[String]) -> Result<Finished> {
        let done = if self.who == Who::Outside {
            self.outside(lab, more)?
        } else {
            self.command(lab, more)?.timeout(Duration::from_secs(120)).output()?
        };
        ensure!(done.success(), "{}: {}", self.vector, done.errors());
        Ok(done)
    }

    /// Starts it; it runs until its input is closed.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(&self, lab: &Lab) -> Result<Running> {
        Ok(self.command(lab, &[])?.spawn()?)
    }

    fn command(&self, lab: &Lab, more: &[String]) -> Result<InsideCommand> {
        let container = lab.pod(self.pod)?;
        let pod = container.clone().with_capabilities(PRIVILEGED, &[])?;
        let args = self.args(lab, more)?;
        let with = |capability: &str| {
            let only = format!("-all,+{capability}");
            let user = ["--reuid=1000", "--regid=1000", "--clear-groups"].map(str::to_owned);
            let sets = ["--inh-caps=", "--ambient-caps=", "--bounding-set="].map(|set| format!("{set}{only}"));
            pod.command("setpriv").args(user).args(sets).arg(PYTHON)
        };
        let command = match self.who {
            Who::Root | Who::Outside => pod.command(PYTHON),
            Who::Container => container.command(PYTHON),
            Who::Nobody => pod.command(PYTHON).user(1000, 1000),
            Who::NetRaw => with("net_raw"),
            Who::NetAdmin => with("net_admin"),
        };
        Ok(command.args(args))
    }

    fn outside(&self, lab: &Lab, more: &[String]) -> Result<Finished> {
        let netns = format!("--net={}", lab.pod(self.pod)?.netns().display());
        let folder = folder(lab)?.join("pod").join(self.pod).join("srv");
        let done =
            Command::new("nsenter").arg(netns).arg(PYTHON).args(self.args(lab, more)?).current_dir(folder).output();
        let done = done.context("nsenter")?;
        Ok(Finished { status: done.status, stdout: done.stdout, stderr: done.stderr })
    }

    fn args(&self, lab: &Lab, more: &[String]) -> Result<Vec<String>> {
        let plan = lab.plan();
        let me = plan.pod(self.pod)?;
        let hop = plan.node(&me.pod.node)?.gateways.first().context("a gateway")?.to_string();
        let addresses = |ips: &[std::net::IpAddr]| ips.iter().map(ToString::to_string).collect::<Vec<_>>();
        let mut args = vec!["attack.py".to_owned(), self.vector.to_owned(), self.marker.to_owned()];
        args.extend(addresses(&me.addresses));
        args.push(hop);
        for target in self.targets {
            args.push(format!("{target}={}", addresses(&plan.pod(target)?.addresses).join(",")));
        }
        args.extend(more.iter().cloned());
        Ok(args)
    }
}

/// The folder of the lab.
///
/// # Errors
/// When the lab has no agent on a first node.
pub fn folder(lab: &Lab) -> Result<PathBuf> {
    let log = lab.log_path("ca")?;
    log.parent().and_then(|l| l.parent()).map(PathBuf::from).context("the lab's folder")
}
