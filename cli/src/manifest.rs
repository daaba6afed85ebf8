//! `culvert manifest …`: what an installation is made of.

mod compare;
mod diff;

use std::io::{Write, stdout};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::{chart, cluster};

/// What an installation is made of.
#[derive(Args)]
pub(crate) struct ManifestCommand {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Print the template of the chart `culvert-crds`.
    #[command(hide = true)]
    Definitions,
    /// Say what `culvert install` with these values would change in the cluster. Changes nothing. Exit status: 0 when nothing
    /// would change, 1 when something would, 2 when that cannot be told.
    Diff(diff::Diff),
    /// Print every object.
    Generate(Choice),
    /// Print the schema of the values.
    Schema {
        /// That of the chart `culvert-crds`.
        #[arg(long, hide = true)]
        definitions: bool,
    },
}

/// The label `app.kubernetes.io/managed-by` of what Helm made.
pub(crate) const HELM: &str = "Helm";

/// Which installation.
#[derive(Args, Clone)]
pub(crate) struct Choice {
    /// Namespace of Culvert's own pods.
    #[arg(short, long, default_value = "culvert-system")]
    pub(crate) namespace: String,
    /// File with values; may be given several times, the later wins.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// Single values, as in mesh.trustDomain=example.org; wins over files.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    /// The label `app.kubernetes.io/managed-by`; `Helm` gives what `helm template` gives, hooks and tests among it.
    #[arg(long, default_value = "culvert", hide = true)]
    pub(crate) managed_by: String,
}

/// What becomes of values that an installation has and that are not given again.
#[derive(Args, Clone, Copy, Debug, Default)]
#[group(multiple = false)]
pub(crate) struct Keep {
    /// Begin with the values of the installation in place of the defaults; what is given wins over them.
    #[arg(long)]
    pub(crate) reuse_values: bool,
    /// Begin with the defaults, whatever values the installation has.
    #[arg(long)]
    pub(crate) reset_values: bool,
}

impl Choice {
    /// The objects. Hooks are only among them when Helm is to run them.
    ///
    /// # Errors
    /// Mistakes in the values.
    pub(crate) fn objects(&self) -> Result<Vec<Value>> {
        self.rendered(&chart::values(&self.files, &self.settings)?)
    }

    /// The objects with these values.
    ///
    /// # Errors
    /// A mistake in a template, which is ours.
    pub(crate) fn rendered(&self, values: &Value) -> Result<Vec<Value>> {
        let release = chart::Release { name: "culvert", namespace: &self.namespace, service: &self.managed_by };
        let mut objects = chart::objects(&release, values)?;
        objects.retain(|object| self.managed_by == HELM || !chart::is_hook(object));
        Ok(objects)
    }
}

/// Runs it.
pub(crate) fn run(command: ManifestCommand) -> ExitCode {
    let mut out = stdout();
    let done = match command.verb {
        Verb::Diff(diff) => return cluster::run(diff::run(diff)),
        Verb::Definitions => chart::definitions_template().and_then(|text| Ok(write!(out, "{text}")?)),
        Verb::Generate(choice) => choice.objects().and_then(|objects| {
            for object in objects {
                writeln!(out, "---\n{}", chart::yaml(&object))?;
            }
            Ok(())
        }),
        Verb::Schema { definitions: false } => writeln!(out, "{:#}", chart::schema()).map_err(Into::into),
        Verb::Schema { definitions: true } => writeln!(out, "{:#}", chart::definitions_schema()).map_err(Into::into),
    };
    cluster::finish(done.map(|()| ExitCode::SUCCESS))
}
