//! The hub and the nodes: namespaces, held by a process that sleeps, and the links between them.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::error::{ClusterError, Doing};
use crate::paths::Paths;
use crate::plan::{BRIDGE_BITS, EXEC_GROUP, HUB, SERVICE_NETWORK};
use crate::process::{Inside, Launch, Process, Record, log_tail};
use crate::tool::ip;

const NODE_SCRIPT: &str = include_str!("node.sh");
const HUB_SCRIPT: &str = include_str!("hub.sh");

/// A node of a cluster that is up.
#[derive(Clone, Debug)]
pub struct Node {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) holder: u32,
    pub(crate) pod_cidr: Option<String>,
    pub(crate) cgroup: PathBuf,
}

impl Node {
    /// Its name: that of the Node object and of its control group.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its InternalIP.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// The network that its pods have addresses of.
    pub fn pod_cidr(&self) -> Option<&str> {
        self.pod_cidr.as_deref()
    }

    /// The process that holds its namespaces: `nsenter -t <pid> -n -m -u` is a shell on the node.
    pub fn holder(&self) -> u32 {
        self.holder
    }

    /// Its control group of version 2. Below it: pods in `kubepods`, and `kubelet`, `containerd`, `kube-proxy`.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// A path on the node, as this machine's root sees it. Reads and writes there are the node's.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        Path::new("/proc").join(self.holder.to_string()).join("root").join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A command on the node: its network, files, host name. It belongs to the caller, and ends no later than the node.
    pub fn command(&self, program: &str) -> Command {
        // In the node's group, or taking the cluster down would miss it and wait for its namespaces for ever.
        let group = self.cgroup.join(EXEC_GROUP);
        let inside = Inside::All(self.holder);
        Launch { name: program, group: &group, inside, argv: vec![program.to_owned()] }.command()
    }
}

/// Makes the hub's namespaces.
pub(crate) fn hold_hub(paths: &Paths, group: &Path) -> Result<Process, ClusterError> {
    let etcd = paths.hub().join("etcd");
    fs::create_dir_all(&etcd).doing(|| format!("cannot make {}", etcd.display()))?;
    hold(paths, "hub/holder", group, HUB_SCRIPT, &[&etcd.display().to_string()], Path::new("/"))
}

/// Makes a node's namespaces, with the files that are its own.
pub(crate) fn hold_node(paths: &Paths, name: &str, group: &Path) -> Result<Process, ClusterError> {
    let (own, data) = (paths.node(name), paths.node_data(name));
    for folder in [own.clone(), data.join("kubelet"), data.join("containerd")] {
        fs::create_dir_all(&folder).doing(|| format!("cannot make {}", folder.display()))?;
    }
    let arguments = [name, &own.display().to_string(), &HUB.to_string()];
    hold(paths, &format!("{name}/holder"), group, NODE_SCRIPT, &arguments, &data)
}

fn hold(
    paths: &Paths,
    name: &str,
    group: &Path,
    script: &str,
    arguments: &[&str],
    folder: &Path,
) -> Result<Process, ClusterError> {
    let own = ["unshare", "--mount", "--net", "--uts", "--propagation", "slave", "sh", "-c", script, "sh"];
    let argv = own.iter().chain(arguments).map(|w| (*w).to_owned()).collect();
    let log = paths.log(name);
    let errors = fs::File::create(&log).doing(|| format!("cannot write {}", log.display()))?;
    let launch = Launch { name, group, inside: Inside::Machine, argv };
    let child = launch.lasting().current_dir(folder).stdout(Stdio::piped()).stderr(errors).spawn();
    let mut child = child.doing(|| format!("cannot start {name}"))?;
    let record = Record::of(name, child.id());
    let mut said = String::new();
    if let Some(stdout) = child.stdout.take() {
        // Until it says so, or its end closes the pipe.
        BufReader::new(stdout).read_line(&mut said).doing(|| format!("cannot hear {name}"))?;
    }
    if said.trim() == "ready" {
        return Ok(Process { child, record });
    }
    let status = child.wait().doing(|| format!("cannot wait for {name}"))?;
    Err(ClusterError::NotReady { what: name.to_owned(), why: format!("ended ({status})"), log: log_tail(&log) })
}

/// Joins the nodes by a bridge in the hub.
pub(crate) fn link(hub: u32, nodes: &[Node]) -> Result<(), ClusterError> {
    let mut batch =
        format!("link set lo up\nlink add br0 type bridge\naddr add {HUB}/{BRIDGE_BITS} dev br0\nlink set br0 up\n");
    for Node { name, holder, .. } in nodes {
        batch += &format!("link add {name} type veth peer name eth0 netns {holder}\nlink set {name} master br0 up\n");
    }
    ip(hub, &batch)?;
    for Node { address, holder, .. } in nodes {
        let addr = format!("addr add {address}/{BRIDGE_BITS} dev eth0");
        ip(*holder, &format!("link set lo up\n{addr}\nlink set eth0 up\nroute add default via {HUB}\n"))?;
    }
    Ok(())
}

/// Leads packets for each node's pods to it, from the other nodes and from the hub.
pub(crate) fn route(hub: u32, nodes: &[Node]) -> Result<(), ClusterError> {
    let to = |node: &Node| {
        let cidr = node.pod_cidr.as_ref()?;
        Some(format!("route replace {cidr} via {}\n", node.address))
    };
    // The control plane has no kube-proxy, and its calls to Services (admission webhooks) take one of the nodes'.
    let services = nodes.first().map(|n| format!("route replace {SERVICE_NETWORK} via {}\n", n.address));
    ip(hub, &nodes.iter().filter_map(to).chain(services).collect::<String>())?;
    for node in nodes {
        ip(node.holder, &nodes.iter().filter(|n| n.name != node.name).filter_map(to).collect::<String>())?;
    }
    Ok(())
}
