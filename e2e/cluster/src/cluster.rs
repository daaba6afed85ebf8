//! The handle of a cluster that is up.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cgroup::Hierarchies;
use crate::down;
use crate::error::ClusterError;
use crate::guard::Guard;
use crate::node::Node;
use crate::options::Options;
use crate::paths::Paths;
use crate::plan::{EXEC_GROUP, HUB_GROUP};
use crate::process::{Inside, Launch, Process};
use crate::state::State;
use crate::tool::run;
use crate::up;

/// A Kubernetes of two nodes. Dropping it takes it down, also on panic, unless it was raised with `keep` or opened by name.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) paths: Paths,
    pub(crate) groups: Hierarchies,
    pub(crate) options: Options,
    state: Mutex<State>,
    // Processes that are children of ours; those of a cluster that was opened by name are not.
    children: Mutex<Vec<Process>>,
    // Takes it down when we are killed.
    pub(crate) guard: Option<Guard>,
}

/// A process of the cluster's own: not of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessStatus {
    /// `hub/etcd`, `node1/kubelet`.
    pub name: String,
    /// Its number.
    pub pid: u32,
    /// Whether it runs.
    pub alive: bool,
    /// What it says.
    pub log: PathBuf,
}

impl Cluster {
    /// Raises a cluster and waits until both nodes are ready. Whatever fails, everything is undone.
    ///
    /// # Errors
    /// See [`ClusterError`]; each text says what to do.
    pub fn up(options: &Options) -> Result<Self, ClusterError> {
        up::up(options)
    }

    /// The cluster of this name that is up already. Dropping the handle leaves it up.
    ///
    /// # Errors
    /// When there is none, or raising it has not come to its end.
    pub fn open(name: &str) -> Result<Self, ClusterError> {
        let paths = Paths::new(name);
        let state = State::load(&paths)?.filter(|s| s.raised);
        let state = state.ok_or_else(|| ClusterError::NoCluster(name.to_owned()))?;
        let options = Options {
            name: name.to_owned(),
            cni: state.cni,
            proxy_mode: state.proxy_mode,
            masquerade: state.masquerade,
            keep: true,
            ..Options::default()
        };
        Ok(Self::from_parts(paths, Hierarchies::find()?, options, state))
    }

    pub(crate) fn from_parts(paths: Paths, groups: Hierarchies, options: Options, state: State) -> Self {
        Self { paths, groups, options, state: Mutex::new(state), children: Mutex::default(), guard: None }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        self.paths.name()
    }

    /// How it was raised.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// The administrator's kubeconfig. The API server's address in it is reached from the hub and the nodes, so programs
    /// that use it run by [`Cluster::command`].
    pub fn kubeconfig(&self) -> PathBuf {
        self.paths.kubeconfig()
    }

    /// A node.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn node(&self, name: &str) -> Result<Node, ClusterError> {
        let nodes = self.nodes();
        let known = || nodes.iter().map(Node::name).collect::<Vec<_>>().join(", ");
        let found = nodes.iter().find(|n| n.name == name).cloned();
        found.ok_or_else(|| ClusterError::UnknownNode { name: name.to_owned(), known: known() })
    }

    /// All nodes: `node1`, `node2`.
    pub fn nodes(&self) -> Vec<Node> {
        let node = |n: &crate::state::NodeState| Node {
            name: n.name.clone(),
            address: n.address,
            holder: n.holder,
            pod_cidr: n.pod_cidr.clone(),
            cgroup: self.groups.unified(&n.name),
        };
        self.state().nodes.iter().map(node).collect()
    }

    /// Runs a command on a node to its end; gives back what it said on stdout.
    ///
    /// # Errors
    /// When there is no such node, or the command fails.
    pub fn exec_on_node(&self, node: &str, argv: &[&str]) -> Result<String, ClusterError> {
        let (program, arguments) =
            argv.split_first().ok_or_else(|| ClusterError::Unfit("there is no command to run".to_owned()))?;
        let mut command = self.node(node)?.command(program);
        command.args(arguments);
        run(command, "")
    }

    /// A command beside the control plane: it reaches the API server, pods and Services, has the administrator's
    /// kubeconfig in `KUBECONFIG`, and the machine's files; of our environment only what is set on it. It belongs to the
    /// caller, and ends no later than the cluster.
    pub fn command(&self, program: &str) -> Command {
        let group = self.groups.unified(HUB_GROUP).join(EXEC_GROUP);
        let inside = Inside::Network(self.state().hub.unwrap_or_default());
        let mut command = Launch { name: program, group: &group, inside, argv: vec![program.to_owned()] }.command();
        command.env("KUBECONFIG", self.kubeconfig());
        command
    }

    /// The cluster's own processes, pods not counted.
    pub fn processes(&self) -> Vec<ProcessStatus> {
        let status = |r: &crate::process::Record| ProcessStatus {
            name: r.name.clone(),
            pid: r.pid,
            alive: r.alive(),
            log: self.paths.log(&r.name),
        };
        self.state().processes.iter().map(status).collect()
    }

    /// Takes the cluster down now, with what went wrong, which a drop can only log.
    ///
    /// # Errors
    /// When something is left.
    pub fn down(mut self) -> Result<(), ClusterError> {
        self.options.keep = true;
        self.tear_down()
    }

    fn tear_down(&mut self) -> Result<(), ClusterError> {
        if let Some(guard) = self.guard.take() {
            guard.dismiss()?;
        }
        let result = down::down(self.name());
        self.reap();
        result
    }

    /// Remembers a child, whether or not it is well.
    pub(crate) fn adopt(&self, process: Process) -> Result<(), ClusterError> {
        let record = process.record.clone();
        lock(&self.children).push(process);
        self.change(|state| state.processes.push(record))
    }

    /// Waits for children that have ended, which are zombies until then.
    pub(crate) fn reap(&self) {
        for mut process in lock(&self.children).drain(..) {
            if let Err(error) = process.child.wait() {
                tracing::debug!(%error, process = process.record.name, "cannot wait for a process");
            }
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Changes the state and writes it down.
    pub(crate) fn change(&self, f: impl FnOnce(&mut State)) -> Result<(), ClusterError> {
        let mut state = self.state();
        f(&mut state);
        state.save(&self.paths)
    }

    /// Tells of a step, unless raising was called off.
    pub(crate) fn step(&self, text: &str) -> Result<(), ClusterError> {
        self.go_on()?;
        (self.options.progress)(text);
        Ok(())
    }

    /// Whether to go on, or to give up because raising was called off.
    pub(crate) fn go_on(&self) -> Result<(), ClusterError> {
        if self.options.cancel.load(Ordering::Relaxed) { Err(ClusterError::Cancelled) } else { Ok(()) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.options.keep
            && let Err(error) = self.tear_down()
        {
            tracing::error!(%error, cluster = self.name(), "cannot take the cluster down");
        }
    }
}

// A panic elsewhere leaves what is guarded whole: every change is one assignment or push.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
