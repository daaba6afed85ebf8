//! One request by curl, and what came back.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use lab::Lab;
use serde_json::{Value, json};

/// A service of the lab, and the objects that hang on it: lines of JSON, in which `SERVICE` is its name.
pub(crate) type Part = (&'static str, &'static [&'static str]);

/// The objects of a part.
pub(crate) fn objects(service: &str, texts: &[&str]) -> Vec<Value> {
    texts
        .iter()
        .enumerate()
        .map(|(i, text)| object(&format!("{service}-{i}"), &text.replace("SERVICE", service)))
        .collect()
}

/// `HTTPRoute {rules}`, `GRPCRoute {rules}`, `consumer HTTPRoute {rules}`, or an object with its `kind`, which is attached to the
/// service unless it says otherwise.
fn object(name: &str, text: &str) -> Value {
    let service = name.rsplit_once('-').map_or(name, |(service, _)| service);
    let (words, body) = text.split_once('{').expect("a body");
    let body: Value =
        serde_json::from_str(&format!("{{{body}")).map_err(|e| format!("{name}: {e}: {text}")).expect("JSON");
    let words: Vec<&str> = words.split_whitespace().collect();
    let (namespace, kind) = match words[..] {
        ["consumer", kind] => ("other", kind),
        [kind] => ("shop", kind),
        _ => unreachable!("{name}: {text}"),
    };
    let mut spec = body;
    let version = match kind {
        "HTTPRoute" | "GRPCRoute" => {
            let mut parent = json!({"group": "", "kind": "Service", "name": service, "namespace": "shop"});
            if let Some(port) = spec.as_object_mut().and_then(|o| o.remove("port")) {
                parent["port"] = port;
            }
            spec["parentRefs"] = json!([parent]);
            "gateway.networking.k8s.io/v1"
        }
        _ => {
            if spec.get("targetRefs").is_none() {
                spec["targetRefs"] = json!([{"group": "", "kind": "Service", "name": service}]);
            }
            match kind {
                "RequestPolicy" => "culvert.dev/v1alpha1",
                "Telemetry" => "telemetry.istio.io/v1",
                _ => "security.istio.io/v1",
            }
        }
    };
    json!({"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": namespace}, "spec": spec})
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Header fields and trailers in small letters; several values are joined by a bar.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Answer {
    /// What the echo server says it was asked.
    pub(crate) fn said(&self) -> Result<Value> {
        // A gRPC message has five bytes before its text.
        let text = self.body.get(self.body.find('{').unwrap_or(0)..).unwrap_or_default();
        serde_json::from_str(text).with_context(|| format!("not from the echo server: {self:?}"))
    }

    /// Which backend answered.
    pub(crate) fn backend(&self) -> Result<String> {
        Ok(self.said()?["name"].as_str().context("no name")?.to_owned())
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Header fields as the backend saw them.
    pub(crate) fn seen(&self, name: &str) -> Result<Option<String>> {
        let said = self.said()?;
        let values = said["headers"][name]
            .as_array()
            .map(|values| values.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("|"));
        Ok(values)
    }

    pub(crate) fn expect(self, status: u16) -> Result<Self> {
        ensure!(self.status == status, "status {} instead of {status}: {self:?}", self.status);
        Ok(self)
    }
}

/// Asks from `web`: `to` is `service/path`, on port 80 unless it is `service:81/path`.
pub(crate) fn ask(lab: &Lab, to: &str, curl: &[&str]) -> Result<Answer> {
    ask_from(lab, "web", to, curl)
}

/// Asks from a pod.
pub(crate) fn ask_from(lab: &Lab, from: &str, to: &str, curl: &[&str]) -> Result<Answer> {
    let (host, path) = to.split_once('/').unwrap_or((to, ""));
    let (service, port) = host.split_once(':').unwrap_or((host, "80"));
    let url = format!("http://{service}.shop:{port}/{path}");
    let mut arguments = vec!["-sS", "-g", "--path-as-is", "-D", "/dev/stderr", "--max-time", "20"];
    arguments.extend(curl);
    arguments.push(&url);
    let done = lab.pod(from)?.command("curl").args(arguments.iter().copied()).output()?;
    let heads = done.errors();
    // Curl writes what it has to say into the same place; heads end where lines stop to have colons.
    ensure!(heads.contains("HTTP/"), "no answer from {url}: {heads}");
    let mut answer = Answer { status: 0, headers: BTreeMap::new(), body: done.text() };
    for line in heads.lines() {
        if let Some(rest) = line.strip_prefix("HTTP/") {
            let code = rest.split_whitespace().nth(1).context("no status")?;
            answer.status = code.parse()?;
            // An interim answer comes before.
            answer.headers.clear();
        } else if let Some((name, value)) = line.split_once(':') {
            let values = answer.headers.entry(name.to_ascii_lowercase()).or_default();
            if !values.is_empty() {
                values.push('|');
            }
            values.push_str(value.trim());
        }
    }
    Ok(answer)
}

/// How often each of the backends answers in so many requests.
pub(crate) fn shares(lab: &Lab, to: &str, count: usize, curl: &[&str]) -> Result<BTreeMap<String, usize>> {
    let (host, path) = to.split_once('/').unwrap_or((to, ""));
    // One curl for all: `#` is a glob of its own making.
    let url = format!("http://{host}.shop/{path}?n=[1-{count}]");
    let mut arguments = vec!["-sS", "--max-time", "60", "-w", "%{http_code}\n"];
    arguments.extend(curl);
    arguments.push(&url);
    let done = lab.pod("web")?.command("curl").args(arguments.iter().copied()).output()?;
    let mut shares = BTreeMap::new();
    for line in done.text().lines() {
        let name = match serde_json::from_str::<Value>(line) {
            Ok(Value::Object(said)) => said["name"].as_str().unwrap_or_default().to_owned(),
            Ok(Value::Number(code)) if code.as_u64() != Some(200) => code.to_string(),
            _ => continue,
        };
        *shares.entry(name).or_default() += 1;
    }
    Ok(shares)
}

/// How many requests a backend has had under a path.
pub(crate) fn count(lab: &Lab, backend: &str, path: &str) -> Result<u64> {
    let counts: Value = serde_json::from_str(&ask(lab, &format!("{backend}/count"), &[])?.expect(200)?.body)?;
    Ok(counts[path].as_u64().unwrap_or_default())
}

/// What a process has written.
pub(crate) fn log(lab: &Lab, process: &str) -> Result<String> {
    let path = lab.log_path(process)?;
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// The end of the waypoint's log, for whoever looks at a failure.
pub(crate) fn tell(lab: &Lab) {
    for process in ["waypoint/wp", "control"] {
        let log = log(lab, process).unwrap_or_else(|e| e.to_string());
        let lines: Vec<&str> = log.lines().collect();
        println!("--- {process}");
        lines[lines.len().saturating_sub(80)..].iter().for_each(|line| println!("{line}"));
    }
}
