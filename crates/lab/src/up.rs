//! Raising a lab, step by step, and adding to one that is up.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change};

use crate::cgroup::{self, Tree};
use crate::error::{Doing, LabError};
use crate::hosts::{RESOLV_CONF, hosts_file};
use crate::lab::{Lab, Options, netns_of_pod};
use crate::links::{self, Attachment};
use crate::netns::{self, FORWARDING};
use crate::paths::Paths;
use crate::plan::{Plan, PodPlan};
use crate::process::{self, Launch, Record};
use crate::spec::{Pod, Spec};
use crate::state::{Lock, State};
use crate::{down, programs, tools, users, wait};

/// Raises a lab; see [`Lab::up`].
pub(crate) fn up(spec: &Spec, options: &Options) -> Result<Lab, LabError> {
    let plan = Plan::new(spec.clone())?;
    look_around(&plan)?;
    let paths = Paths::new(&spec.name);
    let tree = Tree::of(&spec.name)?;
    let lock = Lock::take(&paths)?;
    if paths.root().exists() || tree.root().exists() {
        return Err(LabError::Exists(spec.name.clone()));
    }
    // Until it stands, undoing is ours and not the handle's: we hold the lock.
    let raising = Options { keep: true, ..options.clone() };
    let mut lab = Lab::from_parts(paths.clone(), State::new(plan), raising)?;
    if let Err(error) = raise(&lab) {
        let undone = down::undo(&paths, &tree).and_then(|()| down::forget_lock(&paths));
        if let Err(left) = undone {
            tracing::error!(error = %left, "cannot undo all of a lab that did not come up");
        }
        lab.reap_all();
        drop(lock);
        return Err(error);
    }
    lab.options.keep = options.keep;
    Ok(lab)
}

/// Says at once what the kernel would say later and in other words.
///
/// # Errors
/// When the caller is not root.
pub fn need_root() -> Result<(), LabError> {
    if rustix::process::geteuid().is_root() { Ok(()) } else { Err(LabError::NotRoot) }
}

// What can be known to be missing before anything is made.
fn look_around(plan: &Plan) -> Result<(), LabError> {
    need_root()?;
    tools::IP.path()?;
    process::program("culvert", "culvert")?;
    if plan.meshed() {
        programs::look_around(plan)?;
    }
    for pod in &plan.pods {
        if let Some(user) = &pod.pod.user {
            users::find(user)?;
        }
    }
    Ok(())
}

fn raise(lab: &Lab) -> Result<(), LabError> {
    let plan = lab.plan();
    lab.step("folder and control groups")?;
    make_folder(&lab.paths, &plan)?;
    lab.change(|_| Ok(()))?;
    make_groups(lab, &plan)?;
    lab.step("namespaces and links")?;
    make_namespaces(&lab.paths, &plan)?;
    links::raise_wire(&lab.paths, &plan)?;
    join_pods(&lab.paths, &plan)?;
    plan.pods.iter().try_for_each(|pod| make_pod_folder(&lab.paths, pod))?;
    write_hosts(&lab.paths, &plan)?;
    if plan.meshed() {
        programs::raise(lab, &plan)?;
    }
    start_pods(lab, &plan)?;
    lab.change(|state| {
        state.raised = true;
        Ok(())
    })
}

// A mount of its own that passes its changes on: namespaces and pins that are unmounted here go from every copy of it.
fn make_folder(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    let root = paths.root();
    let doing = || format!("cannot make {}", root.display());
    fs::create_dir(root).doing(doing)?;
    mount_bind(root, root).doing(doing)?;
    mount_change(root, MountPropagationFlags::SHARED).doing(doing)?;
    for folder in ["netns", "log", "pod", "node", "capture"] {
        make_dir(&root.join(folder))?;
    }
    plan.nodes.iter().try_for_each(|node| make_dir(&paths.node(&node.name)))?;
    if plan.meshed() {
        make_dir(&paths.ca())?;
        make_dir(&paths.bpffs())?;
        let bpffs = paths.bpffs();
        mount("bpf", &bpffs, "bpf", MountFlags::empty(), None)
            .doing(|| format!("cannot mount bpffs at {} (CONFIG_BPF_SYSCALL)", bpffs.display()))?;
        plan.nodes.iter().try_for_each(|node| make_dir(&bpffs.join(&node.name)))?;
    }
    Ok(())
}

fn make_groups(lab: &Lab, plan: &Plan) -> Result<(), LabError> {
    cgroup::create(&lab.tree.infra())?;
    plan.nodes.iter().try_for_each(|node| cgroup::create(&lab.tree.agent(&node.name)))?;
    plan.pods.iter().try_for_each(|pod| cgroup::create(&lab.tree.pod(&pod.pod.node, &pod.pod.name)))
}

fn make_namespaces(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    netns::create(&paths.netns("wire"), &[])?;
    netns::create(&paths.netns("infra"), &[])?;
    plan.nodes.iter().try_for_each(|node| netns::create(&paths.netns(&node.name), &FORWARDING))?;
    plan.pods.iter().try_for_each(|pod| netns::create(&paths.netns(&netns_of_pod(&pod.pod.name)), &[]))
}

fn join_pods(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    for node in &plan.nodes {
        let here = || plan.pods.iter().filter(|p| p.pod.node == node.name);
        let handles: Vec<_> = here().map(|p| paths.netns(&netns_of_pod(&p.pod.name))).collect();
        let all: Vec<_> = here()
            .zip(&handles)
            .map(|(p, netns)| Attachment { node, netns, host_interface: &p.host_interface, addresses: &p.addresses })
            .collect();
        links::attach(paths, node, &all)?;
    }
    Ok(())
}

fn make_pod_folder(paths: &Paths, pod: &PodPlan) -> Result<(), LabError> {
    let folder = paths.pod(&pod.pod.name);
    let owner = pod.pod.user.as_deref().map(users::find).transpose()?;
    let own = |path: &Path| match owner {
        Some((user, group)) => {
            chown(path, Some(user), Some(group)).doing(|| format!("cannot give {} away", path.display()))
        }
        None => Ok(()),
    };
    make_dir(&folder)?;
    for name in ["srv", "tmp"] {
        make_dir(&folder.join(name))?;
        own(&folder.join(name))?;
    }
    fs::write(folder.join("resolv.conf"), RESOLV_CONF).doing(|| "cannot write resolv.conf".to_owned())?;
    for (name, text) in &pod.pod.files {
        let path = folder.join("srv").join(name);
        // Each folder on the way, so that each has the right owner.
        let mut at = folder.join("srv");
        for part in Path::new(name).parent().into_iter().flat_map(Path::components) {
            at.push(part);
            fs::create_dir_all(&at).doing(|| format!("cannot make {}", at.display()))?;
            own(&at)?;
        }
        fs::write(&path, text).doing(|| format!("cannot write {}", path.display()))?;
        own(&path)?;
    }
    Ok(())
}

/// Writes the names for every pod, in place: pods have these very files mounted.
fn write_hosts(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    for pod in &plan.pods {
        let path = paths.pod(&pod.pod.name).join("hosts");
        fs::write(&path, hosts_file(plan, pod)).doing(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

fn start_pods(lab: &Lab, plan: &Plan) -> Result<(), LabError> {
    let mut started = Vec::new();
    for pod in &plan.pods {
        if !pod.pod.command.is_empty() {
            let line = pod.pod.command.join(" ");
            lab.step(&format!("pod {}: {}", pod.pod.name, line.lines().next().unwrap_or_default()))?;
            started.push((pod, start_pod(lab, pod)?));
        }
    }
    // All of them begin before the first is waited for.
    for (pod, record) in &started {
        lab.step(&format!("waiting for pod {}", pod.pod.name))?;
        until_pod_ready(lab, pod, record)?;
    }
    Ok(())
}

fn start_pod(lab: &Lab, pod: &PodPlan) -> Result<Record, LabError> {
    let place = lab.place_of(pod);
    let mut enter = place.enter;
    enter.session = true;
    enter.user = pod.pod.user.as_deref().map(users::find).transpose()?;
    let name = pod_process(&pod.pod.name);
    let log = lab.paths.log(&name);
    lab.start(Launch { name, argv: pod.pod.command.clone(), enter, env: place.env, log })
}

fn until_pod_ready(lab: &Lab, pod: &PodPlan, record: &Record) -> Result<(), LabError> {
    match &pod.pod.ready {
        Some(ready) => {
            let netns = lab.paths.netns(&netns_of_pod(&pod.pod.name));
            wait::until_listening(lab, record, &netns, &pod.addresses, ready.tcp)
        }
        None => Ok(()),
    }
}

/// Name of the process of a pod.
pub(crate) fn pod_process(pod: &str) -> String {
    format!("pod/{pod}")
}

/// See [`Lab::add_pod`]. Pods may come and go side by side: the lab is held only while its state and its files change.
pub(crate) fn add_pod(lab: &Lab, pod: Pod) -> Result<(), LabError> {
    let placed = place_pod(lab, pod)?;
    let made = make_pod(lab, &placed);
    if made.is_err()
        && let Err(left) = unmake_pod(lab, &placed)
    {
        tracing::error!(error = %left, pod = placed.pod.name, "cannot undo all of a pod that did not come up");
    }
    made
}

fn place_pod(lab: &Lab, pod: Pod) -> Result<PodPlan, LabError> {
    let _lock = lab.lock()?;
    let plan = lab.plan();
    if plan.pod(&pod.name).is_ok() {
        return Err(LabError::Unfit(format!("there is a pod {} already; choose another name", pod.name)));
    }
    if pod.mesh && !plan.meshed() {
        return Err(LabError::Unfit(
            "this lab was raised without the mesh; raise it with a pod that is in it".to_owned(),
        ));
    }
    let placed = plan.place_pod(pod)?;
    // Whoever tells of pods writes into the folders of all of them.
    make_pod_folder(&lab.paths, &placed)?;
    lab.change(|state| {
        state.plan.spec.pods.push(placed.pod.clone());
        state.plan.pods.push(placed.clone());
        Ok(())
    })?;
    Ok(placed)
}

fn make_pod(lab: &Lab, pod: &PodPlan) -> Result<(), LabError> {
    let netns = lab.paths.netns(&netns_of_pod(&pod.pod.name));
    cgroup::create(&lab.tree.pod(&pod.pod.node, &pod.pod.name))?;
    netns::create(&netns, &[])?;
    let plan = lab.plan();
    let node = plan.node(&pod.pod.node)?;
    let one = Attachment { node, netns: &netns, host_interface: &pod.host_interface, addresses: &pod.addresses };
    links::attach(&lab.paths, node, &[one])?;
    tell_of_pods(lab)?;
    if plan.meshed() {
        programs::until_captured(lab, &pod.pod.node, &[pod])?;
    }
    if pod.pod.command.is_empty() {
        return Ok(());
    }
    let record = {
        let _lock = lab.lock()?;
        start_pod(lab, pod)?
    };
    until_pod_ready(lab, pod, &record)
}

/// Writes what pods and programs read of the pods that there are now.
fn tell_of_pods(lab: &Lab) -> Result<(), LabError> {
    let _lock = lab.lock()?;
    let plan = lab.plan();
    write_hosts(&lab.paths, &plan)?;
    if lab.paths.discovery().exists() { programs::publish(lab, &plan) } else { Ok(()) }
}

/// See [`Lab::remove_pod`].
pub(crate) fn remove_pod(lab: &Lab, name: &str) -> Result<(), LabError> {
    let placed = lab.plan().pod(name)?.clone();
    unmake_pod(lab, &placed)
}

// In the order of a kubelet: processes first, then the pod's network, and who watches pods learns of it. An agent that still has a
// pod in its list whose network is gone has nothing to let go of gently.
fn unmake_pod(lab: &Lab, pod: &PodPlan) -> Result<(), LabError> {
    let name = &pod.pod.name;
    let group = lab.tree.pod(&pod.pod.node, name);
    down::clear_group(&group)?;
    let netns = lab.paths.netns(&netns_of_pod(name));
    if netns.exists() {
        // A veth pair goes with either end; the namespace itself may be held a little longer by a proxy that drains.
        if let Err(error) = links::detach(&lab.paths, &pod.pod.node, &pod.host_interface) {
            tracing::debug!(%error, pod = name, "no interface to delete");
        }
        netns::remove(&netns)?;
    }
    forget_pod(lab, name)?;
    tell_of_pods(lab)?;
    if lab.paths.discovery().exists() { programs::until_forgotten(lab, pod) } else { Ok(()) }
}

fn forget_pod(lab: &Lab, name: &str) -> Result<(), LabError> {
    let _lock = lab.lock()?;
    lab.forget(&pod_process(name))?;
    lab.change(|state| {
        state.plan.spec.pods.retain(|p| p.name != *name);
        state.plan.pods.retain(|p| p.pod.name != *name);
        for service in state.plan.services.iter_mut().map(|s| &mut s.service).chain(&mut state.plan.spec.services) {
            service.pods.retain(|p| p != name);
        }
        Ok(())
    })?;
    let folder = lab.paths.pod(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).doing(|| format!("cannot remove {}", folder.display()))?;
    }
    Ok(())
}

fn make_dir(path: &Path) -> Result<(), LabError> {
    fs::create_dir(path).doing(|| format!("cannot make {}", path.display()))
}
