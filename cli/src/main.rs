//! `culvert`: the command line.

mod chart;
mod check;
mod cluster;
mod config;
mod enroll;
mod forward;
mod install;
mod lab;
mod manifest;
mod status;
mod waypoint;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Culvert, an ambient service mesh.
#[derive(Parser)]
#[command(name = "culvert", version, about, arg_required_else_help = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Is the cluster fit for Culvert, and is Culvert well?
    Check(check::CheckCommand),
    /// What the control plane wants, and what each node proxy has.
    Config(config::ConfigCommand),
    /// Take a namespace into the mesh, after a look at what would break.
    Enroll(enroll::Enroll),
    /// Install or update Culvert in a cluster.
    Install(install::Install),
    /// A laboratory on this machine: nodes and pods as network namespaces, with faults.
    Lab(lab::LabCommand),
    /// What `culvert install` makes, without making it.
    Manifest(manifest::ManifestCommand),
    /// Show the nodes, and every pod that is or should be in the mesh.
    Status(status::StatusCommand),
    /// Take a namespace out of the mesh.
    Unenroll(enroll::Unenroll),
    /// Take Culvert out of a cluster; nothing of it is left.
    Uninstall(install::Uninstall),
    /// Print the version.
    Version,
    /// Waypoints: L7 for the services that need it.
    Waypoint(waypoint::WaypointCommand),
}

fn main() -> ExitCode {
    // Before anything else: the lab starts each of its processes through this.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == ::lab::HELPER) {
        return ::lab::run_helper(args);
    }
    match Cli::parse().command {
        Command::Check(command) => cluster::run(check::run(command)),
        Command::Config(command) => cluster::run(config::run(command)),
        Command::Enroll(command) => cluster::run(enroll::enroll(command)),
        Command::Install(command) => cluster::run(install::install(command)),
        Command::Lab(command) => lab::run(command),
        Command::Manifest(command) => manifest::run(command),
        Command::Status(command) => cluster::run(status::run(command)),
        Command::Unenroll(command) => cluster::run(enroll::unenroll(command)),
        Command::Uninstall(command) => cluster::run(install::uninstall(command)),
        Command::Version => {
            println!("culvert {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Command::Waypoint(command) => waypoint::run(command),
    }
}
