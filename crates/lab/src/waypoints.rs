//! Waypoints in the lab, and the control plane that tells them of routes. Node proxies go on reading the lab's file: what they
//! know of waypoints is where they are.

use std::fs;

use crate::caps;
use crate::config;
use crate::config::authority::{Holder, Token};
use crate::error::{Doing, LabError};
use crate::inside::Enter;
use crate::lab::{Lab, netns_of_pod};
use crate::paths::Paths;
use crate::plan::{Plan, PodPlan};
use crate::process::{self, Record};
use crate::programs::{in_host, start_program, until_healthy};

const CONTROL: (&str, &str) = ("culvert-control", "control");
const WAYPOINT: (&str, &str) = ("waypoint", "waypoint");

/// Names what is missing before anything is made.
pub(crate) fn look_around(plan: &Plan) -> Result<(), LabError> {
    if plan.spec.waypoints.is_empty() {
        return Ok(());
    }
    [CONTROL, WAYPOINT].iter().try_for_each(|(name, package)| process::program(name, package).map(drop))
}

/// The tokens of waypoints and of the control plane.
pub(crate) fn tokens(plan: &Plan) -> Vec<Token> {
    let waypoints = plan.spec.waypoints.iter().cloned().map(|w| Token::new(Holder::Waypoint(w)));
    let control = (!plan.spec.waypoints.is_empty()).then(|| Token::new(Holder::Control));
    waypoints.chain(control).collect()
}

/// The folders that their files go to.
pub(crate) fn folders(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    if plan.spec.waypoints.is_empty() {
        return Ok(());
    }
    let waypoints = plan.spec.waypoints.iter().map(|w| paths.waypoint(&w.name));
    for folder in waypoints.chain([paths.manifests()]) {
        fs::create_dir_all(&folder).doing(|| format!("cannot make {}", folder.display()))?;
    }
    Ok(())
}

/// Writes the objects that the control plane follows.
pub(crate) fn publish(paths: &Paths, plan: &Plan) -> Result<(), LabError> {
    if plan.spec.waypoints.is_empty() { Ok(()) } else { config::control::publish(paths, plan) }
}

/// Starts the control plane, then the waypoints, and waits until they are ready.
pub(crate) fn raise(lab: &Lab, plan: &Plan, tokens: &[Token]) -> Result<(), LabError> {
    if plan.spec.waypoints.is_empty() {
        return Ok(());
    }
    lab.step("control plane")?;
    config::control::config(&lab.paths, plan, tokens)?;
    let infra = lab.paths.netns("infra");
    let enter = in_host(lab, lab.tree.infra(), &infra);
    let control = start_program(lab, "control", CONTROL, &lab.paths.control().join("control.yaml"), enter)?;
    // It listens before it has read the objects, and ends when one of them is wrong.
    until_healthy(lab, &control, &infra)?;
    let mut started = Vec::new();
    for waypoint in &plan.spec.waypoints {
        lab.step(&format!("waypoint {}", waypoint.name))?;
        let pod = plan.pod(&waypoint.name)?;
        started.push((pod, start(lab, plan, pod)?));
    }
    for (pod, record) in &started {
        until_healthy(lab, record, &lab.paths.netns(&netns_of_pod(&pod.pod.name)))?;
    }
    Ok(())
}

fn start(lab: &Lab, plan: &Plan, pod: &PodPlan) -> Result<Record, LabError> {
    config::waypoint::config(&lab.paths, plan, pod)?;
    let name = &pod.pod.name;
    let netns = lab.paths.netns(&netns_of_pod(name));
    // As in a cluster: no capability at all.
    let capabilities = Some(caps::only(&[]));
    let enter = Enter { capabilities, ..in_host(lab, lab.tree.pod(&pod.pod.node, name), &netns) };
    let file = lab.paths.waypoint(name).join("waypoint.yaml");
    start_program(lab, &process_name(name), WAYPOINT, &file, enter)
}

/// Name of a waypoint's process.
pub(crate) fn process_name(waypoint: &str) -> String {
    format!("waypoint/{waypoint}")
}
