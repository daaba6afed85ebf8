//! TLS that the waypoint makes to applications: to one port of a service, and not to the other.

use anyhow::ensure;
use e2e_lab::Checks;
use lab::Lab;
use serde_json::{Value, json};

use super::call::ask;

/// Services on the pod `tls`, which has 8081 in clear and 8443 with TLS; each with both.
const SERVICES: [&str; 4] = ["secured", "everywhere", "impostor", "unsecured"];

/// The pod, the services and the files, to go into the lab's document.
pub(crate) struct Site {
    files: Value,
    objects: Vec<Value>,
}

impl Site {
    pub(crate) fn new() -> Self {
        let made = rcgen::generate_simple_self_signed(["back.example".to_owned()]).expect("a certificate");
        let pem = made.cert.pem();
        let server = |listen: &str, says: &str| {
            format!(
                "server {{ listen {listen}; listen [::]:{listen}; ssl_certificate /srv/tls.crt; ssl_certificate_key /srv/tls.key; location / {{ return 200 \"{says}\\n\"; }} }}\n"
            )
        };
        let conf = format!(
            "user root; error_log stderr; pid /tmp/culvert-lab-tls.pid; events {{}}\nhttp {{ access_log off;\n{}{}}}\n",
            server("8081", "clear"),
            server("8443 ssl", "$ssl_server_name")
        );
        let files = json!({"nginx.conf": conf, "tls.crt": pem, "tls.key": made.signing_key.serialize_pem()});
        let roots = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "roots", "namespace": "shop"},
                           "data": {"ca.crt": pem}});
        let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "everywhere", "namespace": "shop"},
            "spec": {"host": "everywhere", "trafficPolicy": {"tls": {"mode": "SIMPLE", "sni": "nobody.example"},
                     "portLevelSettings": [{"port": {"number": 80}, "tls": {"mode": "DISABLE"}}]}}});
        let objects = vec![
            roots,
            policy("secured", "back.example"),
            policy("impostor", "other.example"),
            policy("everywhere", "back.example"),
            rule,
        ];
        Self { files, objects }
    }

    /// The line for `pods:`.
    pub(crate) fn pod(&self) -> String {
        format!(
            "- {{name: tls, namespace: shop, node: n2, command: [nginx, '-c', /srv/nginx.conf, '-g', 'daemon off;'], \
             ready: {{tcp: 8443}}, files: {}}}",
            self.files
        )
    }

    /// Lines for `services:`.
    pub(crate) fn services() -> String {
        let line = |name: &str| {
            format!(
                "- {{name: {name}, namespace: shop, ports: {{80: 8081, 443: 8443}}, pods: [tls], waypoint: wp, protocol: http}}\n"
            )
        };
        SERVICES.map(line).concat()
    }

    pub(crate) fn objects(self) -> Vec<Value> {
        self.objects
    }
}

/// TLS to port 443, which the lab names so.
fn policy(service: &str, name: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "BackendTLSPolicy",
        "metadata": {"name": service, "namespace": "shop"},
        "spec": {"targetRefs": [{"group": "", "kind": "Service", "name": service, "sectionName": "p443"}],
                 "validation": {"hostname": name, "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": "roots"}]}}})
}

pub(crate) fn run(lab: &Lab, checks: &mut Checks) {
    for (what, to, status, body) in [
        ("the port that a policy names", "secured:443/", 200, "back.example"),
        ("and in clear to the other", "secured/", 200, "clear"),
        ("a certificate of another name is not taken", "impostor:443/", 503, ""),
        ("which the other port does not mind", "impostor/", 200, "clear"),
        ("a policy is before a DestinationRule", "everywhere:443/", 200, "back.example"),
        ("whose word for a single port counts", "everywhere/", 200, "clear"),
        ("without any of it both are clear", "unsecured:443/", 400, "plain HTTP request was sent to HTTPS port"),
    ] {
        checks.check(&format!("TLS to applications: {what}"), || {
            let answer = ask(lab, to, &[])?.expect(status)?;
            ensure!(answer.body.contains(body), "{answer:?}");
            Ok(())
        });
    }
}
