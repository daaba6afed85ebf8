//! The status of a lab as tables.

use std::fmt::Display;

use comfy_table::{Table, presets};
use lab::Status;

/// Tables for people.
pub(crate) fn table(status: &Status) -> String {
    let mut text = format!("lab {}{}\n", status.name, if status.raised { "" } else { " (half raised: take it down)" });
    let mut nodes = titled(&["NODE", "ADDRESSES", "AGENT"]);
    for node in &status.nodes {
        nodes.add_row([
            node.name.clone(),
            join(&node.addresses),
            node.agent_error.clone().unwrap_or_else(|| agent(status).to_owned()),
        ]);
    }
    let mut pods = titled(&["POD", "NAMESPACE", "NODE", "ADDRESSES", "CAPTURE", "PROGRAM"]);
    for pod in &status.pods {
        let cells = [&pod.name, &pod.namespace, &pod.node, &join(&pod.addresses), &pod.capture, &pod.program];
        pods.add_row(cells);
    }
    let mut services = titled(&["SERVICE", "ADDRESSES", "PORTS", "PODS"]);
    for service in &status.services {
        services.add_row([&service.hostname, &join(&service.vips), &join(&service.ports), &join(&service.pods)]);
    }
    let mut processes = titled(&["PROCESS", "PID", "STATE", "RESTARTS"]);
    for process in &status.processes {
        let state = if process.running { "running" } else { "ended" };
        let cells = [process.name.clone(), process.pid.to_string(), state.to_owned(), process.restarts.to_string()];
        processes.add_row(cells);
    }
    for table in [nodes, pods, services, processes].iter().filter(|t| t.row_count() > 0) {
        text.push_str(&format!("\n{}\n", table.trim_fmt()));
    }
    if !status.faults.is_empty() {
        text.push_str("\nFAULTS\n");
        status.faults.iter().for_each(|f| text.push_str(&format!("{}  {}\n", f.id, f.fault)));
    }
    text
}

// A lab without a pod in the mesh has no agents.
fn agent(status: &Status) -> &'static str {
    if status.processes.iter().any(|p| p.name.ends_with("/agent")) { "answers" } else { "none" }
}

pub(crate) fn titled(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(columns);
    table
}

fn join(items: &[impl Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
}
