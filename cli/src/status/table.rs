//! The status as tables for people.

use super::Status;
use crate::lab::titled;

/// Two tables: nodes, then pods.
pub(super) fn table(status: &Status) -> String {
    let mut nodes = titled(&["NODE", "AGENT", "PROXIES", "NOTE"]);
    for node in &status.nodes {
        let agent = node.agent.clone().unwrap_or_else(|| "none".to_owned());
        nodes.add_row([node.name.clone(), agent, node.proxies.join(" "), node.error.clone().unwrap_or_default()]);
    }
    let mut pods = titled(&["NAMESPACE", "POD", "NODE", "STATE", "CLEAR", "NOTE"]);
    for pod in &status.pods {
        let clear = pod.clear_connections.to_string();
        pods.add_row([&pod.namespace, &pod.name, &pod.node, &pod.state, &clear, &pod.note]);
    }
    let mut text = format!("{}\n", nodes.trim_fmt());
    if pods.row_count() > 0 {
        text.push_str(&format!("\n{}\n", pods.trim_fmt()));
    } else {
        text.push_str("\nno pod is in the mesh; kubectl label namespace NAME istio.io/dataplane-mode=ambient\n");
    }
    text
}
