//! `culvert manifest diff`: what an installation would change, told by the API server itself (server-side apply, dry run).

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use kube::Client;
use kube::api::{Patch, PatchParams};
use kubernetes::client::call;
use serde_json::Value;

use super::Choice;
use super::compare::{Change, changes};
use crate::cluster::{Connection, PROGRAM, api_of, name_of};
use crate::install;

/// Says what an installation would change.
#[derive(Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    choice: Choice,
}

/// The status when it cannot be told, as diff(1) has it.
const TROUBLE: u8 = 2;

/// Runs it.
pub(super) async fn run(command: Diff) -> Result<ExitCode> {
    match differences(&command).await {
        Ok(false) => Ok(ExitCode::SUCCESS),
        Ok(true) => Ok(ExitCode::FAILURE),
        Err(error) => {
            eprintln!("error: {error:#}");
            Ok(TROUBLE.into())
        }
    }
}

/// Prints every difference, and says whether there is one.
async fn differences(command: &Diff) -> Result<bool> {
    let client = command.connection.client().await?;
    let objects = command.choice.objects()?;
    let namespace = &command.choice.namespace;
    install::refuse_others(&client, &command.choice).await?;
    let mut wanted = install::definitions_to_make(&client).await?;
    wanted.push(install::namespace_object(namespace));
    wanted.extend(objects.iter().cloned());
    let (mut made, mut changed) = (0, 0);
    for object in &wanted {
        match against_cluster(&client, object).await? {
            None => {
                made += 1;
                writeln!(stdout(), "+ {}", name_of(object))?;
            }
            Some(changes) if changes.is_empty() => {}
            Some(changes) => {
                changed += 1;
                writeln!(stdout(), "~ {}", name_of(object))?;
                for change in changes {
                    writeln!(stdout(), "    {change}")?;
                }
            }
        }
    }
    let obsolete = install::obsolete(&client, namespace, &objects).await?;
    for object in &obsolete {
        writeln!(stdout(), "- {}", name_of(object))?;
    }
    eprintln!("{made} would be made, {changed} changed, {} deleted", obsolete.len());
    Ok(made + changed + obsolete.len() > 0)
}

/// The fields that would change; none when the object is not there.
async fn against_cluster(client: &Client, object: &Value) -> Result<Option<Vec<Change>>> {
    let api = api_of(client, object)?;
    let name = object.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    let Some(before) = call(&format!("get {}", name_of(object)), api.get_opt(name)).await? else { return Ok(None) };
    let params = PatchParams::apply(PROGRAM).force().dry_run();
    let what = format!("apply {} (dry run)", name_of(object));
    let after = call(&what, api.patch(name, &params, &Patch::Apply(object))).await?;
    Ok(Some(changes(&serde_json::to_value(before)?, &serde_json::to_value(after)?)))
}
