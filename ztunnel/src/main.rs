//! The node proxy. It gives the pods of its node an identity, mutual TLS and L4 policy, and carries their connections
//! over HBONE. See ARCHITECTURE.md for the story of one connection.

mod admin;
mod app;
mod budget;
mod carry;
mod config;
mod config_dump;
mod dial;
mod discovery;
mod here;
mod inbound;
mod judge;
mod outbound;
mod plaintext;
mod pod;
mod pods;
mod same_node;
mod tunnel_io;
mod worker;
mod world;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::config::Config;

#[derive(Parser)]
#[command(name = "ztunnel", version, about = "Culvert's node proxy")]
struct Args {
    /// Configuration, YAML.
    #[arg(long, default_value = "/etc/culvert/ztunnel.yaml")]
    config: PathBuf,
    /// Only say whether the configuration is right.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    if args.check {
        return chassis::config::check::<Config>(&args.config);
    }
    let config = match chassis::config::load::<Config>(&args.config) {
        Ok(config) => config,
        Err(status) => return status,
    };
    match app::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ztunnel: {error:#}");
            ExitCode::FAILURE
        }
    }
}
