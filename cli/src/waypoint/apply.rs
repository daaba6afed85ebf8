//! `culvert waypoint apply` and `generate`.

use std::io::{Write, stdout};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use futures_util::TryStreamExt;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, ResourceExt};
use kubernetes::client::{CallError, call};
use kubernetes::object::{Gateway, GatewayClass};
use serde_json::{Value, json};

use super::found::{HBONE_PORT, Waypoint, condition};
use super::{USE_NAMESPACE, USE_WAYPOINT, WAYPOINT_FOR};
use crate::cluster::{self, Connection};
use crate::enroll::MODE;

/// Which waypoint.
#[derive(Args, Clone)]
pub(crate) struct Choice {
    /// Namespace of the waypoint.
    #[arg(short, long, default_value = "default")]
    pub(super) namespace: String,
    /// Its name.
    #[arg(long, default_value = "waypoint")]
    pub(super) name: String,
    /// Which traffic it takes: addressed to services, to pods, or both.
    #[arg(long = "for", value_enum, value_name = "TRAFFIC")]
    takes: Option<Traffic>,
    /// Class of the Gateway.
    #[arg(long, default_value = "culvert-waypoint")]
    class: String,
    /// Who may use it: its own namespace, or all.
    #[arg(long, value_enum, default_value_t = Users::Same)]
    users: Users,
}

#[derive(Clone, Copy, ValueEnum)]
enum Traffic {
    All,
    None,
    Service,
    Workload,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Users {
    All,
    Same,
}

/// Makes a waypoint.
#[derive(Args)]
pub(crate) struct Apply {
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    choice: Choice,
    /// Have all services of the namespace use it: label the namespace.
    #[arg(long)]
    enroll_namespace: bool,
    /// Replace another waypoint that the namespace uses.
    #[arg(long)]
    overwrite: bool,
    /// Wait until it serves.
    #[arg(short, long)]
    wait: bool,
    /// How long to wait, in seconds.
    #[arg(long, default_value_t = 180)]
    timeout: u64,
}

impl Choice {
    /// The Gateway.
    pub(super) fn gateway(&self) -> Value {
        let mut listener = json!({ "name": "mesh", "port": HBONE_PORT, "protocol": "HBONE" });
        if self.users == Users::All {
            listener["allowedRoutes"] = json!({ "namespaces": { "from": "All" } });
        }
        let mut gateway = json!({
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "Gateway",
            "metadata": { "name": self.name, "namespace": self.namespace },
            "spec": { "gatewayClassName": self.class, "listeners": [listener] },
        });
        if let Some(takes) = self.takes.and_then(|t| t.to_possible_value()) {
            gateway["metadata"]["labels"] = json!({ WAYPOINT_FOR: takes.get_name() });
        }
        gateway
    }

    fn text(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

/// Runs `apply`.
pub(super) async fn apply(command: Apply) -> Result<ExitCode> {
    let client = command.connection.client().await?;
    let limit = Duration::from_secs(command.timeout);
    for line in make(&client, &command).await? {
        writeln!(stdout(), "{line}")?;
    }
    if command.wait {
        let done = tokio::time::timeout(limit, serving(&client, &command.choice)).await;
        done.map_err(|_| late(&command.choice, limit))?.map_err(|e| e.context("waiting for the waypoint"))?;
        writeln!(stdout(), "waypoint {} serves", command.choice.text())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn late(choice: &Choice, limit: Duration) -> anyhow::Error {
    anyhow::anyhow!(
        "waypoint {} does not serve after {} s; `culvert waypoint status -n {} {}` says why",
        choice.text(),
        limit.as_secs(),
        choice.namespace,
        choice.name
    )
}

/// Makes it, and says what was done and what should be known.
async fn make(client: &Client, command: &Apply) -> Result<Vec<String>> {
    let choice = &command.choice;
    let namespaces: Api<Namespace> = Api::all(client.clone());
    let found = call("get the namespace", namespaces.get_opt(&choice.namespace)).await?;
    let namespace =
        found.with_context(|| format!("there is no namespace {}; kubectl create namespace it", choice.namespace))?;
    class(client, &choice.class).await?;
    gateway(client, choice).await?;
    if command.enroll_namespace {
        enrollable(&namespace, choice, command.overwrite)?;
    }
    let mut said = Vec::new();
    let changed =
        cluster::apply(client, &choice.gateway()).await.with_context(|| format!("waypoint {}", choice.text()))?;
    said.push(format!("waypoint {} {}", choice.text(), if changed { "applied" } else { "is so already" }));
    if command.enroll_namespace {
        let labels = json!({ USE_WAYPOINT: choice.name, USE_NAMESPACE: null });
        let patch = Patch::Merge(json!({ "metadata": { "labels": labels } }));
        call("label the namespace", namespaces.patch(&choice.namespace, &PatchParams::default(), &patch)).await?;
        said.push(format!(
            "namespace {} uses it: calls to a service pass it once a route or an L7 policy is there for them, or the service \
             has the annotation culvert.dev/waypoint: always",
            choice.namespace
        ));
        if namespace.labels().get(MODE).is_none_or(|mode| mode != "ambient") {
            said.push(format!(
                "note: namespace {0} is not in the mesh, and callers outside of the mesh go round a waypoint; culvert enroll ns/{0}",
                choice.namespace
            ));
        }
    }
    Ok(said)
}

async fn class(client: &Client, name: &str) -> Result<()> {
    let classes: Api<GatewayClass> = Api::all(client.clone());
    match call("get the class", classes.get_opt(name)).await {
        Ok(Some(_)) => Ok(()),
        Ok(None) => bail!(
            "there is no GatewayClass {name}; the control plane makes it within seconds when waypoint.deploy is on, and \
             `culvert check` says how it is"
        ),
        // The kind itself is not there.
        Err(CallError::NotFound { .. }) => {
            bail!("the Gateway API is not installed; `culvert install` installs what we need of it")
        }
        Err(error) => Err(error.into()),
    }
}

/// Refuses to make somebody's other Gateway a waypoint.
async fn gateway(client: &Client, choice: &Choice) -> Result<()> {
    let gateways: Api<Gateway> = Api::namespaced(client.clone(), &choice.namespace);
    let found = call("get the Gateway", gateways.get_opt(&choice.name)).await?;
    match found {
        Some(other) if other.spec.gateway_class_name != choice.class => bail!(
            "Gateway {} is of class {}, not {}; choose another --name, or --class {}",
            choice.text(),
            other.spec.gateway_class_name,
            choice.class,
            other.spec.gateway_class_name
        ),
        _ => Ok(()),
    }
}

fn enrollable(namespace: &Namespace, choice: &Choice, overwrite: bool) -> Result<()> {
    let used = namespace.labels().get(USE_WAYPOINT);
    match used.filter(|used| **used != choice.name && !overwrite) {
        Some(used) => bail!(
            "namespace {} uses waypoint {used} already; --overwrite replaces it, without --enroll-namespace only the waypoint \
             is made",
            choice.namespace
        ),
        None => Ok(()),
    }
}

/// Waits until the Gateway says that it is programmed. Shows each new reason why not.
async fn serving(client: &Client, choice: &Choice) -> Result<()> {
    let api: Api<Gateway> = Api::namespaced(client.clone(), &choice.namespace);
    let config = watcher::Config::default().fields(&format!("metadata.name={}", choice.name));
    let mut stream = pin!(watcher(api, config).default_backoff().applied_objects());
    let mut told = String::new();
    loop {
        match stream.try_next().await {
            Ok(Some(gateway)) if programmed(&gateway) => return Ok(()),
            Ok(Some(gateway)) => {
                let now = Waypoint::of(&gateway).faults.join("; ");
                if now != told {
                    eprintln!("  {now}");
                    told = now;
                }
            }
            Ok(None) => bail!("the watch of the Gateway ended"),
            // Tried again with growing delays; the caller has a deadline.
            Err(error) => eprintln!("  {error}"),
        }
    }
}

/// Programmed, and for what is asked for now.
fn programmed(gateway: &Gateway) -> bool {
    let conditions = gateway.status.iter().flat_map(|s| &s.conditions);
    let mut of_now = conditions.filter(|c| c.observed_generation.map(|g| g.0) == gateway.metadata.generation);
    of_now.any(|c| c.type_ == "Programmed")
        && condition(gateway, "Programmed").is_some_and(|(status, _)| status == "True")
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::install::fake::Fake;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        apply: Apply,
    }

    fn command(arguments: &[&str]) -> Apply {
        Line::try_parse_from([&["apply"], arguments].concat()).unwrap().apply
    }

    const SHOP: &str = "/api/v1/namespaces/shop";
    const GATEWAY: &str = "/apis/gateway.networking.k8s.io/v1/namespaces/shop/gateways/waypoint";

    fn cluster(labels: &[(&str, &str)]) -> Fake {
        let fake = Fake::default();
        fake.put(SHOP, labels, Value::Null);
        let class = "/apis/gateway.networking.k8s.io/v1/gatewayclasses/culvert-waypoint";
        fake.put(class, &[], json!({"spec": {"controllerName": "culvert.dev/waypoint-controller"}}));
        fake
    }

    async fn made(fake: &Fake, arguments: &[&str]) -> Result<String, String> {
        let arguments = [&["-n", "shop"], arguments].concat();
        make(&fake.client(), &command(&arguments)).await.map(|s| s.join("\n")).map_err(|e| format!("{e:#}"))
    }

    #[tokio::test]
    async fn a_waypoint_is_made_and_the_namespace_labelled() {
        let fake = cluster(&[(MODE, "ambient")]);
        let said = made(&fake, &["--for", "all", "--enroll-namespace"]).await.unwrap();
        assert!(said.starts_with("waypoint shop/waypoint applied\nnamespace shop uses it: calls"), "{said}");
        let gateway = fake.get(GATEWAY).unwrap();
        assert_eq!(gateway["spec"]["gatewayClassName"], "culvert-waypoint");
        assert_eq!(gateway["spec"]["listeners"], json!([{"name": "mesh", "port": 15008, "protocol": "HBONE"}]));
        assert_eq!(gateway["metadata"]["labels"][WAYPOINT_FOR], "all");
        assert_eq!(fake.get(SHOP).unwrap()["metadata"]["labels"][USE_WAYPOINT], "waypoint");
        let again = made(&fake, &["--for", "all"]).await.unwrap();
        assert_eq!(again, "waypoint shop/waypoint is so already");
        let outside = made(&cluster(&[]), &["--enroll-namespace"]).await.unwrap();
        assert!(outside.contains("culvert enroll ns/shop"), "{outside}");
    }

    #[tokio::test]
    async fn what_would_go_wrong_is_said_before_anything_is_made() {
        let fake = cluster(&[(USE_WAYPOINT, "other")]);
        let refused = made(&fake, &["--enroll-namespace"]).await.unwrap_err();
        assert!(refused.contains("uses waypoint other already; --overwrite"), "{refused}");
        assert!(fake.get(GATEWAY).is_none());
        made(&fake, &["--enroll-namespace", "--overwrite"]).await.unwrap();
        let refused = made(&fake, &["--class", "nope"]).await.unwrap_err();
        assert!(refused.contains("there is no GatewayClass nope"), "{refused}");
        let spec = json!({"spec": {"gatewayClassName": "edge", "listeners": []}});
        fake.put(&GATEWAY.replace("waypoint", "web"), &[], spec);
        let refused = made(&fake, &["--name", "web"]).await.unwrap_err();
        assert!(refused.contains("Gateway shop/web is of class edge"), "{refused}");
        let none = make(&fake.client(), &command(&["-n", "gone"])).await.unwrap_err();
        assert!(none.to_string().contains("there is no namespace gone"), "{none}");
    }

    #[test]
    fn it_serves_when_the_newest_generation_is_programmed() {
        let gateway = |observed: i64, status: &str| -> Gateway {
            let condition = json!({"type": "Programmed", "status": status, "observedGeneration": observed});
            serde_json::from_value(
                json!({"metadata": {"generation": 2}, "spec": {"gatewayClassName": "x", "listeners": []},
                "status": {"conditions": [condition]}}),
            )
            .unwrap()
        };
        assert!(
            programmed(&gateway(2, "True")) && !programmed(&gateway(1, "True")) && !programmed(&gateway(2, "False"))
        );
    }

    #[test]
    fn all_namespaces_may_use_it_when_said_so() {
        let gateway = command(&["--users", "all", "--name", "shared"]).choice.gateway();
        assert_eq!(gateway["spec"]["listeners"][0]["allowedRoutes"]["namespaces"]["from"], "All");
        assert!(gateway["metadata"]["labels"].is_null());
    }
}
