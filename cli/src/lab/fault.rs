//! `culvert lab fault …`.

use clap::{Args, Subcommand};
use lab::{Fault, Lab};

use super::unfit;

/// Let things go wrong.
#[derive(Args)]
pub(crate) struct FaultCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Switch a fault on.
    #[command(subcommand)]
    Add(Kind),
    /// Switch a fault off, or all of them, and start again what they ended.
    Clear {
        /// Its number, as `list` shows it.
        id: Option<u32>,
    },
    /// Show the faults that are on.
    List,
}

#[derive(Subcommand)]
enum Kind {
    /// Make every packet of a node late, both ways.
    Delay {
        /// The node.
        node: String,
        /// One way, as in 20ms.
        by: document::Span,
    },
    /// Lose a share of the packets on the wire.
    Drop {
        /// As in 5% or 0.5%.
        share: String,
        /// Only what this node sends or receives.
        #[arg(long)]
        node: Option<String>,
    },
    /// Stop the certificate authority, so that certificates run out.
    ExpireCert,
    /// Kill a process (SIGKILL).
    Kill {
        /// As status lists them: ca, node1/agent, node1/ztunnel-1, pod/web.
        process: String,
        /// Start it again at once.
        #[arg(long)]
        restart: bool,
    },
    /// Let nothing pass between two nodes.
    Partition {
        /// The node.
        node: String,
        /// The other node; all of the wire when not given.
        from: Option<String>,
    },
    /// Revoke all certificates that an identity has; the lab's document needs `crl: true`.
    Revoke {
        /// A pod, or an identity as in spiffe://cluster.local/ns/shop/sa/web.
        whom: String,
    },
}

/// Runs it.
pub(crate) fn run(lab: &Lab, command: FaultCommand) -> anyhow::Result<()> {
    match command.verb {
        Verb::Add(kind) => {
            let fault = fault(lab, kind)?;
            let text = fault.to_string();
            let id = lab.add_fault(fault)?;
            println!("{id}  {text}");
        }
        Verb::Clear { id } => lab.clear_faults(id)?,
        Verb::List => lab.faults().iter().for_each(|f| println!("{}  {}", f.id, f.fault)),
    }
    Ok(())
}

fn fault(lab: &Lab, kind: Kind) -> anyhow::Result<Fault> {
    Ok(match kind {
        Kind::Delay { node, by } => Fault::Delay { node, by: by.0 },
        Kind::Drop { share, node } => Fault::Drop { per_mille: per_mille(&share)?, node },
        Kind::ExpireCert => Fault::ExpireCert,
        Kind::Kill { process, restart } => Fault::Kill { process, restart },
        Kind::Partition { node, from } => Fault::Partition { node, from },
        Kind::Revoke { whom } if whom.starts_with("spiffe://") => Fault::Revoke { identity: whom },
        Kind::Revoke { whom } => Fault::Revoke { identity: lab.identity_of(&whom)? },
    })
}

// "0.5%" is 5 of a thousand; finer is not counted.
fn per_mille(share: &str) -> anyhow::Result<u16> {
    let number: Option<f64> = share.strip_suffix('%').and_then(|n| n.parse().ok());
    let wrong = || unfit(format!("{share:?} is not a share; write 0.1% to 100%"));
    let number = number.filter(|n| (0.1..=100.0).contains(n)).ok_or_else(wrong)?;
    // 0.1 to 100 times ten fits.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to 1000 after the check above")]
    Ok((number * 10.0).round() as u16)
}

#[cfg(test)]
mod tests {
    use super::per_mille;

    #[test]
    fn shares() {
        assert_eq!(per_mille("5%").unwrap(), 50);
        assert_eq!(per_mille("0.1%").unwrap(), 1);
        for wrong in ["5", "0%", "101%", "x%", "-1%", "NaN%"] {
            assert!(per_mille(wrong).is_err(), "{wrong}");
        }
    }
}
