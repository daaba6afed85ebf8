//! Istio's node agent, by Istio's chart.

use anyhow::{Context, Result, ensure};
use e2e_cluster::{Cluster, Node};

use super::image::{self, Image};
use crate::istiod::tools::Tools;

/// What the agent writes its rules with.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Rules {
    /// The chart's default.
    Iptables,
    /// `global.nativeNftables`.
    Nftables,
}

impl Rules {
    /// Tells the rules of a network namespace.
    fn program(self) -> &'static str {
        match self {
            Self::Iptables => "iptables-save",
            Self::Nftables => "nft -s list ruleset",
        }
    }

    /// What every pod of the mesh has once, by what is in the line: look-ups and connections go to the proxy, so does what comes in,
    /// and what answers to a foreign address is found again (cni-zds.md 4).
    fn of_a_pod(self) -> [[&'static str; 2]; 4] {
        match self {
            Self::Iptables => [
                ["-p udp", "-j REDIRECT --to-ports 15053"],
                ["-p tcp", "-j REDIRECT --to-ports 15001"],
                ["-p tcp", "-j REDIRECT --to-ports 15006"],
                ["-m mark --mark 0x539/0xfff", "-j CONNMARK --set-xmark 0x111/0xfff"],
            ],
            // Those of IPv6 are in the same table.
            Self::Nftables => [
                ["udp dport 53", "redirect to :15053"],
                ["ip daddr != 127.0.0.1", "redirect to :15001"],
                ["ip daddr != 127.0.0.1", "redirect to :15006"],
                ["meta mark", "ct mark set"],
            ],
        }
    }

    /// What the kubelet's connections to pods of the mesh come from.
    fn of_a_node(self) -> &'static str {
        match self {
            Self::Iptables => "--to-source 169.254.7.127",
            Self::Nftables => "snat ip to 169.254.7.127",
        }
    }
}

/// Installs it, ready on both nodes.
pub(crate) fn install(cluster: &Cluster, tools: &Tools, rules: Rules) -> Result<()> {
    let image = Image::make(cluster)?;
    cluster.load_image(image.archive())?;
    for node in cluster.nodes() {
        own_first_process(&node)?;
    }
    let named = format!("--set=image={}", image::NAME);
    let native = format!("--set=global.nativeNftables={}", matches!(rules, Rules::Nftables));
    let settings = ["-n", "istio-system", "--set=ambient.enabled=true", "--set=pullPolicy=Never", &named, &native];
    let chart = tools.chart("istio-cni");
    tools.helm(cluster, &[&["upgrade", "--install", "istio-cni", &chart][..], &settings].concat())?;
    until_ready(cluster)?;
    for node in cluster.nodes() {
        let said = run(&node, rules.program())?;
        ensure!(said.contains(rules.of_a_node()), "{}: no rule for the kubelet's probes:\n{said}", node.name());
    }
    Ok(())
}

/// The agent takes the network of process 1 for the node's. Nodes here share the machine's processes, so that in a node's files the
/// namespaces of process 1 become those of the process that holds the node.
fn own_first_process(node: &Node) -> Result<()> {
    run(node, &format!("mount --bind /proc/{}/ns /proc/1/ns", node.holder()))?;
    let [first, own] = ["1", "self"].map(|process| run(node, &format!("readlink /proc/{process}/ns/net")));
    ensure!(first? == own?, "{}: process 1 is not in the node's network", node.name());
    Ok(())
}

/// New agents in the place of the old ones, as the chart has it.
pub(crate) fn replace(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["rollout", "restart", "-n", "istio-system", "ds/istio-cni-node"])?;
    until_ready(cluster)
}

fn until_ready(cluster: &Cluster) -> Result<()> {
    cluster.kubectl(&["rollout", "status", "-n", "istio-system", "ds/istio-cni-node", "--timeout=120s"])?;
    Ok(())
}

/// The agents have had nothing to complain of, as of what the proxy said to them.
pub(crate) fn is_content(cluster: &Cluster) -> Result<()> {
    let all =
        cluster.kubectl(&["logs", "-n", "istio-system", "-l", "k8s-app=istio-cni-node", "--tail=-1", "--prefix"])?;
    let complaints: Vec<&str> = all.lines().filter(|line| line.contains("\terror\t")).collect();
    ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
    ensure!(all.contains("sending pod add to ztunnel"), "no pod was handed over:\n{all}");
    Ok(())
}

/// The pods of the shop, two on each node, have Istio's rules, or no pod has.
pub(crate) fn rules_are_in(cluster: &Cluster, rules: Rules, wanted: bool) -> Result<()> {
    for node in cluster.nodes() {
        let program = rules.program();
        let said = run(&node, &format!("for n in /var/run/netns/*; do nsenter --net=\"$n\" {program}; done"))?;
        for rule in rules.of_a_pod() {
            let pods = said.lines().filter(|line| rule.iter().all(|part| line.contains(part))).count();
            ensure!(pods == if wanted { 2 } else { 0 }, "{}: {pods} times {rule:?}\n{said}", node.name());
        }
    }
    Ok(())
}

fn run(node: &Node, line: &str) -> Result<String> {
    let output = node.command("sh").args(["-c", line]).output().context("sh")?;
    let complaint = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}: {line}: {complaint}", node.name());
    Ok(String::from_utf8(output.stdout)?)
}
