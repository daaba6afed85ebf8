//! `culvert-node`: the node agent as a program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use node::app;
use node::config::Config;

#[derive(Parser)]
#[command(name = "culvert-node", version, about = "Culvert's node agent")]
struct Args {
    /// Configuration, YAML.
    #[arg(long, default_value = "/etc/culvert/node.yaml")]
    config: PathBuf,
    /// Only say whether the configuration is right.
    #[arg(long)]
    check: bool,
    /// Takes all capture away from this node: programs, maps, rules, and on Kubernetes the CNI plug-in and the pods'
    /// annotations. Pods then talk in clear. Stop the agent first.
    #[arg(long)]
    unload: bool,
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
    let done = if args.unload { app::unload(&config) } else { app::run(config) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-node: {error:#}");
            ExitCode::FAILURE
        }
    }
}
