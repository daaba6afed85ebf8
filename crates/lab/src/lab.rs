//! The handle of a raised lab.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::process::Child;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::caps;
use crate::cgroup::Tree;
use crate::command::InsideCommand;
use crate::down::down;
use crate::error::LabError;
use crate::inside::Enter;
use crate::netns;
use crate::paths::Paths;
use crate::plan::{Plan, PodPlan};
use crate::process::{self, Launch, Record};
use crate::spec::{Pod, Spec};
use crate::spec_policy::Policy;
use crate::state::{Lock, State};
use crate::{config, up};

/// How a lab is raised.
#[derive(Clone)]
pub struct Options {
    /// Leave it up when the handle is dropped.
    pub keep: bool,
    /// Told of each step.
    pub progress: Arc<dyn Fn(&str) + Send + Sync>,
    /// Set from outside to call the raising off.
    pub cancel: Arc<AtomicBool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            keep: false,
            progress: Arc::new(|step| tracing::info!("{step}")),
            cancel: Arc::new(AtomicBool::new(false)),
        }
    }
}

impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options").field("keep", &self.keep).finish_non_exhaustive()
    }
}

/// A raised lab. Dropping it takes it down, also on panic, unless it was raised with `keep` or opened by name.
#[derive(Debug)]
pub struct Lab {
    pub(crate) paths: Paths,
    pub(crate) tree: Tree,
    pub(crate) options: Options,
    state: Mutex<State>,
    // Processes that are children of ours; others of the lab are not.
    children: Mutex<BTreeMap<String, Child>>,
    // Threads of this process wait for each other here: the lock of processes asks again and again, and gives up.
    ours: Mutex<()>,
}

impl Lab {
    /// Raises a lab. Whatever fails, everything is undone.
    ///
    /// # Errors
    /// See [`LabError`]; each text says what to do.
    pub fn up(spec: &Spec, options: &Options) -> Result<Self, LabError> {
        up::up(spec, options)
    }

    /// The lab of this name that is there already. Dropping the handle leaves it up.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(name: &str) -> Result<Self, LabError> {
        let paths = Paths::new(name);
        let state = State::load(&paths)?;
        let state = state.ok_or_else(|| LabError::NoLab { name: name.to_owned(), there: crate::labs() })?;
        let options = Options { keep: true, ..Options::default() };
        Self::from_parts(paths, state, options)
    }

    pub(crate) fn from_parts(paths: Paths, state: State, options: Options) -> Result<Self, LabError> {
        let tree = Tree::of(paths.name())?;
        Ok(Self { paths, tree, options, state: Mutex::new(state), children: Mutex::default(), ours: Mutex::default() })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.paths.name()
    }

    /// Its names and addresses, as they are now.
    pub fn plan(&self) -> Plan {
        self.state().plan.clone()
    }

    /// A pod, to run something in it.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn pod(&self, name: &str) -> Result<Place, LabError> {
        let plan = self.plan();
        Ok(self.place_of(plan.pod(name)?))
    }

    /// A node.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn node(&self, name: &str) -> Result<Place, LabError> {
        self.plan().node(name)?;
        Ok(Place::new(self.paths.netns(name), self.tree.infra()))
    }

    /// The namespace of the wire that joins the nodes.
    pub fn wire(&self) -> Place {
        Place::new(self.paths.netns("wire"), self.tree.infra())
    }

    /// The namespace of the certificate authority and the collector.
    pub fn infra(&self) -> Place {
        Place::new(self.paths.netns("infra"), self.tree.infra())
    }

    /// The namespace of a ztunnel generation (from 1).
    pub fn ztunnel(&self, node: &str, generation: u32) -> Place {
        Place::new(self.paths.netns(&format!("{node}-ztunnel-{generation}")), self.tree.infra())
    }

    /// Where a process writes its messages.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn log_path(&self, process: &str) -> Result<PathBuf, LabError> {
        Ok(self.state().process(process)?.launch.log.clone())
    }

    /// The file that every ztunnel reads workloads, services and policies from, and reads again when it changes. What a
    /// test writes there stays until the lab's next own change.
    pub fn discovery_file(&self) -> PathBuf {
        self.paths.discovery()
    }

    /// Names of all processes: `ca`, `collector`, `node1/agent`, `node1/ztunnel-1`, `pod/web`.
    pub fn processes(&self) -> Vec<String> {
        self.state().processes.iter().map(|p| p.launch.name.clone()).collect()
    }

    /// The number of a process.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn pid(&self, process: &str) -> Result<i32, LabError> {
        Ok(self.state().process(process)?.pid)
    }

    /// Kills a process and its workers at once (SIGKILL) and waits for their end. It stays down until [`Lab::restart`].
    ///
    /// # Errors
    /// When there is none of this name, or it does not end.
    pub fn kill(&self, process: &str) -> Result<(), LabError> {
        let record = self.state().process(process)?.clone();
        if !process::kill(&record)? {
            return Err(LabError::Leftover(vec![record.pid]));
        }
        self.reap(process);
        Ok(())
    }

    /// Ends a process as its operator would (SIGTERM), waits, and kills it when `grace` is over.
    ///
    /// # Errors
    /// When there is none of this name, or it does not end.
    pub fn stop(&self, process: &str, grace: std::time::Duration) -> Result<(), LabError> {
        let record = self.state().process(process)?.clone();
        if let Some(handle) = record.handle()
            && !process::end(&[handle], grace)?
        {
            return Err(LabError::Leftover(vec![record.pid]));
        }
        self.reap(process);
        Ok(())
    }

    /// Starts a process again as it was started before, ending it first if it runs. Does not wait for it to be ready.
    ///
    /// # Errors
    /// When there is none of this name, or it does not start.
    pub fn restart(&self, process: &str) -> Result<(), LabError> {
        self.kill(process)?;
        let before = self.state().process(process)?.clone();
        self.start_as(before.launch, before.restarts + 1).map(drop)
    }

    /// Replaces the policies. Every ztunnel reads the new file as it appears.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_policies(&self, policies: Vec<Policy>) -> Result<(), LabError> {
        self.change(|state| {
            state.plan.spec.policies = policies;
            config::discovery::publish(&self.paths, &state.plan)
        })
    }

    /// Adds a pod to the running lab and waits until it is ready.
    ///
    /// # Errors
    /// When it does not fit or does not come up; it is removed again then.
    pub fn add_pod(&self, pod: Pod) -> Result<(), LabError> {
        up::add_pod(self, pod)
    }

    /// Removes a pod: its processes, its interface, its names.
    ///
    /// # Errors
    /// When there is none of this name, or it does not go.
    pub fn remove_pod(&self, name: &str) -> Result<(), LabError> {
        up::remove_pod(self, name)
    }

    /// Takes the lab down now, with what went wrong, which a drop can only log.
    ///
    /// # Errors
    /// When something is left.
    pub fn down(mut self) -> Result<(), LabError> {
        self.options.keep = true;
        self.tear_down()
    }

    pub(crate) fn tear_down(&self) -> Result<(), LabError> {
        let result = down(self.name());
        if result.is_ok() {
            self.reap_all();
        }
        result
    }

    /// Waits for children that have ended, which are zombies until then.
    pub(crate) fn reap_all(&self) {
        let names: Vec<String> = lock(&self.children).keys().cloned().collect();
        names.iter().for_each(|n| self.reap(n));
    }

    pub(crate) fn place_of(&self, pod: &PodPlan) -> Place {
        let folder = self.paths.pod(&pod.pod.name);
        let mut place =
            Place::new(self.paths.netns(&netns_of_pod(&pod.pod.name)), self.tree.pod(&pod.pod.node, &pod.pod.name));
        let binds = [("hosts", "/etc/hosts"), ("resolv.conf", "/etc/resolv.conf"), ("srv", "/srv"), ("tmp", "/tmp")];
        // A name that is not there has nothing to be laid over; a link (systemd's resolv.conf) is followed by the kernel.
        let there = binds.iter().filter(|(_, theirs)| std::fs::exists(theirs).unwrap_or(false));
        place.enter.binds = there.map(|(ours, theirs)| (folder.join(ours), PathBuf::from(theirs))).collect();
        place.enter.folder = "/srv".into();
        place.enter.capabilities = Some(caps::container(pod.pod.capabilities.iter(), [].iter()));
        place.env = pod.pod.env.clone();
        place
    }

    /// Starts a process and remembers it, before anything else can go wrong.
    pub(crate) fn start(&self, launch: Launch) -> Result<Record, LabError> {
        self.start_as(launch, 0)
    }

    fn start_as(&self, launch: Launch, restarts: u32) -> Result<Record, LabError> {
        let (child, mut record) = launch.start()?;
        record.restarts = restarts;
        lock(&self.children).insert(launch.name.clone(), child);
        self.change(|state| {
            state.put_process(record.clone());
            Ok(())
        })?;
        Ok(record)
    }

    /// Forgets a process that has ended for good.
    pub(crate) fn forget(&self, process: &str) -> Result<(), LabError> {
        self.reap(process);
        self.change(|state| {
            state.processes.retain(|p| p.launch.name != process);
            Ok(())
        })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Changes the state and writes it down.
    pub(crate) fn change<T>(&self, f: impl FnOnce(&mut State) -> Result<T, LabError>) -> Result<T, LabError> {
        let mut state = self.state();
        let done = f(&mut state)?;
        state.save(&self.paths)?;
        Ok(done)
    }

    /// Tells of a step; the place where raising can be called off.
    pub(crate) fn step(&self, text: &str) -> Result<(), LabError> {
        self.go_on()?;
        (self.options.progress)(text);
        Ok(())
    }

    /// Whether to go on, or to give up because raising was called off.
    pub(crate) fn go_on(&self) -> Result<(), LabError> {
        if self.options.cancel.load(Ordering::Relaxed) { Err(LabError::Cancelled) } else { Ok(()) }
    }

    /// Keeps others, threads and processes, from changing the lab at the same time.
    pub(crate) fn lock(&self) -> Result<(MutexGuard<'_, ()>, Lock), LabError> {
        Ok((lock(&self.ours), Lock::take(&self.paths)?))
    }

    fn reap(&self, process: &str) {
        if let Some(mut child) = lock(&self.children).remove(process)
            && let Err(error) = child.wait()
        {
            tracing::debug!(%error, process, "cannot wait for a process");
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if !self.options.keep
            && let Err(error) = self.tear_down()
        {
            tracing::error!(%error, lab = self.name(), "cannot take the lab down");
        }
    }
}

/// Name of a pod's namespace. Nodes, `wire` and `infra` have none with a dot.
pub(crate) fn netns_of_pod(pod: &str) -> String {
    format!("pod.{pod}")
}

/// A namespace of the lab, to run something in.
#[derive(Clone, Debug)]
pub struct Place {
    pub(crate) enter: Enter,
    pub(crate) env: BTreeMap<String, String>,
}

impl Place {
    pub(crate) fn new(netns: PathBuf, cgroup: PathBuf) -> Self {
        Self { enter: Enter { cgroup, netns, folder: "/".into(), ..Enter::default() }, env: BTreeMap::new() }
    }

    /// A command in this place: its network, its files, its control group.
    pub fn command(&self, program: &str) -> InsideCommand {
        InsideCommand::new(self.enter.clone(), self.env.clone(), program)
    }

    /// This place for one who is in a container with these capabilities (as in `NET_ADMIN`) on top of the default, and
    /// without those.
    ///
    /// # Errors
    /// When a name is not a capability.
    pub fn with_capabilities(mut self, added: &[&str], dropped: &[&str]) -> Result<Self, LabError> {
        if let Some(wrong) = added.iter().chain(dropped).find(|n| caps::by_name(n).is_none()) {
            return Err(LabError::Unfit(format!("{wrong:?} is not a capability; write it as in NET_ADMIN")));
        }
        let own = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        self.enter.capabilities = Some(caps::container(own(added).iter(), own(dropped).iter()));
        Ok(self)
    }

    /// Runs a function on a thread inside the network namespace; sockets that it makes stay there. Only the network is
    /// the place's: the control group and the files are the caller's, so that capture does not see these sockets as the
    /// pod's. For what an application does, use [`Place::command`].
    ///
    /// # Errors
    /// When the namespace cannot be entered, or the function's own.
    pub fn inside<T: Send>(&self, f: impl FnOnce() -> Result<T, LabError> + Send) -> Result<T, LabError> {
        netns::inside(&self.enter.netns, f)
    }

    /// Handle of the network namespace.
    pub fn netns(&self) -> &std::path::Path {
        &self.enter.netns
    }

    /// The control group.
    pub fn cgroup(&self) -> &std::path::Path {
        &self.enter.cgroup
    }
}

// A panic while the lock was held leaves a state that is still the truth: it is written before it is acted on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
