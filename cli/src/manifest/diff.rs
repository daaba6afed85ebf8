//! `culvert manifest diff`: what an installation would change, told by the API server itself (server-side apply, dry run).

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use kube::Client;
use kube::api::{Patch, PatchParams};
use kubernetes::client::call;
use serde_json::Value;

use super::compare::{Change, changes};
use super::{Choice, Keep};
use crate::cluster::{Connection, PROGRAM, api_of, name_of};
use crate::install;

/// Says what an installation would change.
#[derive(Args)]
pub(crate) struct Diff {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    keep: Keep,
}

/// The status when it cannot be told, as diff(1) has it.
const TROUBLE: u8 = 2;

/// Runs it.
pub(super) async fn run(command: Diff) -> Result<ExitCode> {
    let client = match command.connection.client().await {
        Ok(client) => client,
        Err(error) => return Ok(trouble(&error)),
    };
    match differences(&client, &command.choice, command.keep, &mut stdout()).await {
        Ok(false) => Ok(ExitCode::SUCCESS),
        Ok(true) => Ok(ExitCode::FAILURE),
        Err(error) => Ok(trouble(&error)),
    }
}

fn trouble(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    TROUBLE.into()
}

/// Prints every difference, and says whether there is one.
async fn differences(client: &Client, choice: &Choice, keep: Keep, out: &mut impl Write) -> Result<bool> {
    let namespace = &choice.namespace;
    install::refuse_others(client, choice).await?;
    let chosen = install::chosen(client, choice, keep).await?;
    // Nothing is changed here, so that what an installation would refuse is only told.
    if let Err(reset) = chosen.agreed() {
        eprintln!("{reset:#}");
    }
    let objects = choice.rendered(&chosen.values)?;
    let mut wanted = install::definitions_to_make(client).await?;
    wanted.push(install::namespace_object(namespace));
    wanted.extend(objects.iter().cloned());
    let (mut made, mut changed) = (0, 0);
    for object in &wanted {
        match against_cluster(client, object).await? {
            None => {
                made += 1;
                writeln!(out, "+ {}", name_of(object))?;
            }
            Some(changes) if changes.is_empty() => {}
            Some(changes) => {
                changed += 1;
                writeln!(out, "~ {}", name_of(object))?;
                for change in changes {
                    writeln!(out, "    {change}")?;
                }
            }
        }
    }
    let obsolete = install::obsolete(client, namespace, &objects).await?;
    for object in &obsolete {
        writeln!(out, "- {}", name_of(object))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::fake::Fake;

    const RESET: Keep = Keep { reuse_values: false, reset_values: true };
    const REUSE: Keep = Keep { reuse_values: true, reset_values: false };

    fn choice(settings: &[&str]) -> Choice {
        Choice {
            namespace: "culvert-system".to_owned(),
            files: Vec::new(),
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            managed_by: "culvert".to_owned(),
        }
    }

    async fn diff(fake: &Fake, settings: &[&str]) -> (bool, String) {
        let mut out = Vec::new();
        let differs = differences(&fake.client(), &choice(settings), Keep::default(), &mut out).await.unwrap();
        (differs, String::from_utf8(out).unwrap())
    }

    #[tokio::test]
    async fn what_was_told_is_done_and_a_second_installation_changes_nothing() {
        let fake = Fake::default();
        let policies = &["networkPolicies.enabled=true"][..];
        let (differs, told) = diff(&fake, policies).await;
        assert!(differs && told.lines().all(|line| line.starts_with("+ ")), "{told}");
        assert_eq!(fake.left(), [""; 0], "nothing is changed");
        let made = install::make(&fake.client(), &choice(policies), RESET).await.unwrap();
        // Definitions and namespace are told too, and not counted among the objects of the chart.
        assert_eq!(made + kubernetes::object::crds().len() + 1, told.lines().count(), "{told}");
        assert_eq!(diff(&fake, policies).await, (false, String::new()));
        assert_eq!(install::make(&fake.client(), &choice(policies), RESET).await.unwrap(), 0);

        // Other values: only what they touch.
        let (_, told) = diff(&fake, &["control.replicas=3"]).await;
        let objects: Vec<&str> = told.lines().filter(|line| !line.starts_with(' ')).collect();
        let wanted = [
            "~ ConfigMap culvert-system/culvert",
            // It makes waypoints' policies by the same setting.
            "~ ConfigMap culvert-system/culvert-control",
            "~ Deployment culvert-system/culvert-control",
            "- NetworkPolicy culvert-system/culvert-ca",
            "- NetworkPolicy culvert-system/culvert-control",
            "- NetworkPolicy culvert-system/ztunnel",
        ];
        assert_eq!(objects, wanted, "{told}");
        assert!(told.contains("    spec.replicas: 2 -> 3\n"), "{told}");
        assert_eq!(install::make(&fake.client(), &choice(&["control.replicas=3"]), RESET).await.unwrap(), wanted.len());
        assert_eq!(diff(&fake, &["control.replicas=3"]).await, (false, String::new()));
    }

    #[tokio::test]
    async fn what_others_made_is_neither_told_nor_touched() {
        let fake = Fake::default();
        let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/gateways.gateway.networking.k8s.io";
        fake.put(path, &[("app.kubernetes.io/managed-by", "Helm")], Value::Null);
        let before = fake.get(path);
        let (_, told) = diff(&fake, &[]).await;
        assert!(!told.contains("gateways.gateway"), "{told}");
        assert!(told.contains("gatewayclasses.gateway"), "{told}");
        install::make(&fake.client(), &choice(&[]), RESET).await.unwrap();
        assert_eq!(fake.get(path), before);
        fake.put(
            "/api/v1/namespaces/culvert-system/configmaps/culvert",
            &[("app.kubernetes.io/managed-by", "Helm")],
            Value::Null,
        );
        let error = install::make(&fake.client(), &choice(&[]), RESET).await.unwrap_err().to_string();
        assert!(error.contains("helm upgrade"), "{error}");
    }

    #[tokio::test]
    async fn values_that_are_not_given_again_are_neither_reset_nor_kept_in_silence() {
        let fake = Fake::default();
        let (client, ask) = (fake.client(), Keep::default());
        let first = &["mesh.podCIDRs={10.244.0.0/16}", "control.replicas=3"];
        install::make(&client, &choice(first), ask).await.unwrap();
        let (story, before) = (fake.story(), fake.get("/api/v1/namespaces/culvert-system/configmaps/culvert"));
        let error = install::make(&client, &choice(&["control.replicas=4"]), ask).await.unwrap_err().to_string();
        assert!(error.contains("mesh.podCIDRs: [\"10.244.0.0/16\"] -> []"), "{error}");
        assert!(!error.contains("control.replicas") && error.contains("--reuse-values"), "{error}");
        let after = fake.get("/api/v1/namespaces/culvert-system/configmaps/culvert");
        assert_eq!((fake.story(), after), (story, before), "nothing is touched");
        // Given again they are as they were, and nobody asks.
        assert_eq!(install::make(&client, &choice(first), ask).await.unwrap(), 0);
        let value = |pointer: &str| {
            let map = fake.get("/api/v1/namespaces/culvert-system/configmaps/culvert").unwrap();
            let values: Value = serde_json::from_str(map["data"]["values.json"].as_str().unwrap()).unwrap();
            values.pointer(pointer).unwrap().to_string()
        };
        install::make(&client, &choice(&["control.replicas=4"]), REUSE).await.unwrap();
        assert_eq!((&*value("/mesh/podCIDRs"), &*value("/control/replicas")), ("[\"10.244.0.0/16\"]", "4"));
        install::make(&client, &choice(&["control.replicas=4"]), RESET).await.unwrap();
        assert_eq!((&*value("/mesh/podCIDRs"), &*value("/control/replicas")), ("[]", "4"));
    }
}
