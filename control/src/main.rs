//! `culvert-control`: the control plane as a program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use control::app;
use control::config::Config;

/// Watches Kubernetes, or a folder of manifests, and tells the node proxies what the mesh is.
#[derive(Parser)]
#[command(name = "culvert-control", version)]
struct Arguments {
    /// The configuration.
    #[arg(long, default_value = "/etc/culvert/control.yaml")]
    config: PathBuf,
    /// Says what is wrong with the configuration and the files that it names, and ends. Makes nothing.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let config: Config = match chassis::config::load(&arguments.config) {
        Ok(config) => config,
        Err(status) => return status,
    };
    let ended = if arguments.check {
        app::check(&config).map(|()| println!("{}: no mistakes", arguments.config.display()))
    } else {
        app::run(config)
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("culvert-control: {error:#}");
            ExitCode::FAILURE
        }
    }
}
