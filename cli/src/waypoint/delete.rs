//! `culvert waypoint delete`.

use std::io::{Write, stdout};
use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use kubernetes::client::call;
use kubernetes::object::Gateway;
use serde_json::json;

use super::found::{Bindable, bound, is_waypoint};
use super::{USE_NAMESPACE, USE_WAYPOINT, show};
use crate::cluster::{self, Connection};

/// Deletes waypoints.
#[derive(Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    connection: Connection,
    /// Namespace of the waypoints.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Names of the waypoints.
    #[arg(required_unless_present = "all")]
    names: Vec<String>,
    /// All waypoints of the namespace.
    #[arg(long, conflicts_with = "names")]
    all: bool,
    /// Also take the label off the namespace that says which waypoint it uses.
    #[arg(long)]
    unenroll_namespace: bool,
}

/// Runs it.
pub(super) async fn delete(command: Delete) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    for line in remove(&client, &command).await? {
        writeln!(stdout(), "{line}")?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn remove(client: &Client, command: &Delete) -> Result<Vec<String>> {
    let namespace = &command.namespace;
    let gateways: Api<Gateway> = Api::namespaced(client.clone(), namespace);
    let there = call("list the waypoints", gateways.list(&ListParams::default())).await?.items;
    let waypoints: Vec<String> = there.iter().filter(|g| is_waypoint(g)).map(ResourceExt::name_any).collect();
    let unknown: Vec<&str> = command.names.iter().filter(|n| !waypoints.contains(n)).map(String::as_str).collect();
    if !unknown.is_empty() {
        let known = if waypoints.is_empty() { "none".to_owned() } else { waypoints.join(", ") };
        bail!("no waypoint of namespace {namespace} is called {}; there is: {known}", unknown.join(", "));
    }
    let chosen = if command.all { &waypoints } else { &command.names };
    let bindable = show::bindable(client).await?;
    let mut said = Vec::new();
    for name in chosen {
        let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": name, "namespace": namespace}});
        // Those who use it first, so that they go direct and not nowhere while it goes.
        if command.unenroll_namespace && unenroll(client, namespace, name, &bindable).await? {
            said.push(format!("namespace {namespace} uses no waypoint any more"));
        }
        cluster::delete(client, &gateway).await?;
        said.push(format!("waypoint {namespace}/{name} deleted"));
        let left = bound(&bindable, namespace, name).filter(|b| !(command.unenroll_namespace && is_own(b, namespace)));
        let left: Vec<String> = left.map(Bindable::text).collect();
        if !left.is_empty() {
            said.push(format!(
                "note: still bound to it: {}. Their traffic goes direct, or is refused where an L7 policy needs a waypoint; take \
                 the label {USE_WAYPOINT} off",
                left.join(", ")
            ));
        }
    }
    Ok(said)
}

fn is_own(bindable: &Bindable, namespace: &str) -> bool {
    bindable.kind == "namespace" && bindable.object["metadata"]["name"] == namespace
}

async fn unenroll(client: &Client, namespace: &str, name: &str, all: &[Bindable]) -> Result<bool> {
    if !bound(all, namespace, name).any(|b| is_own(b, namespace)) {
        return Ok(false);
    }
    let api: Api<Namespace> = Api::all(client.clone());
    let patch = Patch::Merge(json!({ "metadata": { "labels": { USE_WAYPOINT: null, USE_NAMESPACE: null } } }));
    call("take the label off the namespace", api.patch(namespace, &PatchParams::default(), &patch)).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::Value;

    use super::*;
    use crate::install::fake::Fake;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        delete: Delete,
    }

    async fn removed(fake: &Fake, arguments: &[&str]) -> Result<String, String> {
        let line = Line::try_parse_from([&["delete", "-n", "shop"], arguments].concat()).map_err(|e| e.to_string())?;
        remove(&fake.client(), &line.delete).await.map(|s| s.join("\n")).map_err(|e| e.to_string())
    }

    fn cluster() -> Fake {
        let fake = Fake::default();
        let gateways = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways";
        let spec = |port: u16, protocol: &str| json!({"spec": {"gatewayClassName": "x", "listeners": [{"name": "l", "port": port, "protocol": protocol}]}});
        fake.put(&format!("{gateways}/waypoint"), &[], spec(15008, "HBONE"));
        fake.put(&format!("{gateways}/web"), &[], spec(80, "HTTP"));
        fake.put("/api/v1/namespaces/shop", &[(USE_WAYPOINT, "waypoint")], Value::Null);
        fake.put("/api/v1/namespaces/shop/services/cart", &[(USE_WAYPOINT, "waypoint")], Value::Null);
        fake
    }

    #[tokio::test]
    async fn only_waypoints_go_and_who_is_left_is_named() {
        let fake = cluster();
        let refused = removed(&fake, &["web"]).await.unwrap_err();
        assert_eq!(refused, "no waypoint of namespace shop is called web; there is: waypoint");
        let said = removed(&fake, &["waypoint"]).await.unwrap();
        assert!(said.starts_with(
            "waypoint shop/waypoint deleted\nnote: still bound to it: namespace shop, Service shop/cart."
        ));
        assert_eq!(fake.story().len(), 1);
        assert!(removed(&fake, &[]).await.is_err(), "which ones?");

        let fake = cluster();
        let said = removed(&fake, &["--all", "--unenroll-namespace"]).await.unwrap();
        assert!(
            said.contains("uses no waypoint any more") && said.contains("bound to it: Service shop/cart."),
            "{said}"
        );
    }
}
