//! What the shape of `control.yaml` does not say.

use std::collections::HashSet;
use std::time::Duration;

use document::{Check, Report};

use super::{Config, Pace};

impl Check for Config {
    fn check(&self, report: &mut Report) {
        self.check_source(report);
        self.check_certificate(report);
        if !self.listen.admin.ip().is_loopback() {
            let what = format!("{} can be reached from other hosts", self.listen.admin);
            report.at("/listen/admin").mistake(what, "use a loopback address such as 127.0.0.1:15013");
        }
        let mut ports = HashSet::new();
        let listen = &self.listen;
        let named =
            [("xds", listen.xds), ("metrics", listen.metrics), ("health", listen.health), ("admin", listen.admin)];
        for (name, address) in named.into_iter().filter(|(_, address)| address.port() != 0) {
            if !ports.insert(address.port()) {
                let what = format!("port {} is used twice", address.port());
                report.at("/listen").at(name).mistake(what, "give each a port of its own");
            }
        }
        if let Err(e) = mesh::Identity::new(self.mesh.trust_domain.as_str(), "a", "b") {
            report.at("/mesh/trustDomain").mistake(e.to_string(), "use a name such as cluster.local");
        }
        for (field, value) in [("clusterId", &self.mesh.cluster_id), ("clusterDomain", &self.mesh.cluster_domain)] {
            if value.is_empty() || value.contains('/') {
                let what = "empty, or with a slash, which separates the parts of names";
                report.at("/mesh").at(field).mistake(what, "use a name such as Kubernetes or cluster.local");
            }
        }
        if self.node_proxies.is_empty() {
            report.at("/nodeProxies").mistake("nobody could ever connect", "list culvert-system/ztunnel");
        }
        for (i, account) in self.node_proxies.iter().enumerate() {
            check_account(account, &format!("/nodeProxies/{i}"), report);
        }
        super::providers::check(&self.extension_providers, report);
        self.pace.check(report);
        if let Some(waypoint) = &self.waypoint {
            report.at("/waypoint").check(waypoint);
        }
    }
}

impl Config {
    fn check_source(&self, report: &mut Report) {
        let folder = self.source.folder.is_some();
        if folder && self.source.kubernetes.is_some() {
            report.at("/source").mistake("kubernetes and folder exclude each other", "keep one of the two");
        }
        if folder && self.token_file.is_none() {
            report.at("/source/folder").mistake(
                "without an API server nobody can tell who calls",
                "name a file of callers by tokenFile, or use source.kubernetes",
            );
        }
        if !folder && self.token_file.is_some() {
            report.at("/tokenFile").mistake(
                "with Kubernetes, tokens are reviewed by the API server and never by a file",
                "remove tokenFile, or use source.folder",
            );
        }
        let context = self.source.kubernetes.as_ref().filter(|k| k.kubeconfig.is_none() && k.context.is_some());
        if context.is_some() {
            report.at("/source/kubernetes/context").mistake("there is no kubeconfig", "name the kubeconfig as well");
        }
        if self.audience.is_empty() {
            let what = "every token that was made for the API server would be accepted";
            report.at("/audience").mistake(what, "use istio-ca");
        }
    }

    fn check_certificate(&self, report: &mut Report) {
        let ca = match (&self.certificate.ca, &self.certificate.files) {
            (Some(ca), None) => ca,
            (None, Some(_)) => return,
            _ => {
                let what = "exactly one of ca and files is needed; discovery is never served in clear";
                return report.at("/certificate").mistake(what, "keep one of the two; `ca: {}` has defaults for all");
            }
        };
        if ca.names.is_empty() {
            report.at("/certificate/ca/names").mistake(
                "node proxies verify us by name",
                "list the names that they call, such as culvert-control.culvert-system.svc",
            );
        }
        if ca.ttl.get() < Duration::from_secs(60) {
            let what = "under a minute there is no time to renew";
            report.at("/certificate/ca/ttl").mistake(what, "use 1h to 24h");
        }
        check_account(&ca.service_account, "/certificate/ca/serviceAccount", report);
    }
}

impl Check for Pace {
    fn check(&self, report: &mut Report) {
        if self.debounce.get() > Duration::from_secs(1) {
            let what = "changes, and withdrawn rights, would reach the proxies late";
            report.at("/pace/debounce").mistake(what, "use 1ms to 1s");
        }
        for (field, zero) in [("batch", self.batch == 0), ("statusWrites", self.status_writes == 0)] {
            if zero {
                report.at("/pace").at(field).mistake("0 would stop the work", "use at least 1");
            }
        }
        if self.stream_life.get() < Duration::from_secs(10) {
            let what = "proxies would do nothing but reconnect";
            report.at("/pace/streamLife").mistake(what, "use 1m to 24h");
        }
    }
}

fn check_account(account: &str, at: &str, report: &mut Report) {
    let good = account.split_once('/').is_some_and(|(ns, name)| mesh::Identity::new("td", ns, name).is_ok());
    if !good {
        let what = format!("{account:?} is not namespace/name of a service account");
        report.at(at).mistake(what, "write it as culvert-system/ztunnel");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_needs_two_words() {
        let config: Config = document::parse("control.yaml", "certificate: {ca: {}}\n").unwrap();
        let ca = config.certificate.ca.unwrap();
        assert_eq!(ca.address, "https://culvert-ca.culvert-system.svc:15012");
        assert_eq!(config.node_proxies, ["culvert-system/ztunnel", "istio-system/ztunnel"]);
        assert_eq!(config.audience, "istio-ca");
        assert_eq!(config.listen.xds.port(), 15012);
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let text = "
source: {folder: /m, kubernetes: {context: a}}
listen: {admin: '0.0.0.0:15014'}
certificate: {}
nodeProxies: [ztunnel]
mesh: {trustDomain: 'A b', clusterId: a/b}
audience: ''
pace: {debounce: 1m, batch: 0, streamLife: 1s}
";
        let mistakes = document::parse::<Config>("control.yaml", text).unwrap_err().to_string();
        for wanted in [
            "exclude each other",
            "nobody can tell who calls",
            "there is no kubeconfig",
            "can be reached from other hosts",
            "port 15014 is used twice",
            "exactly one of ca and files",
            "is not namespace/name",
            "clusterId",
            "trustDomain",
            "made for the API server",
            "reach the proxies late",
            "0 would stop the work",
            "nothing but reconnect",
        ] {
            assert!(mistakes.contains(wanted), "{wanted}: {mistakes}");
        }
        let unknown = document::parse::<Config>("control.yaml", "certificate: {ca: {adress: x}}\n").unwrap_err();
        assert!(unknown.to_string().contains("address"), "{unknown}");
    }
}
