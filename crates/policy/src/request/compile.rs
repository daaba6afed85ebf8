//! From the texts of users' objects to rules that can be judged; every mistake is reported.

use std::fmt;
use std::sync::Arc;

use http::HeaderName;
use mesh::addr::Cidr;
use mesh::authz::{ServiceAccount, StringMatch};

use super::fields::{Field, Test};
use super::matching::CompiledRule;
use super::model::{Action, Authorization, Condition, Operation, Rule, Source};
use super::pattern::{Flaw, HostPattern, PathPattern, Subject, literal, principal, text};

/// The policies of one Service, in the order of their names.
#[derive(Clone, Debug, Default)]
pub struct RequestPolicies {
    pub(crate) all: Vec<Policy>,
    names_paths: bool,
}

/// One policy, compiled.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    /// `namespace/name`.
    pub(crate) key: Arc<str>,
    pub(crate) action: Action,
    pub(crate) dry_run: bool,
    /// Where it stood in the list that was compiled.
    pub(crate) index: usize,
    /// The rules, or why it refuses everything.
    pub(crate) rules: Result<Vec<CompiledRule>, Arc<str>>,
}

/// A mistake in a policy. Prints one sentence that names place and remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Key of the policy, `namespace/name`.
    pub policy: Arc<str>,
    /// Where in its spec, such as `rules[0].to[1].paths[2]`; empty when the whole object is meant.
    pub place: String,
    /// What is wrong, and what to write instead.
    pub problem: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colon = if self.place.is_empty() { "" } else { ": " };
        write!(f, "{}: {}{colon}{}", self.policy, self.place, self.problem)
    }
}

impl RequestPolicies {
    /// Compiles policies. One with a fault refuses everything (AUDIT and dry-run ones only say so), and its faults are
    /// returned; the others are not touched by it.
    pub fn compile(policies: Vec<Authorization>) -> (Self, Vec<Fault>) {
        let mut faults = Vec::new();
        let mut all: Vec<Policy> = Vec::with_capacity(policies.len());
        for (index, policy) in policies.into_iter().enumerate() {
            let key: Arc<str> = format!("{}/{}", policy.namespace, policy.name).into();
            let mut compiler = Compiler { key: key.clone(), namespace: policy.namespace, faults: Vec::new() };
            if let Some(reason) = policy.invalid {
                compiler.fault(String::new(), reason);
            }
            let rules =
                policy.rules.iter().enumerate().map(|(i, r)| compiler.rule(&format!("rules[{i}]"), r)).collect();
            let rules = match compiler.faults.first() {
                None => Ok(rules),
                Some(first) if first.place.is_empty() => Err(first.problem.as_str().into()),
                Some(first) => Err(format!("{}: {}", first.place, first.problem).into()),
            };
            faults.append(&mut compiler.faults);
            all.push(Policy { key, action: policy.action, dry_run: policy.dry_run, index, rules });
        }
        all.sort_by(|a, b| a.key.cmp(&b.key));
        let of_path = |rule: &CompiledRule| {
            let tests = rule.from.iter().chain(&rule.to).flatten().chain(&rule.when);
            tests.into_iter().any(|t| t.field.is_of_path())
        };
        let names_paths = all.iter().any(|p| p.rules.as_ref().is_ok_and(|rules| rules.iter().any(of_path)));
        (Self { all, names_paths }, faults)
    }

    /// Whether there is no policy at all.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Whether any policy looks at paths: then paths that can be read in several ways are refused
    /// ([`super::canonical::Encoded::Refused`]).
    pub fn names_paths(&self) -> bool {
        self.names_paths
    }
}

struct Compiler {
    key: Arc<str>,
    /// Of the policy.
    namespace: Arc<str>,
    faults: Vec<Fault>,
}

impl Compiler {
    fn fault(&mut self, place: String, problem: String) {
        self.faults.push(Fault { policy: self.key.clone(), place, problem });
    }

    fn rule(&mut self, place: &str, rule: &Rule) -> CompiledRule {
        let from = rule.from.iter().enumerate().map(|(i, s)| self.source(&format!("{place}.from[{i}]"), s)).collect();
        let to = rule.to.iter().enumerate().map(|(i, o)| self.operation(&format!("{place}.to[{i}]"), o)).collect();
        let mut when = Vec::new();
        for (i, condition) in rule.when.iter().enumerate() {
            self.condition(&format!("{place}.when[{i}]"), condition, &mut when);
        }
        CompiledRule { from, to, when }
    }

    fn source(&mut self, place: &str, s: &Source) -> Vec<Test> {
        let mut tests = Vec::new();
        let namespace = self.namespace.clone();
        let account = |value: &str| service_account(&namespace, value);
        self.pair(&mut tests, place, "principals", [&s.principals, &s.not_principals], principal, Field::Principals);
        let subjects = [&s.request_principals, &s.not_request_principals];
        self.pair(&mut tests, place, "requestPrincipals", subjects, Subject::parse, Field::RequestPrincipals);
        let accounts = [&s.service_accounts, &s.not_service_accounts];
        self.pair(&mut tests, place, "serviceAccounts", accounts, account, Field::ServiceAccounts);
        self.pair(&mut tests, place, "namespaces", [&s.namespaces, &s.not_namespaces], text, Field::Namespaces);
        let domains = [&s.trust_domains, &s.not_trust_domains];
        self.pair(&mut tests, place, "trustDomains", domains, text, Field::TrustDomains);
        self.pair(&mut tests, place, "ipBlocks", [&s.ip_blocks, &s.not_ip_blocks], block, Field::SourceIps);
        let remote = [&s.remote_ip_blocks, &s.not_remote_ip_blocks];
        self.pair(&mut tests, place, "remoteIpBlocks", remote, block, Field::RemoteIps);
        self.some(place, &tests);
        tests
    }

    fn operation(&mut self, place: &str, o: &Operation) -> Vec<Test> {
        let mut tests = Vec::new();
        let digits = |ports: &[u32]| ports.iter().map(u32::to_string).collect::<Vec<_>>();
        let ports = [&digits(&o.ports), &digits(&o.not_ports)];
        self.pair(&mut tests, place, "hosts", [&o.hosts, &o.not_hosts], HostPattern::parse, Field::Hosts);
        self.pair(&mut tests, place, "ports", ports, port, Field::Ports);
        self.pair(&mut tests, place, "methods", [&o.methods, &o.not_methods], text, Field::Methods);
        self.pair(&mut tests, place, "paths", [&o.paths, &o.not_paths], PathPattern::parse, Field::Paths);
        self.some(place, &tests);
        tests
    }

    /// An entry without any field would hold for everybody, which nobody means who writes one.
    fn some(&mut self, place: &str, tests: &[Test]) {
        if tests.is_empty() && !self.faults.iter().any(|f| f.place.starts_with(place)) {
            self.fault(place.to_owned(), "it has no field: name at least one, or remove the entry".to_owned());
        }
    }

    fn condition(&mut self, place: &str, c: &Condition, into: &mut Vec<Test>) {
        if c.values.is_empty() && c.not_values.is_empty() {
            self.fault(place.to_owned(), "it has neither values nor notValues: give at least one of them".to_owned());
            return;
        }
        let namespace = self.namespace.clone();
        let account = |value: &str| service_account(&namespace, value);
        let lists = [&c.values, &c.not_values];
        match c.key.as_str() {
            "connection.sni" => self.when(into, place, c, lists, server_name, Field::ServerNames),
            "destination.ip" => self.when(into, place, c, lists, block, Field::DestinationIps),
            "destination.port" => self.when(into, place, c, lists, port, Field::Ports),
            "remote.ip" => self.when(into, place, c, lists, block, Field::RemoteIps),
            "request.auth.audiences" => self.when(into, place, c, lists, literal, Field::Audiences),
            "request.auth.presenter" => self.when(into, place, c, lists, literal, Field::Presenters),
            "request.auth.principal" => self.when(into, place, c, lists, Subject::parse, Field::RequestPrincipals),
            "source.ip" => self.when(into, place, c, lists, block, Field::SourceIps),
            "source.namespace" => self.when(into, place, c, lists, text, Field::Namespaces),
            "source.principal" => self.when(into, place, c, lists, principal, Field::Principals),
            "source.serviceAccount" => self.when(into, place, c, lists, account, Field::ServiceAccounts),
            key => match bracketed(key) {
                Some(("request.headers", names)) if names.len() == 1 => self.header(into, place, c, names[0]),
                Some(("request.auth.claims", names)) => {
                    let path: Vec<Arc<str>> = names.into_iter().map(Arc::from).collect();
                    let field = |values| Field::Claim { path: path.clone(), values };
                    self.when(into, place, c, lists, literal, field);
                }
                _ => self.fault(
                    format!("{place}.key"),
                    format!(
                        "{key:?} is no known attribute: write request.headers[name], request.auth.claims[name], \
                         request.auth.principal, .audiences or .presenter, source.ip, .namespace, .principal or \
                         .serviceAccount, remote.ip, destination.ip or .port, or connection.sni"
                    ),
                ),
            },
        }
    }

    /// Names that HTTP/2 gives to parts of a request mean these parts; `host` is the same thing as `:authority`.
    fn header(&mut self, into: &mut Vec<Test>, place: &str, c: &Condition, name: &str) {
        let lists = [&c.values, &c.not_values];
        match name.to_ascii_lowercase().as_str() {
            ":authority" | "host" => self.when(into, place, c, lists, HostPattern::parse, Field::Hosts),
            ":method" => self.when(into, place, c, lists, text, Field::Methods),
            ":path" => self.when(into, place, c, lists, literal, Field::Targets),
            lower => match HeaderName::from_bytes(lower.as_bytes()) {
                Ok(name) => {
                    let field = |values| Field::Header { name: name.clone(), values };
                    self.when(into, place, c, lists, literal, field);
                }
                Err(_) => {
                    let problem = format!("{name:?} is not the name of a header; write for instance x-role");
                    self.fault(format!("{place}.key"), problem);
                }
            },
        }
    }

    fn when<T>(
        &mut self,
        into: &mut Vec<Test>,
        place: &str,
        condition: &Condition,
        lists: [&Vec<String>; 2],
        parse: impl Fn(&str) -> Result<T, Flaw>,
        field: impl Fn(Vec<T>) -> Field,
    ) {
        for (list, values, not) in [("values", lists[0], false), ("notValues", lists[1], true)] {
            let parsed = self.values(place, list, values, &parse);
            if !parsed.is_empty() {
                into.push(Test { name: condition.key.as_str().into(), field: field(parsed), not });
            }
        }
    }

    /// A field and its `not` form.
    fn pair<T>(
        &mut self,
        into: &mut Vec<Test>,
        place: &str,
        name: &str,
        lists: [&Vec<String>; 2],
        parse: impl Fn(&str) -> Result<T, Flaw>,
        field: impl Fn(Vec<T>) -> Field,
    ) {
        let capital = |c: char| c.to_ascii_uppercase().to_string();
        let negative = format!("not{}{}", name.chars().next().map_or_else(String::new, capital), &name[1..]);
        for (name, values, not) in [(name, lists[0], false), (negative.as_str(), lists[1], true)] {
            let parsed = self.values(place, name, values, &parse);
            if !parsed.is_empty() {
                into.push(Test { name: name.into(), field: field(parsed), not });
            }
        }
    }

    fn values<T>(
        &mut self,
        place: &str,
        list: &str,
        values: &[String],
        parse: impl Fn(&str) -> Result<T, Flaw>,
    ) -> Vec<T> {
        let mut parsed = Vec::with_capacity(values.len());
        for (i, value) in values.iter().enumerate() {
            match parse(value) {
                Ok(value) => parsed.push(value),
                Err(flaw) => self.fault(format!("{place}.{list}[{i}]"), flaw.to_string()),
            }
        }
        parsed
    }
}

/// `name[a][b]` as `name` and `a`, `b`.
fn bracketed(key: &str) -> Option<(&str, Vec<&str>)> {
    let (name, rest) = key.split_at(key.find('[')?);
    let inner = rest.strip_prefix('[')?.strip_suffix(']')?;
    let parts: Vec<&str> = inner.split("][").collect();
    let plain = |part: &&str| !part.is_empty() && !part.contains(['[', ']']);
    parts.iter().all(plain).then_some((name, parts))
}

fn block(value: &str) -> Result<Cidr, Flaw> {
    value.parse().map_err(|_| Flaw::Block(value.to_owned()))
}

fn port(value: &str) -> Result<u16, Flaw> {
    value.parse().ok().filter(|p| *p != 0).ok_or_else(|| Flaw::Port(value.to_owned()))
}

/// Names of hosts have no case (RFC 6066 3).
fn server_name(value: &str) -> Result<StringMatch, Flaw> {
    text(&value.to_ascii_lowercase())
}

fn service_account(own: &Arc<str>, value: &str) -> Result<ServiceAccount, Flaw> {
    let (namespace, name) = value.split_once('/').unwrap_or((own, value));
    if namespace.is_empty() || name.is_empty() || name.contains('/') || value.contains('*') {
        return Err(Flaw::ServiceAccount(value.to_owned()));
    }
    Ok(ServiceAccount { namespace: namespace.into(), name: name.into() })
}
