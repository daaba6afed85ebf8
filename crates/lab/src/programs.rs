//! Our programs in the lab: the authority, and an agent and a ztunnel per node.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::caps;
use crate::cgroup;
use crate::config;
use crate::config::authority::{Holder, Token};
use crate::down;
use crate::error::LabError;
use crate::inside::Enter;
use crate::lab::Lab;
use crate::links::{self, Attachment};
use crate::netns;
use crate::paths::Paths;
use crate::plan::{NodePlan, Plan, PodPlan};
use crate::process::{self, Launch, Record};
use crate::spec::OtlpTo;
use crate::state::{Ztunnel, process_name};
use crate::wait::{self, READY};
use crate::{admin, collector, waypoints};

/// Where a node's agent answers, in the node's namespace.
pub(crate) const AGENT_ADMIN: &str = "127.0.0.1:15010";
/// What a node proxy may do beyond an ordinary process (drop-in.md): enter pods' network namespaces (SYS_ADMIN), open
/// transparent sockets there and mark them (NET_ADMIN, NET_RAW), answer DNS queries from port 53 (NET_BIND_SERVICE).
const ZTUNNEL_CAPABILITIES: [&str; 4] = ["NET_ADMIN", "NET_BIND_SERVICE", "NET_RAW", "SYS_ADMIN"];
/// Where a ztunnel answers, in its own namespace.
pub(crate) const ZTUNNEL_ADMIN: &str = "127.0.0.1:15000";
/// Where ztunnels, waypoints and the control plane say whether they are ready (design.md 7), in the namespace of each.
const PROGRAM_READY: &str = "127.0.0.1:15021";
/// Port of the authority (design.md 7).
pub(crate) const CA_PORT: u16 = 15012;
/// Name in the authority's certificate, as its Service in a cluster would have it.
pub(crate) const CA_NAME: &str = "culvert-ca.culvert-system.svc";
/// The control plane's name and service account (design.md 7). Its port is one of its own: in the lab it has the address of
/// the authority, which has 15012.
pub(crate) const CONTROL_NAME: &str = "culvert-control.culvert-system.svc";
pub(crate) const CONTROL_ACCOUNT: &str = "culvert-control";
pub(crate) const CONTROL_PORT: u16 = 15022;
/// Namespace of our programs (design.md 7).
pub(crate) const SYSTEM_NAMESPACE: &str = "culvert-system";
/// OTLP over gRPC (telemetry.md 4).
pub(crate) const OTLP_PORT: u16 = 4317;

const CA: (&str, &str) = ("culvert-ca", "ca");
const AGENT: (&str, &str) = ("culvert-node", "node");
const ZTUNNEL: (&str, &str) = ("ztunnel", "ztunnel");

/// Names what is missing before anything is made.
pub(crate) fn look_around(plan: &Plan) -> Result<(), LabError> {
    waypoints::look_around(plan)?;
    [CA, AGENT, ZTUNNEL].iter().try_for_each(|(name, package)| process::program(name, package).map(drop))
}

/// Starts everything and waits until the pods are captured: a pod's program never runs before that.
pub(crate) fn raise(lab: &Lab, plan: &Plan) -> Result<(), LabError> {
    if plan.spec.telemetry.otlp.0 == OtlpTo::AUTO {
        lab.step("collector")?;
        collector::start(lab, plan)?;
    }
    lab.step("certificate authority")?;
    let nodes = plan.nodes.iter().map(|n| Token::new(Holder::Node(n.name.clone())));
    let tokens: Vec<Token> = nodes.chain(waypoints::tokens(plan)).collect();
    waypoints::folders(&lab.paths, plan)?;
    config::authority::config(&lab.paths, plan, &tokens)?;
    publish(lab, plan)?;
    let ca = start_ca(lab)?;
    let mut agents = Vec::new();
    for node in &plan.nodes {
        lab.step(&format!("{}: node agent and ztunnel", node.name))?;
        agents.push((node, start_agent(lab, plan, node)?));
    }
    until_authority_ready(lab, plan, &ca)?;
    for (node, record) in &agents {
        wait::until_ready(lab, record, "its sockets for ztunnel", READY, || {
            Ok(lab.paths.zds_sockets(&node.name).iter().all(|socket| socket.exists()))
        })?;
        start_ztunnel(lab, plan, node, 1)?;
    }
    waypoints::raise(lab, plan, &tokens)?;
    lab.step("waiting for the mesh")?;
    until_ztunnels_ready(lab)?;
    until_enrolled(lab, plan)
}

/// Writes what the programs read of pods, services and policies.
pub(crate) fn publish(lab: &Lab, plan: &Plan) -> Result<(), LabError> {
    config::authority::pods(&lab.paths, plan)?;
    config::discovery::publish(&lab.paths, plan)?;
    waypoints::publish(&lab.paths, plan)?;
    plan.nodes.iter().try_for_each(|node| config::agent::pods(&lab.paths, plan, node))
}

fn start_ca(lab: &Lab) -> Result<Record, LabError> {
    let enter = in_host(lab, lab.tree.infra(), &lab.paths.netns("infra"));
    start_program(lab, "ca", CA, &lab.paths.ca().join("ca.yaml"), enter)
}

fn until_authority_ready(lab: &Lab, plan: &Plan, ca: &Record) -> Result<(), LabError> {
    let ips: Vec<_> = plan.infra().into_iter().take(1).collect();
    wait::until_listening(lab, ca, &lab.paths.netns("infra"), &ips, CA_PORT)
}

fn start_agent(lab: &Lab, plan: &Plan, node: &NodePlan) -> Result<Record, LabError> {
    config::agent::config(&lab.paths, &lab.tree.node(&node.name), plan, node)?;
    let enter = in_host(lab, lab.tree.agent(&node.name), &lab.paths.netns(&node.name));
    start_program(lab, &format!("{}/agent", node.name), AGENT, &lab.paths.agent_config(&node.name), enter)
}

/// Starts a generation of a node's ztunnel in a namespace of its own.
pub(crate) fn start_ztunnel(lab: &Lab, plan: &Plan, node: &NodePlan, generation: u32) -> Result<Record, LabError> {
    let one = Ztunnel {
        node: node.name.clone(),
        generation,
        addresses: plan.ztunnel(node, generation)?,
        host_interface: format!("zt-{generation}"),
    };
    let handle = lab.paths.netns(&one.netns());
    let group = lab.tree.ztunnel(&node.name, generation);
    lab.change(|state| {
        state.ztunnels.push(one.clone());
        Ok(())
    })?;
    cgroup::create(&group)?;
    netns::create(&handle, &[])?;
    let place = Attachment { node, netns: &handle, host_interface: &one.host_interface, addresses: &one.addresses };
    links::attach(&lab.paths, node, &[place])?;
    config::ztunnel::config(&lab.paths, plan, node, generation)?;
    // As in a cluster: root, but not privileged.
    let capabilities = Some(caps::only(&ZTUNNEL_CAPABILITIES));
    let enter = Enter { capabilities, ..in_host(lab, group, &handle) };
    let file = lab.paths.ztunnel_config(&node.name, generation);
    start_program(lab, &process_name(&node.name, generation), ZTUNNEL, &file, enter)
}

pub(crate) fn start_program(
    lab: &Lab,
    name: &str,
    program: (&str, &'static str),
    config: &Path,
    enter: Enter,
) -> Result<Record, LabError> {
    let path = process::program(program.0, program.1)?;
    let argv = vec![path.display().to_string(), "--config".to_owned(), config.display().to_string()];
    lab.start(Launch { name: name.to_owned(), argv, enter, env: BTreeMap::new(), log: lab.paths.log(name) })
}

// Our programs see the machine's files; only their network and control group are the lab's.
pub(crate) fn in_host(lab: &Lab, cgroup: std::path::PathBuf, netns: &Path) -> Enter {
    Enter { cgroup, netns: netns.to_owned(), folder: lab.paths.root().to_owned(), session: true, ..Enter::default() }
}

/// Waits until all ztunnels say that they are ready.
pub(crate) fn until_ztunnels_ready(lab: &Lab) -> Result<(), LabError> {
    let (ztunnels, processes) = {
        let state = lab.state();
        (state.ztunnels.clone(), state.processes.clone())
    };
    for one in &ztunnels {
        let name = one.process();
        let Some(record) = processes.iter().find(|p| p.launch.name == name) else { continue };
        until_healthy(lab, record, &lab.paths.netns(&one.netns()))?;
    }
    Ok(())
}

/// Waits until a program of ours says that it is ready, in its namespace.
pub(crate) fn until_healthy(lab: &Lab, record: &Record, netns: &Path) -> Result<(), LabError> {
    let to = admin::address(PROGRAM_READY)?;
    wait::until_ready(lab, record, "readiness", READY, || {
        Ok(admin::http_get(netns, to, "GET", "/healthz/ready").is_ok_and(|a| a.status == 200))
    })
}

/// Waits until every agent says of every meshed pod that it is captured.
pub(crate) fn until_enrolled(lab: &Lab, plan: &Plan) -> Result<(), LabError> {
    for node in &plan.nodes {
        let here: Vec<&PodPlan> = plan.pods.iter().filter(|p| p.pod.node == node.name).collect();
        until_captured(lab, &node.name, &here)?;
    }
    Ok(())
}

/// Waits until a node's agent says of these pods, as far as they are meshed, that they are captured.
pub(crate) fn until_captured(lab: &Lab, node: &str, pods: &[&PodPlan]) -> Result<(), LabError> {
    let record = lab.state().process(&format!("{node}/agent"))?.clone();
    wait::until_ready(lab, &record, "the capture of all pods", READY, || {
        let captured = captured_pods(lab, node).unwrap_or_default();
        Ok(pods.iter().filter(|p| p.pod.mesh).all(|p| captured.get(&p.uid).is_some_and(|c| c == CAPTURED)))
    })
}

/// Waits until the agent of a removed pod's node has let go of it.
pub(crate) fn until_forgotten(lab: &Lab, pod: &PodPlan) -> Result<(), LabError> {
    if !pod.pod.mesh {
        return Ok(());
    }
    let record = lab.state().process(&format!("{}/agent", pod.pod.node))?.clone();
    wait::until_ready(lab, &record, "the end of a pod's capture", READY, || {
        Ok(!captured_pods(lab, &pod.pod.node).unwrap_or_default().contains_key(&pod.uid))
    })
}

/// The word of the agent for a pod whose capture is complete.
pub(crate) const CAPTURED: &str = "captured";

/// What a node's agent says of its pods: state by uid.
pub(crate) fn captured_pods(lab: &Lab, node: &str) -> Result<BTreeMap<String, String>, LabError> {
    let answer = lab.agent_admin(node, "/status")?.json()?;
    let pods = answer.get("pods").and_then(|p| p.as_array()).cloned().unwrap_or_default();
    let text = |v: &serde_json::Value, key: &str| v.get(key).and_then(|t| t.as_str()).unwrap_or_default().to_owned();
    let phase = |p: &serde_json::Value| match text(p, "error") {
        error if error.is_empty() => text(p, "state"),
        error => format!("{}: {error}", text(p, "state")),
    };
    Ok(pods.iter().map(|p| (text(p, "uid"), phase(p))).collect())
}

/// Where ztunnels send spans to.
pub(crate) fn collector_endpoint(plan: &Plan) -> Option<String> {
    match plan.spec.telemetry.otlp.0.as_str() {
        OtlpTo::OFF => None,
        OtlpTo::AUTO => plan.infra().first().map(|ip| format!("http://{ip}:{OTLP_PORT}")),
        address => Some(address.to_owned()),
    }
}

impl Lab {
    /// Starts the next generation of a node's ztunnel beside those that run, in a namespace and with a hand-over socket of
    /// its own, and waits until it is ready. Gives back its number.
    ///
    /// # Errors
    /// When it does not come up, or the generation that has its socket has not been ended.
    pub fn next_generation(&self, node: &str) -> Result<u32, LabError> {
        let _lock = self.lock()?;
        let plan = self.plan();
        let node = plan.node(node)?;
        let used = |p: &Record| {
            p.launch.name.strip_prefix(&format!("{}/ztunnel-", node.name)).and_then(|n| n.parse::<u32>().ok())
        };
        let next = self.state().processes.iter().filter_map(used).max().unwrap_or(0) + 1;
        let living =
            self.state().ztunnels.iter().filter(|z| z.node == node.name).map(|z| z.generation).collect::<Vec<_>>();
        if let Some(holder) = living.into_iter().find(|one| Paths::shares_socket(*one, next)) {
            let what = format!("generation {next} would have the socket of generation {holder}, which is still there");
            return Err(LabError::Unfit(format!("{what}; end that one first")));
        }
        start_ztunnel(self, &plan, node, next)?;
        until_ztunnels_ready(self)?;
        Ok(next)
    }

    /// Ends a generation of a node's ztunnel (SIGTERM, SIGKILL after `grace`) and removes its namespace.
    ///
    /// # Errors
    /// When there is none, or it does not go.
    pub fn end_generation(&self, node: &str, generation: u32, grace: Duration) -> Result<(), LabError> {
        let _lock = self.lock()?;
        let name = process_name(node, generation);
        self.stop(&name, grace)?;
        let one = self.change(|state| {
            let at = state.ztunnels.iter().position(|z| z.node == node && z.generation == generation);
            Ok(at.map(|at| state.ztunnels.remove(at)))
        })?;
        if let Some(one) = one {
            links::detach(&self.paths, node, &one.host_interface)?;
            netns::remove(&self.paths.netns(&one.netns()))?;
            down::clear_group(&self.tree.ztunnel(node, generation))?;
        }
        Ok(())
    }

    /// Waits until all ztunnels are ready and all pods captured, as after a restart.
    ///
    /// # Errors
    /// When that does not happen within 30 s, with the log of the program that is late.
    pub fn until_ready(&self) -> Result<Duration, LabError> {
        let begun = Instant::now();
        until_ztunnels_ready(self)?;
        until_enrolled(self, &self.plan())?;
        Ok(begun.elapsed())
    }

    pub(crate) fn newest_ztunnel(&self, node: &str) -> Result<Ztunnel, LabError> {
        let plan = self.plan();
        let node = plan.node(node)?;
        let state = self.state();
        let newest = state.ztunnels.iter().filter(|z| z.node == node.name).max_by_key(|z| z.generation);
        newest.cloned().ok_or_else(|| {
            LabError::Unfit(format!("node {} has no ztunnel: no pod of this lab is in the mesh", node.name))
        })
    }
}
