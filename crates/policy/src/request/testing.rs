//! Short forms for the tests of this module.

use http::{HeaderMap, HeaderName, HeaderValue};
use mesh::Identity;
use serde_json::{Value, json};

use super::canonical::{self, Encoded};
use super::{
    Action, Authorization, Checked, Claims, Condition, Http, Judgement, Operation, Request, RequestPolicies, Rule,
    Source, Verdict,
};

pub(super) fn texts(values: &[&str]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

pub(super) fn policy(name: &str, action: Action, rules: Vec<Rule>) -> Authorization {
    Authorization { namespace: "shop".into(), name: name.into(), action, rules, ..Authorization::default() }
}

pub(super) fn allow(rules: Vec<Rule>) -> Authorization {
    policy("allow", Action::Allow, rules)
}

pub(super) fn deny(rules: Vec<Rule>) -> Authorization {
    policy("deny", Action::Deny, rules)
}

pub(super) fn from(source: Source) -> Rule {
    Rule { from: vec![source], ..Rule::default() }
}

pub(super) fn to(operation: Operation) -> Rule {
    Rule { to: vec![operation], ..Rule::default() }
}

pub(super) fn when(key: &str, values: &[&str], not_values: &[&str]) -> Rule {
    let condition = Condition { key: key.into(), values: texts(values), not_values: texts(not_values) };
    Rule { when: vec![condition], ..Rule::default() }
}

pub(super) fn paths(values: &[&str]) -> Rule {
    to(Operation { paths: texts(values), ..Operation::default() })
}

pub(super) fn not_paths(values: &[&str]) -> Rule {
    to(Operation { not_paths: texts(values), ..Operation::default() })
}

/// Policies without a fault.
pub(super) fn compiled(policies: Vec<Authorization>) -> RequestPolicies {
    let (compiled, faults) = RequestPolicies::compile(policies);
    assert_eq!(faults, [], "{faults:?}");
    compiled
}

/// A request as it comes off the wire.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) account: Option<&'static str>,
    pub(super) method: String,
    /// As the client wrote it.
    pub(super) path: String,
    pub(super) query: Option<&'static str>,
    /// Of an absolute target or `:authority`.
    pub(super) target: Option<String>,
    /// Header lines, Host among them.
    pub(super) headers: Vec<(String, String)>,
    pub(super) claims: Option<Value>,
    pub(super) port: u16,
    pub(super) server_name: Option<&'static str>,
    pub(super) tcp: bool,
}

impl Default for Ask {
    fn default() -> Self {
        Self {
            account: Some("web"),
            method: "GET".into(),
            path: "/".into(),
            query: None,
            target: Some("cart.shop.svc.cluster.local".into()),
            headers: Vec::new(),
            claims: None,
            port: 80,
            server_name: None,
            tcp: false,
        }
    }
}

impl Ask {
    pub(super) fn path(path: &str) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    pub(super) fn header(name: &str, values: &[&str]) -> Self {
        let headers = values.iter().map(|v| (name.to_owned(), (*v).to_owned())).collect();
        Self { headers, ..Self::default() }
    }

    pub(super) fn tcp() -> Self {
        Self { tcp: true, ..Self::default() }
    }

    pub(super) fn with_token(claims: Value) -> Self {
        let mut all = json!({"iss": "https://issuer.example", "sub": "me"});
        for (name, value) in claims.as_object().unwrap() {
            all[name] = value.clone();
        }
        Self { claims: Some(all), ..Self::default() }
    }

    /// What the waypoint does with it: `Err` says why it is 400.
    pub(super) fn judge(&self, policies: &RequestPolicies) -> Result<Judgement, String> {
        self.with(policies, |request| {
            let mut pending = policies.checks(request);
            while pending.next().is_some() {
                pending = pending.passed();
            }
            let checked: Checked = pending.finish().unwrap();
            policies.judge(request, checked)
        })
    }

    pub(super) fn with<T>(
        &self,
        policies: &RequestPolicies,
        then: impl FnOnce(&Request<'_>) -> T,
    ) -> Result<T, String> {
        let mut headers = HeaderMap::new();
        for (name, value) in &self.headers {
            // What no HTTP parser lets in is refused before it comes here.
            let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
            let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|e| e.to_string())?;
            headers.append(name, value);
        }
        let encoded = if policies.names_paths() { Encoded::Refused } else { Encoded::Kept };
        let source = self.account.map(|a| Identity::new("cluster.local", "shop", a).unwrap());
        let claims = self.claims.as_ref().map(|c| Claims::new(c.as_object().unwrap().clone()));
        let path = match self.method.as_str() {
            "CONNECT" => "".into(),
            _ => canonical::path(&self.path, encoded).map_err(|e| e.to_string())?,
        };
        let authority = canonical::authority(self.target.as_deref(), &headers).map_err(|e| e.to_string())?;
        let http = Http {
            method: &self.method,
            path: &path,
            query: self.query,
            authority: &authority,
            headers: &headers,
            claims: claims.as_ref(),
        };
        let request = Request {
            source: source.as_ref(),
            source_ip: "10.1.0.1".parse().unwrap(),
            remote_ip: "::ffff:192.0.2.7".parse().unwrap(),
            destination_ip: "10.96.0.10".parse().unwrap(),
            destination_port: self.port,
            server_name: self.server_name,
            http: (!self.tcp).then_some(http),
        };
        Ok(then(&request))
    }

    pub(super) fn passes(&self, policies: &RequestPolicies) -> bool {
        self.judge(policies).is_ok_and(|j| matches!(j.verdict, Verdict::Permitted(_)))
    }

    /// One line that says how it ended.
    pub(super) fn told(&self, policies: &RequestPolicies) -> String {
        match self.judge(policies).map(|j| j.verdict) {
            Err(refused) => format!("bad request: {refused}"),
            Ok(Verdict::Denied(d)) => d.to_string(),
            Ok(Verdict::Permitted(p)) => format!("permitted: {}", p.reason()),
        }
    }
}
