//! Things that go wrong on purpose.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::delay;
use crate::error::LabError;
use crate::lab::Lab;
use crate::links::port_name;
use crate::netns;
use crate::plan::Plan;
use crate::programs;
use crate::tools::NFT;

/// The table in the wire's namespace that holds all packet faults.
const TABLE: &str = "culvert_lab";

/// A fault.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "camelCase")]
pub enum Fault {
    /// Every packet of a node is late, both ways.
    Delay {
        /// The node.
        node: String,
        /// One way.
        by: Duration,
    },
    /// A share of the packets on the wire is lost.
    Drop {
        /// Of a thousand.
        per_mille: u16,
        /// Only what this node sends or receives.
        node: Option<String>,
    },
    /// The authority is stopped, so that certificates run out: what a long outage of it looks like. They live as long as
    /// the lab's `certificateLifetime` says.
    ExpireCert,
    /// A process is killed (SIGKILL).
    Kill {
        /// Its name, as in `node1/ztunnel-1`.
        process: String,
        /// Start it again at once.
        restart: bool,
    },
    /// Nothing passes between two nodes, or between one and all others.
    Partition {
        /// The node.
        node: String,
        /// The other one; all others and the infra when not given.
        from: Option<String>,
    },
    /// All certificates that an identity has are revoked. One that it is given later is good until the next revocation is
    /// added, which looks again. Needs a lab with `crl`.
    Revoke {
        /// As in `spiffe://cluster.local/ns/shop/sa/web`; see [`Lab::identity_of`].
        identity: String,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Delay { node, by } => write!(f, "packets of {node} are {by:?} late each way"),
            Self::Drop { per_mille, node: None } => write!(f, "drop {per_mille}‰ of all packets on the wire"),
            Self::Drop { per_mille, node: Some(node) } => write!(f, "drop {per_mille}‰ of the packets of {node}"),
            Self::ExpireCert => f.write_str("authority stopped: certificates run out"),
            Self::Kill { process, restart: false } => write!(f, "{process} killed"),
            Self::Kill { process, restart: true } => write!(f, "{process} killed and started again"),
            Self::Partition { node, from: None } => write!(f, "{node} cut off from all"),
            Self::Partition { node, from: Some(from) } => write!(f, "{node} and {from} cut off from each other"),
            Self::Revoke { identity } => write!(f, "certificates of {identity} revoked"),
        }
    }
}

/// A fault that is on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FaultEntry {
    /// Its number.
    pub id: u32,
    /// What it is.
    pub fault: Fault,
}

impl Lab {
    /// Switches a fault on. Gives back its number.
    ///
    /// # Errors
    /// When it names what is not there, or cannot be done.
    pub fn add_fault(&self, fault: Fault) -> Result<u32, LabError> {
        let _lock = self.lock()?;
        let mut faults = self.faults();
        let id = faults.iter().map(|f| f.id).max().unwrap_or(0) + 1;
        self.check_fault(&faults, &fault)?;
        faults.push(FaultEntry { id, fault: fault.clone() });
        self.apply_packet_faults(&faults)?;
        if let Err(error) = self.bring_about(&fault, &faults) {
            // The rules are those of the faults that are on.
            self.apply_packet_faults(&self.faults())?;
            return Err(error);
        }
        // A process that runs again is no fault that is on.
        faults.retain(|f| !matches!(f.fault, Fault::Kill { restart: true, .. }));
        self.change(|state| {
            state.faults = faults;
            Ok(())
        })?;
        Ok(id)
    }

    /// Faults that are on.
    pub fn faults(&self) -> Vec<FaultEntry> {
        self.state().faults.clone()
    }

    /// Switches a fault off, or all of them. Processes that a fault ended are started again.
    ///
    /// # Errors
    /// When there is none of this number, or it cannot be undone.
    pub fn clear_faults(&self, id: Option<u32>) -> Result<(), LabError> {
        let _lock = self.lock()?;
        let faults = self.faults();
        if let Some(id) = id
            && !faults.iter().any(|f| f.id == id)
        {
            let known = faults.iter().map(|f| f.id.to_string()).collect::<Vec<_>>().join(", ");
            return Err(LabError::Unknown { kind: "fault", name: id.to_string(), known });
        }
        let (gone, stay): (Vec<_>, Vec<_>) = faults.into_iter().partition(|f| id.is_none_or(|id| f.id == id));
        self.apply_packet_faults(&stay)?;
        for entry in &gone {
            match &entry.fault {
                Fault::Delay { node, .. } => delay::take_out(self, node, self.place_on_wire(node)?)?,
                Fault::ExpireCert => self.restart("ca")?,
                Fault::Kill { process, .. } => self.restart(process)?,
                Fault::Revoke { .. } => self.publish_revocations(&stay)?,
                Fault::Drop { .. } | Fault::Partition { .. } => {}
            }
        }
        self.change(|state| {
            state.faults = stay;
            Ok(())
        })?;
        if gone.iter().any(|f| matches!(f.fault, Fault::Kill { .. })) && self.plan().meshed() {
            programs::until_ztunnels_ready(self)?;
        }
        Ok(())
    }

    fn bring_about(&self, fault: &Fault, all: &[FaultEntry]) -> Result<(), LabError> {
        match fault {
            Fault::Delay { node, by } => delay::insert(self, node, self.place_on_wire(node)?, *by),
            Fault::ExpireCert => self.stop("ca", Duration::from_secs(2)),
            Fault::Kill { process, restart: true } => self.restart(process),
            Fault::Kill { process, restart: false } => self.kill(process),
            Fault::Revoke { .. } => self.publish_revocations(all),
            Fault::Drop { .. } | Fault::Partition { .. } => Ok(()),
        }
    }

    fn check_fault(&self, on: &[FaultEntry], new: &Fault) -> Result<(), LabError> {
        let delayed = |name: &String| on.iter().any(|f| matches!(&f.fault, Fault::Delay { node, .. } if node == name));
        match new {
            Fault::Delay { node, .. } if delayed(node) => {
                Err(LabError::Unfit(format!("{node} has a slow wire already; clear that fault first")))
            }
            Fault::Delay { node, .. } => self.place_on_wire(node).map(drop),
            Fault::Drop { per_mille, .. } if !(1..=1000).contains(per_mille) => {
                Err(LabError::Unfit(format!("{per_mille} of a thousand is no share; use 1 to 1000")))
            }
            Fault::Revoke { .. } if !self.plan().spec.crl => {
                let what = "the proxies of this lab follow no list of revoked certificates";
                Err(LabError::Unfit(format!("{what}; raise it with `crl: true` in its document")))
            }
            _ => Ok(()),
        }
    }

    fn place_on_wire(&self, node: &str) -> Result<usize, LabError> {
        Ok(usize::from(self.plan().node(node)?.index) - 1)
    }

    // The whole table is replaced in one transaction, so that rules and list never disagree.
    fn apply_packet_faults(&self, faults: &[FaultEntry]) -> Result<(), LabError> {
        let rules = ruleset(&self.plan(), faults)?;
        netns::inside(&self.paths.netns("wire"), || NFT.run(&["-f", "-"], &rules).map(drop))
    }
}

fn ruleset(plan: &Plan, faults: &[FaultEntry]) -> Result<String, LabError> {
    // The port that stands for a node on the bridge.
    let delayed = |name: &str| faults.iter().any(|f| matches!(&f.fault, Fault::Delay { node, .. } if node == name));
    let name_of = |at: usize, node: &str| if delayed(node) { delay::far(at) } else { port_name(at, node) };
    let ports: BTreeMap<&str, String> =
        plan.nodes.iter().enumerate().map(|(at, n)| (n.name.as_str(), name_of(at, &n.name))).collect();
    let port = |name: &str| plan.node(name).map(|n| ports.get(n.name.as_str()).cloned().unwrap_or_default());
    let mut rules = Vec::new();
    for entry in faults {
        match &entry.fault {
            Fault::Drop { per_mille, node: None } => rules.push(dropping("", *per_mille)),
            Fault::Drop { per_mille, node: Some(node) } => {
                let port = port(node)?;
                rules.push(dropping(&format!("iifname \"{port}\" "), *per_mille));
                rules.push(dropping(&format!("oifname \"{port}\" "), *per_mille));
            }
            Fault::Partition { node, from: None } => {
                let port = port(node)?;
                rules.push(format!("iifname \"{port}\" counter drop"));
                rules.push(format!("oifname \"{port}\" counter drop"));
            }
            Fault::Partition { node, from: Some(from) } => {
                let (one, other) = (port(node)?, port(from)?);
                rules.push(format!("iifname \"{one}\" oifname \"{other}\" counter drop"));
                rules.push(format!("iifname \"{other}\" oifname \"{one}\" counter drop"));
            }
            Fault::Delay { .. } | Fault::ExpireCert | Fault::Kill { .. } | Fault::Revoke { .. } => {}
        }
    }
    // Adding first makes the deletion right also when it was not there.
    let mut text = format!("add table bridge {TABLE}\ndelete table bridge {TABLE}\n");
    if !rules.is_empty() {
        let body = rules.join("\n    ");
        text.push_str(&format!(
            "table bridge {TABLE} {{\n  chain forward {{\n    type filter hook forward priority 0; policy accept;\n    {body}\n  }}\n}}\n"
        ));
    }
    Ok(text)
}

fn dropping(scope: &str, per_mille: u16) -> String {
    if per_mille >= 1000 {
        return format!("{scope}counter drop");
    }
    format!("{scope}numgen random mod 1000 < {per_mille} counter drop")
}
