use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use kube::client::Body;

use super::*;
use crate::cluster::PROGRAM;

/// An API server in memory, as far as a removal asks one. What is deleted in the foreground goes when it is watched, as
/// if its pods took that long.
#[derive(Clone, Default)]
struct Fake {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Value>,
    /// `GONE` and the path, when an object went.
    story: Vec<String>,
}

const SYSTEM: &str = "/api/v1/namespaces/culvert-system";
const APPS: &str = "/apis/apps/v1/namespaces/culvert-system";

impl Fake {
    /// An installation as it is in a cluster.
    fn installed(by: &str, values: &Value) -> Self {
        let fake = Self::default();
        let ours = [(MANAGED_BY, by), (chart::PART_OF.0, chart::PART_OF.1)];
        for path in [
            "/api/v1/namespaces/culvert-system/serviceaccounts/culvert-ca",
            "/apis/apps/v1/namespaces/culvert-system/daemonsets/culvert-node",
            "/apis/apps/v1/namespaces/culvert-system/daemonsets/ztunnel",
            "/apis/apps/v1/namespaces/culvert-system/deployments/culvert-ca",
            "/apis/apps/v1/namespaces/culvert-system/deployments/culvert-control",
            "/apis/rbac.authorization.k8s.io/v1/clusterroles/culvert-ca",
        ] {
            fake.put(path, &ours, Value::Null);
        }
        let record = json!({"data": {"values.json": values.to_string()}});
        fake.put(&format!("{SYSTEM}/configmaps/culvert"), &ours, record);
        let authority = [(MANAGED_BY, AUTHORITY)];
        for path in ["culvert-system/configmaps/culvert-ca-root-cert", "shop/configmaps/culvert-ca-root-cert", "shop/configmaps/istio-ca-root-cert"] {
            fake.put(&format!("/api/v1/namespaces/{path}"), &authority, Value::Null);
        }
        fake.put(&format!("{SYSTEM}/secrets/culvert-ca-key"), &authority, Value::Null);
        fake.put("/apis/coordination.k8s.io/v1/namespaces/culvert-system/leases/culvert-control-leader", &[], Value::Null);
        // Of others, by the same names.
        fake.put("/api/v1/namespaces/istio-system/configmaps/istio-ca-root-cert", &[(MANAGED_BY, "istiod")], Value::Null);
        fake.put("/api/v1/namespaces/shop/configmaps/culvert", &[], Value::Null);
        fake
    }

    fn put(&self, path: &str, labels: &[(&str, &str)], rest: Value) {
        let parts: Vec<&str> = path.split('/').collect();
        let mut object = if rest.is_null() { json!({}) } else { rest };
        let labels: serde_json::Map<String, Value> = labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        object["metadata"] = json!({"name": parts[parts.len() - 1], "uid": path, "labels": labels,
            "managedFields": [{"manager": PROGRAM, "operation": "Apply"}]});
        if let Some(at) = parts.iter().position(|p| *p == "namespaces") {
            object["metadata"]["namespace"] = json!(parts[at + 1]);
        }
        self.state.lock().unwrap().objects.insert(path.to_owned(), object);
    }

    fn answer(&self, request: &Request<Body>) -> (StatusCode, String) {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let query = query.replace("%3D", "=").replace("%2C", ",").replace("%2F", "/");
        let query: HashMap<&str, &str> = query.split('&').filter_map(|q| q.split_once('=')).collect();
        let mut state = self.state.lock().unwrap();
        let none = (StatusCode::NOT_FOUND, json!({"code": 404, "status": "Failure", "reason": "NotFound", "message": ""}).to_string());
        if *request.method() == Method::DELETE {
            let Some(object) = state.objects.get_mut(path) else { return none };
            if object["metadata"]["uid"].as_str().is_some_and(|uid| uid.ends_with("/culvert-node") || uid.contains("/deployments/")) {
                object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            } else {
                state.objects.remove(path);
                state.story.push(format!("GONE {path}"));
            }
            return (StatusCode::OK, json!({"kind": "Status", "status": "Success", "metadata": {}}).to_string());
        }
        if let Some(object) = state.objects.get(path) {
            return (StatusCode::OK, object.to_string());
        }
        let Some((found, kind)) = state.listed(path, &query) else { return none };
        if query.contains_key("watch") {
            let going: Vec<String> = found.iter().filter(|at| state.objects[*at]["metadata"]["deletionTimestamp"].is_string()).cloned().collect();
            let mut lines = String::new();
            for at in going {
                let object = state.objects.remove(&at).unwrap();
                lines.push_str(&format!("{}\n", json!({"type": "DELETED", "object": object})));
                state.story.push(format!("GONE {at}"));
            }
            return (StatusCode::OK, lines);
        }
        let items: Vec<&Value> = found.iter().map(|at| &state.objects[at]).collect();
        (StatusCode::OK, json!({"kind": format!("{kind}List"), "metadata": {"resourceVersion": "1"}, "items": items}).to_string())
    }

    async fn remove(&self, arguments: &[&str]) -> Result<Vec<String>> {
        use clap::Parser;
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            uninstall: Uninstall,
        }
        let line = Line::try_parse_from([&["culvert"], arguments].concat())?;
        let client = Client::new(self.clone(), "default");
        remove(&client, &line.uninstall).await?;
        Ok(self.state.lock().unwrap().story.clone())
    }

    fn left(&self) -> Vec<String> {
        self.state.lock().unwrap().objects.keys().cloned().collect()
    }
}

impl State {
    /// The paths that a list or watch selects, and the collection; none when it is the path of one object.
    fn listed(&self, path: &str, query: &HashMap<&str, &str>) -> Option<(Vec<String>, String)> {
        let (base, plural) = path.rsplit_once('/')?;
        let in_namespace = base.contains("/namespaces/");
        if ["culvert", "culvert-"].iter().any(|name| plural.starts_with(name)) {
            return None;
        }
        let fits = |(at, object): &(&String, &Value)| {
            let Some((collection, name)) = at.rsplit_once('/') else { return false };
            let here = collection == path
                || (!in_namespace && collection.starts_with(&format!("{base}/namespaces/")) && collection.ends_with(&format!("/{plural}")));
            let field = query.get("fieldSelector").and_then(|f| f.strip_prefix("metadata.name=")).is_none_or(|n| n == name);
            let labels = query.get("labelSelector").is_none_or(|selector| {
                selector.split(',').all(|one| {
                    one.split_once('=').is_some_and(|(key, value)| object["metadata"]["labels"][key] == value)
                })
            });
            here && field && labels
        };
        Some((self.objects.iter().filter(fits).map(|(at, _)| at.clone()).collect(), plural.to_owned()))
    }
}

impl tower_service::Service<Request<Body>> for Fake {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (status, body) = self.answer(&request);
        let mut response = Response::new(Full::new(Bytes::from(body)));
        *response.status_mut() = status;
        ready(Ok(response))
    }
}

fn at(story: &[String], path: &str) -> usize {
    story.iter().position(|s| *s == format!("GONE {path}")).unwrap_or_else(|| panic!("{path} did not go: {story:#?}"))
}

const OF_OTHERS: [&str; 2] = [
    "/api/v1/namespaces/istio-system/configmaps/istio-ca-root-cert",
    "/api/v1/namespaces/shop/configmaps/culvert",
];

#[tokio::test]
async fn everything_of_ours_goes_in_an_order_in_which_nothing_comes_back() {
    let fake = Fake::installed("culvert", &json!({}));
    let story = fake.remove(&[]).await.unwrap();
    let agents = at(&story, &format!("{APPS}/daemonsets/culvert-node"));
    let authority = at(&story, &format!("{APPS}/deployments/culvert-ca"));
    let control = at(&story, &format!("{APPS}/deployments/culvert-control"));
    let lease = at(&story, "/apis/coordination.k8s.io/v1/namespaces/culvert-system/leases/culvert-control-leader");
    assert_eq!(agents, 0, "the agents need the proxies and their own rights until the capture is off");
    assert!(authority < at(&story, &format!("{SYSTEM}/secrets/culvert-ca-key")), "a running authority puts it back");
    assert!(authority < at(&story, "/api/v1/namespaces/shop/configmaps/istio-ca-root-cert"));
    assert!(control < lease);
    assert_eq!(fake.left(), OF_OTHERS);
}

#[tokio::test]
async fn the_secret_is_the_recorded_one_and_only_when_the_authority_made_it() {
    let values = json!({"ca": {"secretName": "mine"}});
    let fake = Fake::installed("culvert", &values);
    fake.put(&format!("{SYSTEM}/secrets/mine"), &[(MANAGED_BY, AUTHORITY)], Value::Null);
    fake.remove(&[]).await.unwrap();
    assert_eq!(fake.left(), [&OF_OTHERS[..1], &["/api/v1/namespaces/culvert-system/secrets/culvert-ca-key"], &OF_OTHERS[1..]].concat().into_iter().collect::<std::collections::BTreeSet<_>>().into_iter().collect::<Vec<_>>());

    let secret = format!("{SYSTEM}/secrets/mine");
    for (values, label, arguments) in [
        (values.clone(), "cert-manager", &[][..]),
        (values, AUTHORITY, &["--keep-key"][..]),
        (json!({"ca": {"secretName": "mine", "keepSecret": true}}), AUTHORITY, &[][..]),
    ] {
        let fake = Fake::installed("culvert", &values);
        fake.put(&secret, &[(MANAGED_BY, label)], Value::Null);
        fake.remove(arguments).await.unwrap();
        assert!(fake.left().contains(&secret), "{label} {arguments:?}");
    }
}

#[tokio::test]
async fn the_hook_leaves_to_helm_what_is_helms_and_takes_the_rest() {
    let fake = Fake::installed("Helm", &json!({}));
    let error = fake.remove(&[]).await.unwrap_err().to_string();
    assert!(error.contains("helm uninstall"), "{error}");
    assert_eq!(fake.state.lock().unwrap().story, [""; 0], "nothing is touched");
    fake.remove(&["--for-helm"]).await.unwrap();
    let left = fake.left();
    for path in [
        "/api/v1/namespaces/culvert-system/serviceaccounts/culvert-ca",
        "/apis/apps/v1/namespaces/culvert-system/daemonsets/ztunnel",
        "/apis/rbac.authorization.k8s.io/v1/clusterroles/culvert-ca",
    ] {
        assert!(left.iter().any(|l| l == path), "{path} is Helm's");
    }
    for part in ["secrets", "root-cert", "leases", "deployments", "culvert-node"] {
        let found: Vec<_> = left.iter().filter(|l| l.contains(part) && !OF_OTHERS.contains(&&***l)).collect();
        assert!(found.is_empty(), "{found:?}");
    }
}

#[tokio::test]
async fn only_the_agents_go_when_only_the_nodes_are_meant() {
    let fake = Fake::installed("Helm", &json!({}));
    let story = fake.remove(&["--only-nodes"]).await.unwrap();
    assert_eq!(story, [format!("GONE {APPS}/daemonsets/culvert-node")]);
}
