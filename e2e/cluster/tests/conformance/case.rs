//! A Service with routes, the requests that go to it, and the shares in which many of them are answered.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail, ensure};
use e2e_cluster::{Cluster, eventually};

use super::ask::{Ask, sh};
use crate::common::SOON;

/// Namespace of Services and their producer routes.
pub(crate) const HOME: &str = "routes";

/// One Service, in front of the servers `one` and `two`, with its routes.
pub(crate) struct Case {
    pub(crate) service: &'static str,
    pub(crate) routes: &'static [Route],
    pub(crate) asks: &'static [Ask],
    pub(crate) shares: &'static [Share],
}

/// A route as a user writes it.
pub(crate) struct Route {
    pub(crate) kind: &'static str,
    pub(crate) namespace: &'static str,
    pub(crate) name: &'static str,
    /// More of the parentRef, which names the case's Service: `port: 80`.
    pub(crate) parent: &'static str,
    /// The list `rules`, in YAML.
    pub(crate) rules: &'static str,
    /// Made seconds before the others.
    pub(crate) early: bool,
}

/// What most routes are.
pub(crate) const ROUTE: Route =
    Route { kind: "HTTPRoute", namespace: HOME, name: "", parent: "", rules: "", early: false };

/// Many requests for one path, and how often each status or server has to come.
pub(crate) struct Share {
    pub(crate) path: &'static str,
    pub(crate) times: usize,
    /// (status and server, share of one): `200 one`; no server is `-`.
    pub(crate) wants: &'static [(&'static str, f64)],
    /// Of one.
    pub(crate) tolerance: f64,
}

impl Case {
    /// The name by which it is called from every namespace.
    pub(crate) fn host(&self) -> String {
        format!("{}.{HOME}", self.service)
    }

    /// The Service.
    pub(crate) fn service(&self) -> String {
        let service = self.service;
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {service}, namespace: {HOME}}}\nspec:\n  selector: {{app: echo}}\n  \
             ports:\n  - {{name: http, port: 80, targetPort: 8080, appProtocol: http}}\n  \
             - {{name: http-alt, port: 8080, targetPort: 8080, appProtocol: http}}\n  \
             - {{name: grpc, port: 7070, targetPort: 7070, appProtocol: kubernetes.io/h2c}}\n"
        )
    }

    /// Those of its routes that are made early, or the others.
    pub(crate) fn routes(&self, early: bool) -> String {
        let mut text = String::new();
        for route in self.routes.iter().filter(|r| r.early == early) {
            text.push_str(&route.manifest(self.service));
        }
        text
    }

    /// Makes all requests; gives back what was wrong.
    pub(crate) fn check(&self, cluster: &Cluster) -> Vec<String> {
        let mut wrong = Vec::new();
        for (at, ask) in self.asks.iter().enumerate() {
            let what = format!("{} request {at}", self.service);
            let once = || ask.check(cluster, &self.host());
            // Routes arrive at a waypoint a moment after they were made: the first request waits for that.
            let done = if at == 0 { eventually(&what, SOON, once).map_err(Into::into) } else { twice(once) };
            wrong.extend(done.err().map(|error| format!("{what}: {error:#}")));
        }
        for share in self.shares {
            wrong.extend(share.check(cluster, self).err().map(|error| format!("{}: {error:#}", self.service)));
        }
        wrong
    }
}

// A request that fails because of the machine does not fail twice.
fn twice(once: impl Fn() -> Result<()>) -> Result<()> {
    once().or_else(|_| once())
}

impl Route {
    fn manifest(&self, service: &str) -> String {
        let Self { kind, namespace, name, parent, .. } = self;
        let name = if name.is_empty() { service } else { name };
        let more = if parent.is_empty() { String::new() } else { format!(", {parent}") };
        let mut text = format!(
            "---\napiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n  \
             parentRefs:\n  - {{group: '', kind: Service, name: {service}, namespace: {HOME}{more}}}\n  rules:\n"
        );
        for line in self.rules.lines().filter(|l| !l.trim().is_empty()) {
            // Writing to a String cannot fail.
            writeln!(text, "  {line}").ok();
        }
        text
    }
}

impl Share {
    fn check(&self, cluster: &Cluster, case: &Case) -> Result<()> {
        let counted = self.count(cluster, case)?;
        for (what, share) in self.wants {
            let wanted = share * self.times as f64;
            let found = counted.get(*what).copied().unwrap_or_default();
            let off = (found as f64 - wanted).abs();
            ensure!(
                off <= self.tolerance * self.times as f64,
                "{}: wanted {wanted} times {what:?}, of {counted:?}",
                self.path
            );
        }
        let known = |what: &String| self.wants.iter().any(|(w, _)| w == what);
        if let Some(other) = counted.keys().find(|w| !known(w)) {
            bail!("{}: nobody wanted {other:?}: {counted:?}", self.path);
        }
        Ok(())
    }

    // One curl makes them all, over one connection: shares are of requests.
    fn count(&self, cluster: &Cluster, case: &Case) -> Result<BTreeMap<String, usize>> {
        let (host, path, times) = (case.host(), self.path, self.times);
        let join = if path.contains('?') { '&' } else { '?' };
        let line = format!(
            "curl -sS -m 60 -w '\\nStatus=%{{http_code}}\\n' 'http://{host}{path}{join}i=[1-{times}]' | grep -aE '^(Status|Hostname)='"
        );
        let said = sh(cluster, "routes/client", &line)?;
        let mut counted = BTreeMap::new();
        let mut server = "-".to_owned();
        for line in said.lines() {
            if let Some(name) = line.strip_prefix("Hostname=") {
                server = name.split('-').next().unwrap_or(name).to_owned();
            } else if let Some(status) = line.strip_prefix("Status=") {
                *counted.entry(format!("{status} {server}")).or_default() += 1;
                server = "-".to_owned();
            }
        }
        Ok(counted)
    }
}
