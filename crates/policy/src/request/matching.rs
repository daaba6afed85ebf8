//! Whether a rule matches: what is known of a request, and how one test of a rule fits it.

use std::net::IpAddr;

use http::HeaderMap;
use mesh::Identity;
use mesh::addr::canonical;
use mesh::authz::StringMatch;

use super::canonical::Authority;
use super::claims::Claims;
use super::fields::{Field, Test};
use super::pattern::Path;

/// A request or a TCP connection as policy sees it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Who dialled the tunnel, proven by its certificate; `None` for a connection in clear.
    pub source: Option<&'a Identity>,
    /// The peer.
    pub source_ip: IpAddr,
    /// The original client, as far as trusted proxies told; else the peer.
    pub remote_ip: IpAddr,
    /// The address that the caller named: the Service's or the pod's.
    pub destination_ip: IpAddr,
    /// The port that the caller named: the Service's port, or the pod's when the pod was named.
    pub destination_port: u16,
    /// Server name of a TLS connection that passes unopened.
    pub server_name: Option<&'a str>,
    /// What HTTP knows; `None` for a TCP connection.
    pub http: Option<Http<'a>>,
}

/// The HTTP part of a request.
#[derive(Clone, Copy, Debug)]
pub struct Http<'a> {
    /// Method.
    pub method: &'a str,
    /// Path in the form of [`super::canonical::path`], without query. Empty for CONNECT, which has none: then it may be any.
    pub path: &'a str,
    /// Query, without its question mark.
    pub query: Option<&'a str>,
    /// Host in the form of [`super::canonical::authority`].
    pub authority: &'a Authority<'a>,
    /// Headers as they came.
    pub headers: &'a HeaderMap,
    /// Claims of the request's token, when it had one and it was valid.
    pub claims: Option<&'a Claims>,
}

/// How a list of values fits an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fit {
    /// It fits however the request is read.
    pub(crate) certain: bool,
    /// It fits in some way to read the request. True whenever `certain` is.
    pub(crate) possible: bool,
}

impl Fit {
    pub(crate) const MAYBE: Self = Self { certain: false, possible: true };
    pub(crate) const NO: Self = Self { certain: false, possible: false };
    pub(crate) const YES: Self = Self { certain: true, possible: true };

    pub(crate) fn known(fits: bool) -> Self {
        if fits { Self::YES } else { Self::NO }
    }

    pub(crate) fn maybe(fits: bool) -> Self {
        if fits { Self::MAYBE } else { Self::NO }
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self { certain: self.certain || other.certain, possible: self.possible || other.possible }
    }
}

/// Which side errors fall on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// A match opens something: only what is certain counts.
    Narrow,
    /// A match closes something or looks closer: whatever is possible counts.
    Wide,
}

/// A rule, compiled.
#[derive(Clone, Debug, Default)]
pub(crate) struct CompiledRule {
    /// Alternatives; none holds.
    pub(crate) from: Vec<Vec<Test>>,
    /// Alternatives; none holds.
    pub(crate) to: Vec<Vec<Test>>,
    /// All of them.
    pub(crate) when: Vec<Test>,
}

impl CompiledRule {
    pub(crate) fn matches(&self, facts: &Facts<'_>, reading: Reading) -> bool {
        let all = |tests: &Vec<Test>| tests.iter().all(|t| facts.holds(t, reading));
        let some = |alternatives: &Vec<Vec<Test>>| alternatives.is_empty() || alternatives.iter().any(all);
        some(&self.from) && some(&self.to) && all(&self.when)
    }
}

/// A request with the forms of it that rules compare, made once per judgement.
pub(crate) struct Facts<'a> {
    pub(crate) request: &'a Request<'a>,
    /// Identity without `spiffe://`.
    pub(crate) principal: Option<String>,
    path: Option<Path<'a>>,
}

impl<'a> Facts<'a> {
    pub(crate) fn new(request: &'a Request<'a>) -> Self {
        Self {
            request,
            principal: request.source.map(Identity::principal),
            path: request.http.as_ref().map(|h| Path::new(h.path)),
        }
    }

    pub(crate) fn holds(&self, test: &Test, reading: Reading) -> bool {
        let fit = self.fit(&test.field);
        match (test.not, reading) {
            (false, Reading::Narrow) => fit.certain,
            (false, Reading::Wide) => fit.possible,
            (true, Reading::Narrow) => !fit.possible,
            (true, Reading::Wide) => !fit.certain,
        }
    }

    fn fit(&self, field: &Field) -> Fit {
        let request = self.request;
        let source = |test: &dyn Fn(&Identity) -> bool| Fit::known(request.source.is_some_and(test));
        match field {
            Field::DestinationIps(blocks) => {
                Fit::known(blocks.iter().any(|b| b.contains(canonical(request.destination_ip))))
            }
            Field::Namespaces(values) => source(&|s| any(values, s.namespace())),
            Field::Ports(ports) => Fit::known(ports.contains(&request.destination_port)),
            Field::Principals(values) => Fit::known(self.principal.as_ref().is_some_and(|p| any(values, p))),
            Field::RemoteIps(blocks) => Fit::known(blocks.iter().any(|b| b.contains(canonical(request.remote_ip)))),
            Field::ServerNames(values) => match request.server_name {
                Some(name) => Fit::known(any(values, &name.to_ascii_lowercase())),
                None => Fit::NO,
            },
            Field::ServiceAccounts(values) => {
                source(&|s| values.iter().any(|a| a.namespace == *s.namespace() && a.name == *s.service_account()))
            }
            Field::SourceIps(blocks) => Fit::known(blocks.iter().any(|b| b.contains(canonical(request.source_ip)))),
            Field::TrustDomains(values) => source(&|s| any(values, s.trust_domain())),
            http => match (&request.http, &self.path) {
                (Some(known), Some(path)) => self.fit_http(http, known, path),
                // Nothing of it is known of a TCP connection, so it may be anything.
                _ => Fit::MAYBE,
            },
        }
    }

    fn fit_http(&self, field: &Field, http: &Http<'_>, path: &Path<'_>) -> Fit {
        let claim = |name: &[&str], values: &[StringMatch]| http.claims.map_or(Fit::NO, |c| c.fit(name, values));
        match field {
            Field::Audiences(values) => claim(&["aud"], values),
            Field::Claim { path, values } => http.claims.map_or(Fit::NO, |c| c.fit(path, values)),
            Field::Header { name, values } => fit_header(http.headers, name, values),
            Field::Hosts(values) => {
                let port = self.request.destination_port;
                values.iter().fold(Fit::NO, |fit, v| fit.or(v.fit(http.authority, port)))
            }
            Field::Methods(values) => {
                // RFC 9110 9.1: methods have case. Servers that forget it must not open what a DENY closes.
                let certain = any(values, http.method);
                let cased = || [http.method.to_ascii_uppercase(), http.method.to_ascii_lowercase()];
                Fit { certain, possible: certain || cased().iter().any(|m| any(values, m)) }
            }
            Field::Paths(_) | Field::Targets(_) if http.path.is_empty() => Fit::MAYBE,
            Field::Paths(values) => values.iter().fold(Fit::NO, |fit, v| fit.or(v.fit(path))),
            Field::Presenters(values) => claim(&["azp"], values),
            Field::RequestPrincipals(values) => match http.claims {
                Some(claims) => values.iter().fold(Fit::NO, |fit, v| fit.or(v.fit(claims))),
                None => Fit::NO,
            },
            Field::Targets(values) => {
                let whole = http.query.map(|q| format!("{}?{q}", http.path));
                let path = any(values, http.path);
                let whole = whole.map_or(path, |w| any(values, &w));
                Fit { certain: whole, possible: whole || path }
            }
            Field::DestinationIps(_)
            | Field::Namespaces(_)
            | Field::Ports(_)
            | Field::Principals(_)
            | Field::RemoteIps(_)
            | Field::ServerNames(_)
            | Field::ServiceAccounts(_)
            | Field::SourceIps(_)
            | Field::TrustDomains(_) => self.fit(field),
        }
    }
}

pub(crate) fn any(values: &[StringMatch], text: &str) -> bool {
    values.iter().any(|v| v.matches(text))
}

/// A header may come in several lines, each of which may be a list (RFC 9110 5.3), and some servers read `_` in a name
/// as `-`. Certain is what fits every line; possible what fits a line, an item of one, or all lines in one text.
fn fit_header(headers: &HeaderMap, name: &http::HeaderName, values: &[StringMatch]) -> Fit {
    let alike = || headers.iter().filter(|(other, _)| same_but_underscores(other.as_str(), name.as_str()));
    let present = headers.contains_key(name);
    if values.contains(&StringMatch::Presence) {
        return Fit { certain: present, possible: alike().next().is_some() };
    }
    let fits = |text: &str| any(values, text);
    if present && alike().all(|(_, v)| std::str::from_utf8(v.as_bytes()).is_ok_and(fits)) {
        return Fit::YES;
    }
    // Crumbs of a cookie are joined with another sign (RFC 9113 8.2.3).
    let (sign, glue) = if *name == http::header::COOKIE { (';', "; ") } else { (',', ",") };
    let lines: Vec<_> = alike().map(|(_, v)| String::from_utf8_lossy(v.as_bytes())).collect();
    let item = |line: &str| fits(line) || line.split(sign).any(|i| fits(i.trim()));
    Fit::maybe(lines.iter().any(|l| item(l)) || (lines.len() > 1 && fits(&lines.join(glue))))
}

fn same_but_underscores(one: &str, other: &str) -> bool {
    let plain = |b: u8| if b == b'_' { b'-' } else { b };
    one.len() == other.len() && one.bytes().zip(other.bytes()).all(|(a, b)| plain(a) == plain(b))
}
