//! The story of raising a cluster.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::cgroup::Hierarchies;
use crate::cluster::Cluster;
use crate::control;
use crate::down::{clusters, undo};
use crate::error::{ClusterError, Doing};
use crate::guard::Guard;
use crate::node;
use crate::options::Options;
use crate::parts::Parts;
use crate::paths::Paths;
use crate::pki::{self, Identities};
use crate::plan::{EXEC_GROUP, HUB_GROUP, NODES, POD_NETWORK_BITS, node_address};
use crate::process::Record;
use crate::state::{Lock, NodeState, State};
use crate::{config, image, sysctl, worker};

/// For each thing that others do when the API server works: seconds, on busy machines tens of them.
const SOON: Duration = Duration::from_secs(60);

/// Says at once what the kernel would say later and in other words.
pub(crate) fn need_root() -> Result<(), ClusterError> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(ClusterError::NotRoot) }
}

/// See [`Cluster::up`].
pub(crate) fn up(options: &Options) -> Result<Cluster, ClusterError> {
    need_root()?;
    check(options)?;
    let parts = Parts::find()?;
    let groups = Hierarchies::find()?;
    let lock = Lock::take()?;
    let result = up_locked(options, parts, groups);
    if result.is_err() && clusters().is_empty() {
        lock.remove()?;
    }
    result
}

fn up_locked(options: &Options, parts: Parts, groups: Hierarchies) -> Result<Cluster, ClusterError> {
    make_room(&groups)?;
    let paths = Paths::new(&options.name);
    let state = State {
        cni: options.cni,
        proxy_mode: options.proxy_mode,
        masquerade: options.masquerade,
        owner: (!options.keep).then(|| Record::of("owner", std::process::id())),
        parts: parts.clone(),
        hub: None,
        nodes: Vec::new(),
        processes: Vec::new(),
        sysctls: sysctl::remember()?,
        raised: false,
    };
    // Until it is up it is undone here, not when dropped: the lock is ours.
    let mut cluster = Cluster::from_parts(paths, groups, Options { keep: true, ..options.clone() }, state);
    if !options.keep {
        cluster.guard = Guard::start(&options.name)?;
    }
    if let Err(error) = raise(&cluster, &parts) {
        let undone = cluster.guard.take().map_or(Ok(()), Guard::dismiss).and_then(|()| undo(&cluster.paths));
        cluster.reap();
        if let Err(left) = undone {
            tracing::error!(error = %left, "cannot undo all of a cluster that did not come up");
        }
        return Err(error);
    }
    cluster.options.keep = options.keep;
    Ok(cluster)
}

fn check(options: &Options) -> Result<(), ClusterError> {
    let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if options.name.is_empty() || !options.name.chars().all(fits) {
        let text = format!("{:?} is no name for a cluster; use lower-case letters, digits and dashes", options.name);
        return Err(ClusterError::Unfit(text));
    }
    // 30 leaves a node one pod and its gateway.
    if !(POD_NETWORK_BITS + 1..=30).contains(&options.pod_cidr_bits) {
        let text = format!("{} is no prefix for a node's pods; use 17 to 30", options.pod_cidr_bits);
        return Err(ClusterError::Unfit(text));
    }
    Ok(())
}

// One cluster at a time, since nodes own control groups by name. What a dead owner left is cleared away.
fn make_room(groups: &Hierarchies) -> Result<(), ClusterError> {
    for name in clusters() {
        let paths = Paths::new(&name);
        match State::load(&paths) {
            Ok(Some(state)) if state.raised && state.owner.as_ref().is_none_or(Record::alive) => {
                return Err(ClusterError::Exists(name));
            }
            // Nobody raises it now: we have the lock.
            _ => undo(&paths)?,
        }
    }
    match NODES.iter().chain(&[HUB_GROUP]).find_map(|group| groups.present(group)) {
        Some(group) => Err(ClusterError::ForeignGroup(group)),
        None => Ok(()),
    }
}

fn raise(cluster: &Cluster, parts: &Parts) -> Result<(), ClusterError> {
    cluster.step("keys, control groups, namespaces")?;
    let identities = make_folders(cluster)?;
    // Its programs beside each other, so that version 2's rule of no processes above groups holds.
    let hub_group = cluster.groups.create_below(&format!("{HUB_GROUP}/control"))?;
    cluster.groups.create_below(&format!("{HUB_GROUP}/{EXEC_GROUP}"))?;
    let hub = make_namespaces(cluster, &hub_group)?;
    let nodes = cluster.nodes();

    cluster.step("etcd, API server, containerd")?;
    let api = control::start_api(cluster, parts, hub, &hub_group)?;
    let ca = cluster.paths.pki("ca.pem");
    let ca = fs::read_to_string(&ca).doing(|| format!("cannot read {}", ca.display()))?;
    let start = |node| worker::start_runtime(cluster, node, &identities, &ca);
    let runtimes = nodes.iter().map(start).collect::<Result<Vec<_>, _>>()?;
    for (node, runtime) in nodes.iter().zip(runtimes) {
        worker::until_runtime(cluster, node, runtime)?;
        image::load(node, &parts.pause)?;
    }
    cluster.step("waiting for the API server")?;
    control::until_api(cluster, api)?;

    cluster.step("controllers, scheduler, DNS")?;
    control::start_controllers(cluster, parts, &identities, (hub, &hub_group))?;
    let dns = control::start_dns(cluster, parts, hub, &hub_group)?;
    cluster.adopt(dns)?;
    give_pod_networks(cluster)?;
    let nodes = cluster.nodes();
    node::route(hub, &nodes)?;

    cluster.step("kubelets, kube-proxies")?;
    nodes.iter().try_for_each(|node| worker::start_kubelet(cluster, node, parts))?;
    cluster.apply(&config::dns_service())?;
    cluster.step("waiting for the nodes")?;
    until_usable(cluster)?;
    cluster.go_on()?;
    cluster.change(|state| state.raised = true)
}

fn make_folders(cluster: &Cluster) -> Result<Identities, ClusterError> {
    let paths = &cluster.paths;
    let folders = [paths.root(), paths.root().join("log"), paths.hub(), paths.data()];
    for folder in &folders {
        fs::create_dir_all(folder).doing(|| format!("cannot make {}", folder.display()))?;
    }
    // From here on taking it down knows what to put back.
    cluster.change(|_| ())?;
    let identities = pki::make(paths, &NODES)?;
    pki::write(&paths.kubeconfig(), &identities.admin(&paths.pki("ca.pem"))?)?;
    Ok(identities)
}

fn make_namespaces(cluster: &Cluster, hub_group: &Path) -> Result<u32, ClusterError> {
    let hub = node::hold_hub(&cluster.paths, hub_group)?;
    let pid = hub.record.pid;
    cluster.adopt(hub)?;
    cluster.change(|state| state.hub = Some(pid))?;
    for (place, name) in NODES.iter().enumerate() {
        cluster.groups.create(name)?;
        cluster.groups.create_below(&format!("{name}/{EXEC_GROUP}"))?;
        let group = cluster.groups.create_below(&format!("{name}/holder"))?;
        let holder = node::hold_node(&cluster.paths, name, &group)?;
        let state = NodeState {
            name: (*name).to_owned(),
            address: node_address(place),
            holder: holder.record.pid,
            pod_cidr: None,
        };
        cluster.adopt(holder)?;
        cluster.change(|s| s.nodes.push(state))?;
    }
    node::link(pid, &cluster.nodes())?;
    Ok(pid)
}

// The objects come before the kubelets: a kubelet that finds its network ready is ready seconds earlier.
fn give_pod_networks(cluster: &Cluster) -> Result<(), ClusterError> {
    cluster.apply(&config::nodes(&NODES))?;
    for node in cluster.nodes() {
        let object = format!("node/{}", node.name);
        until(cluster, &[&object, "--for=jsonpath={.spec.podCIDR}"])?;
        let cidr = cluster.kubectl(&["get", &object, "--output=jsonpath={.spec.podCIDR}"])?;
        cluster.change(|state| {
            let found = state.nodes.iter_mut().find(|n| n.name == node.name);
            found.into_iter().for_each(|n| n.pod_cidr = Some(cidr.clone()));
        })?;
    }
    Ok(())
}

fn until_usable(cluster: &Cluster) -> Result<(), ClusterError> {
    until(cluster, &["--for=condition=Ready", "node", "--all"])?;
    // Made by a controller; no pod is admitted before.
    until(cluster, &["--for=create", "serviceaccount/default"])
}

// `kubectl wait`, which hears of changes, in pieces short enough for somebody who calls it off.
fn until(cluster: &Cluster, what: &[&str]) -> Result<(), ClusterError> {
    let deadline = Instant::now() + SOON;
    let arguments = [&["wait", "--timeout=2s"], what].concat();
    loop {
        cluster.go_on()?;
        match cluster.kubectl(&arguments) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => {}
        }
    }
}
