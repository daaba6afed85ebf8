//! `culvert waypoint …`: waypoints, which are Gateways of a waypoint class.

mod apply;
mod delete;
mod found;
mod show;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};

use crate::cluster;

pub(crate) use self::found::{Bindable, condition, is_waypoint};
pub(crate) use self::show::bindable;

/// The label by which objects and namespaces name their waypoint (waypoint-api.md 2).
pub(crate) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
/// The label with the waypoint's namespace, where it is another one.
pub(crate) const USE_NAMESPACE: &str = "istio.io/use-waypoint-namespace";
/// The label that says which traffic a waypoint takes.
const WAYPOINT_FOR: &str = "istio.io/waypoint-for";

/// Waypoints: L7 for the services that need it.
#[derive(Args)]
pub(crate) struct WaypointCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Make a waypoint in a namespace, or bring one up to date.
    Apply(apply::Apply),
    /// Delete waypoints, and say who is still bound to them.
    Delete(delete::Delete),
    /// Print the Gateway that `apply` would make.
    Generate(apply::Choice),
    /// List waypoints.
    List(show::List),
    /// Say how a waypoint stands, and who is bound to it. Exit status 1 when one is not ready.
    Status(show::Status),
}

/// Runs it.
pub(crate) fn run(command: WaypointCommand) -> ExitCode {
    match command.verb {
        Verb::Apply(command) => cluster::run(apply::apply(command)),
        Verb::Delete(command) => cluster::run(delete::delete(command)),
        Verb::Generate(choice) => cluster::finish(print(&choice)),
        Verb::List(command) => cluster::run(show::list(command)),
        Verb::Status(command) => cluster::run(show::status(command)),
    }
}

fn print(choice: &apply::Choice) -> Result<ExitCode> {
    use std::io::Write;
    writeln!(std::io::stdout(), "{}", crate::chart::yaml(&choice.gateway()))?;
    Ok(ExitCode::SUCCESS)
}
