//! The waypoint's program.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use waypoint::config::Config;

#[derive(Parser)]
#[command(name = "waypoint", version, about = "Culvert's L7 proxy")]
struct Args {
    /// Configuration, YAML. Without it: /etc/culvert/waypoint.yaml.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Only say whether the configuration is right.
    #[arg(long)]
    check: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let path = args.config.unwrap_or_else(|| chassis::config::default_path("waypoint"));
    if args.check {
        return chassis::config::check::<Config>(&path);
    }
    let config = match chassis::config::load::<Config>(&path) {
        Ok(config) => config,
        Err(status) => return status,
    };
    match waypoint::run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("waypoint: {error:#}");
            ExitCode::FAILURE
        }
    }
}
