//! `culvert`: the command line.

mod lab;

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
    /// A laboratory on this machine: nodes and pods as network namespaces, with faults.
    Lab(lab::LabCommand),
    /// Print the version.
    Version,
}

fn main() -> ExitCode {
    // Before anything else: the lab starts each of its processes through this.
    let mut args = std::env::args_os().skip(1);
    if args.next().is_some_and(|first| first == ::lab::HELPER) {
        return ::lab::run_helper(args);
    }
    match Cli::parse().command {
        Command::Lab(command) => lab::run(command),
        Command::Version => {
            println!("culvert {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
    }
}
