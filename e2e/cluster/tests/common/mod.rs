//! What the tests of the cluster itself share.
#![allow(dead_code, reason = "each test uses its part")]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, Options, eventually};
use serde_json::{Value, json};

/// How long a pod may take on a busy machine.
pub(crate) const SOON: Duration = Duration::from_secs(60);

/// What a failed test says at its end: the causes alone, without the backtraces that anyhow adds to each when
/// `RUST_BACKTRACE` is set.
pub(crate) struct Told(anyhow::Error);

impl From<anyhow::Error> for Told {
    fn from(error: anyhow::Error) -> Self {
        Self(error)
    }
}

impl std::fmt::Debug for Told {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.chain().enumerate().try_for_each(|(at, cause)| match at {
            0 => writeln!(f, "{cause}"),
            _ => writeln!(f, "because: {cause}"),
        })
    }
}

/// One cluster at a time.
pub(crate) fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Raises a cluster that says what it does, and loads the image for tests.
pub(crate) fn up(options: Options) -> Result<Cluster> {
    e2e_cluster::setup()?;
    let begun = Instant::now();
    let progress = move |step: &str| println!("  {:5.1} s  {step}", begun.elapsed().as_secs_f64());
    let cluster = Cluster::up(&Options { progress: std::sync::Arc::new(progress), ..options })?;
    println!("  {:5.1} s  up", begun.elapsed().as_secs_f64());
    let images =
        cluster.load_image(&workspace().join("target/images/echo.tar")).context("run cargo xtask image echo")?;
    ensure!(images == ["culvert.dev/echo:test"], "loaded {images:?}");
    Ok(cluster)
}

/// One thing that has to hold, and what is looked at for it.
pub(crate) type Check<C> = (&'static str, fn(&C) -> Result<()>);

/// Makes checks in their order, each from where the one before left the cluster. The first that fails ends it, after `tell`
/// has printed what it is understood by.
pub(crate) fn in_order<'a, C: 'a>(
    on: &C,
    checks: impl IntoIterator<Item = &'a Check<C>>,
    tell: impl FnOnce(&C),
) -> Result<()> {
    for (name, check) in checks {
        let begun = Instant::now();
        if let Err(error) = check(on).context(*name) {
            tell(on);
            return Err(error);
        }
        println!("  ok  {name} ({} ms)", begun.elapsed().as_millis());
    }
    Ok(())
}

pub(crate) fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).unwrap_or(Path::new(".")).to_owned()
}

/// A pod of the test image on a node; `more` is merged into its container.
pub(crate) fn pod(name: &str, node: &str, command: &[&str], more: Value) -> Value {
    let mut container = json!({"name": "main", "image": "culvert.dev/echo:test", "command": command});
    if let (Some(container), Value::Object(more)) = (container.as_object_mut(), more) {
        container.extend(more);
    }
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "nodeSelector": {"kubernetes.io/hostname": node},
            "terminationGracePeriodSeconds": 0,
            "containers": [container],
        },
    })
}

/// A Service in front of the pod of the same name.
pub(crate) fn service(name: &str, port: u16, target: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]},
    })
}

pub(crate) fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

pub(crate) fn until_ready(cluster: &Cluster, pods: &[&str]) -> Result<()> {
    let pods: Vec<String> = pods.iter().map(|p| format!("pod/{p}")).collect();
    let mut arguments = vec!["wait", "--for=condition=Ready", "--timeout=60s"];
    arguments.extend(pods.iter().map(String::as_str));
    cluster.kubectl(&arguments)?;
    Ok(())
}

/// Runs a shell line in a pod.
pub(crate) fn sh(cluster: &Cluster, pod: &str, line: &str) -> Result<String> {
    Ok(cluster.kubectl(&["exec", pod, "--", "sh", "-c", line])?.trim().to_owned())
}

/// Runs it until it says what is wanted: rules of kube-proxy come a moment after endpoints.
pub(crate) fn until_says(cluster: &Cluster, pod: &str, line: &str, wanted: &str) -> Result<()> {
    let what = format!("{pod}: {line}");
    eventually(&what, SOON, || {
        let said = sh(cluster, pod, line)?;
        ensure!(said == wanted, "said {said:?}, wanted {wanted:?}");
        anyhow::Ok(())
    })?;
    Ok(())
}

/// What a cluster must not leave, taken while it is up.
pub(crate) struct Traces {
    namespaces: BTreeSet<String>,
    groups: Vec<PathBuf>,
}

impl Traces {
    pub(crate) fn of(cluster: &Cluster) -> Result<Self> {
        let mut namespaces = BTreeSet::new();
        for process in cluster.processes() {
            ensure!(process.alive, "{} has ended", process.name);
            if process.name.ends_with("/holder") {
                namespaces.extend(namespaces_of(&process.pid.to_string()));
            }
        }
        ensure!(namespaces.len() == 6, "three network and three mount namespaces, not {namespaces:?}");
        let groups: Vec<_> = groups().into_iter().collect();
        ensure!(groups.len() > 2, "control groups of the cluster: {groups:?}");
        Ok(Self { namespaces, groups })
    }

    /// Fails when something of the cluster is there.
    pub(crate) fn gone(&self) -> Result<()> {
        for entry in fs::read_dir("/proc")?.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let inside = namespaces_of(&name).into_iter().any(|n| self.namespaces.contains(&n));
            ensure!(!inside, "process {name} is still inside: {:?}", fs::read_to_string(entry.path().join("cmdline")));
        }
        for group in &self.groups {
            ensure!(!group.exists(), "{} is still there", group.display());
        }
        nothing_there()
    }
}

/// Fails when anything that looks like a cluster is there.
pub(crate) fn nothing_there() -> Result<()> {
    for folder in ["/run/culvert/cluster", "/var/lib/culvert/cluster"] {
        ensure!(!Path::new(folder).exists(), "{folder} is still there");
    }
    let groups = groups();
    ensure!(groups.is_empty(), "{groups:?} are still there");
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mount = mounts.lines().find(|l| l.contains("culvert/cluster"));
    ensure!(mount.is_none(), "still mounted: {mount:?}");
    let links = fs::read_to_string("/proc/net/dev")?;
    ensure!(!links.contains("br0:") && !links.contains("node1:"), "interfaces are still there:\n{links}");
    Ok(())
}

// Mount and network namespace, as the kernel numbers them; none of a process that is no more, or of the machine's own.
fn namespaces_of(pid: &str) -> Vec<String> {
    let of = |pid: &str, kind: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).ok();
    let theirs =
        ["net", "mnt"].iter().filter_map(|kind| of(pid, kind).filter(|n| Some(n) != of("self", kind).as_ref()));
    theirs.map(|n| n.display().to_string()).collect()
}

fn groups() -> BTreeSet<PathBuf> {
    let hierarchies = fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten().map(|e| e.path());
    let all = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]);
    let named = all.flat_map(|h| ["node1", "node2", "culvert-cluster-hub"].map(|g| h.join(g)));
    named.filter(|g| g.exists()).collect()
}
