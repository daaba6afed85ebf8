//! `culvert manifest …`: what an installation is made of.

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
    /// Print every object.
    Generate(Choice),
    /// Print the schema of the values.
    Schema,
}

/// Which installation.
#[derive(Args, Clone)]
pub(crate) struct Choice {
    /// Namespace of Culvert's own pods.
    #[arg(short, long, default_value = "culvert-system")]
    pub(crate) namespace: String,
    /// File with values; may be given several times, the later wins.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
    /// A single value, as in mesh.trustDomain=example.org; wins over files.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) settings: Vec<String>,
    /// The label `app.kubernetes.io/managed-by`; `Helm` gives what `helm template` gives.
    #[arg(long, default_value = "culvert", hide = true)]
    pub(crate) managed_by: String,
}

impl Choice {
    /// The objects.
    ///
    /// # Errors
    /// Mistakes in the values.
    pub(crate) fn objects(&self) -> Result<Vec<Value>> {
        let values = chart::values(&self.files, &self.settings)?;
        let release = chart::Release { name: "culvert", namespace: &self.namespace, service: &self.managed_by };
        chart::objects(&release, &values)
    }
}

/// Runs it.
pub(crate) fn run(command: ManifestCommand) -> ExitCode {
    let done = match command.verb {
        Verb::Generate(choice) => choice.objects().and_then(|objects| {
            let mut out = stdout().lock();
            for object in objects {
                writeln!(out, "---\n{}", chart::yaml(&object))?;
            }
            Ok(())
        }),
        Verb::Schema => writeln!(stdout(), "{:#}", chart::schema()).map_err(Into::into),
    };
    cluster::finish(done.map(|()| ExitCode::SUCCESS))
}
