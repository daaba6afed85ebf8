//! Tables of routes.

use std::sync::Arc;

use proto::routing as wire;
use routing::model::{
    Backend, Cors, ExternalAuth, ExternalProcessing, Fault, Filter, GrpcMatch, Header, HeaderChange, HttpTable,
    Invalid, Kind, Match, Mirror, NameMatch, PathChange, PathMatch, Protocol, Redirect, Retry, Rewrite, RouteName,
    Rule, SessionPersistence, Table, TcpTable, TlsRule, TlsTable, ValueMatch,
};

use super::{UNKNOWN, checked_duration, local_rate};

/// All of them. One of a port that cannot be has no callers, and is left out.
pub(crate) fn tables(all: &[wire::Table]) -> Vec<Table> {
    all.iter().filter_map(table).collect()
}

fn table(wire: &wire::Table) -> Option<Table> {
    let kind = match &wire.kind {
        Some(wire::table::Kind::Http(http)) => {
            Kind::Http(HttpTable { grpc: http.grpc, rules: http.rules.iter().map(rule).collect() })
        }
        Some(wire::table::Kind::Tcp(tcp)) => {
            Kind::Tcp(TcpTable { route: name(tcp.route.as_ref()), backends: backends(&tcp.backends) })
        }
        Some(wire::table::Kind::Tls(tls)) => Kind::Tls(TlsTable { rules: tls.rules.iter().map(tls_rule).collect() }),
        None => Kind::Invalid(Invalid::new(format!("the table of port {} {UNKNOWN}", wire.port))),
    };
    Some(Table {
        port: u16::try_from(wire.port).ok()?,
        consumer_namespace: (!wire.consumer_namespace.is_empty()).then(|| wire.consumer_namespace.as_str().into()),
        kind,
    })
}

fn tls_rule(wire: &wire::TlsRule) -> TlsRule {
    TlsRule {
        route: name(wire.route.as_ref()),
        server_names: wire.server_names.clone(),
        backends: backends(&wire.backends),
    }
}

fn name(wire: Option<&wire::RouteName>) -> RouteName {
    let Some(wire::RouteName { kind, namespace, name, rule }) = wire else { return RouteName::default() };
    let text = |t: &String| Arc::from(t.as_str());
    RouteName { kind: text(kind), namespace: text(namespace), name: text(name), rule: text(rule) }
}

fn invalid(wire: Option<&wire::Invalid>) -> Option<Invalid> {
    wire.map(|i| Invalid::new(i.reason.as_str()))
}

fn rule(wire: &wire::Rule) -> Rule {
    let mut wrong = invalid(wire.invalid.as_ref());
    let mut time = |place: &str, wire: Option<&prost_types::Duration>| {
        checked_duration(wire).unwrap_or_else(|error| {
            wrong.get_or_insert_with(|| Invalid::new(format!("{place}: {error}")));
            None
        })
    };
    let request_timeout = time("timeouts.request", wire.request_timeout.as_ref());
    let backend_timeout = time("timeouts.backendRequest", wire.backend_timeout.as_ref());
    let retry = wire.retry.as_ref().map(|retry| Retry {
        attempts: retry.attempts,
        codes: retry.codes.clone(),
        backoff: time("retry.backoff", retry.backoff.as_ref()),
    });
    let session = wire.session.as_ref().map(|session| SessionPersistence {
        cookie: session.cookie.clone(),
        header: session.header.clone(),
        lifetime: time("sessionPersistence.absoluteTimeout", session.lifetime.as_ref()),
        permanent: session.permanent,
    });
    Rule {
        route: name(wire.route.as_ref()),
        matches: wire.matches.iter().map(a_match).collect(),
        filters: filters(&wire.filters),
        backends: backends(&wire.backends),
        request_timeout,
        backend_timeout,
        retry,
        invalid: wrong,
        session,
    }
}

fn a_match(wire: &wire::Match) -> Match {
    use wire::{header_match as header, path_match as path, query_match as query};
    let headers = wire.headers.iter().map(|m| NameMatch {
        name: m.name.clone(),
        value: match &m.kind {
            Some(header::Kind::Exact(text)) => ValueMatch::Exact(text.clone()),
            Some(header::Kind::Regex(text)) => ValueMatch::Regex(text.clone()),
            None => ValueMatch::Unknown,
        },
    });
    let parameters = wire.query.iter().map(|m| NameMatch {
        name: m.name.clone(),
        value: match &m.kind {
            Some(query::Kind::Exact(text)) => ValueMatch::Exact(text.clone()),
            Some(query::Kind::Regex(text)) => ValueMatch::Regex(text.clone()),
            None => ValueMatch::Unknown,
        },
    });
    let path = wire.path.as_ref().map(|path| match &path.kind {
        Some(path::Kind::Exact(text)) => PathMatch::Exact(text.clone()),
        Some(path::Kind::Prefix(text)) => PathMatch::Prefix(text.clone()),
        Some(path::Kind::Regex(text)) => PathMatch::Regex(text.clone()),
        None => PathMatch::Unknown,
    });
    let call = |m: &wire::GrpcMatch| GrpcMatch { service: m.service.clone(), method: m.method.clone(), regex: m.regex };
    Match {
        path,
        headers: headers.collect(),
        query: parameters.collect(),
        method: wire.method.clone(),
        grpc: wire.grpc.as_ref().map(call),
    }
}

fn backends(all: &[wire::Backend]) -> Vec<Backend> {
    all.iter().map(backend).collect()
}

fn backend(wire: &wire::Backend) -> Backend {
    let protocol = match wire::Protocol::try_from(wire.protocol) {
        Ok(wire::Protocol::Detect) => Some(Protocol::Detect),
        Ok(wire::Protocol::Grpc) => Some(Protocol::Grpc),
        Ok(wire::Protocol::Http) => Some(Protocol::Http),
        Ok(wire::Protocol::Http2) => Some(Protocol::Http2),
        Ok(wire::Protocol::Tcp) => Some(Protocol::Tcp),
        Ok(wire::Protocol::Tls) => Some(Protocol::Tls),
        Err(_) => None,
    };
    let port = u16::try_from(wire.port).ok();
    let mut wrong = invalid(wire.invalid.as_ref());
    if protocol.is_none() {
        wrong = wrong.or_else(|| Some(Invalid::new(format!("its protocol {UNKNOWN}"))));
    }
    if port.is_none() {
        wrong = wrong.or_else(|| Some(Invalid::new(format!("{} is not a port", wire.port))));
    }
    Backend {
        weight: wire.weight,
        service: wire.service.as_str().into(),
        port: port.unwrap_or_default(),
        invalid: wrong,
        filters: filters(&wire.filters),
        protocol: protocol.unwrap_or_default(),
    }
}

/// Of a filter that names one. One that names none cannot be asked.
fn named_backend(wire: Option<&wire::Backend>) -> Backend {
    let none = || Backend { invalid: Some(Invalid::new(format!("the backend {UNKNOWN}"))), ..Backend::default() };
    wire.map_or_else(none, backend)
}

/// Whether some rule asks an external service, and others may not: then which rule a path leads to matters for safety.
pub(crate) fn asks_by_path(all: &[wire::Table]) -> bool {
    let asks =
        |filters: &[wire::Filter]| filters.iter().any(|f| matches!(f.kind, Some(wire::filter::Kind::ExternalAuth(_))));
    let rules = all.iter().filter_map(|table| match &table.kind {
        Some(wire::table::Kind::Http(http)) => Some(&http.rules),
        _ => None,
    });
    rules.flatten().any(|rule| asks(&rule.filters) || rule.backends.iter().any(|backend| asks(&backend.filters)))
}

/// A list of filters. One that is not understood refuses in its place.
pub(crate) fn filters(all: &[wire::Filter]) -> Vec<Filter> {
    all.iter().map(|f| filter(f).unwrap_or_else(|reason| Filter::Invalid(Invalid::new(reason)))).collect()
}

fn filter(wire: &wire::Filter) -> Result<Filter, String> {
    use wire::filter::Kind;
    Ok(match wire.kind.as_ref().ok_or_else(|| format!("a filter {UNKNOWN}"))? {
        Kind::RequestHeaders(change) => Filter::RequestHeaders(header_change(change)),
        Kind::ResponseHeaders(change) => Filter::ResponseHeaders(header_change(change)),
        Kind::Redirect(redirect) => Filter::Redirect(a_redirect(redirect)?),
        Kind::Rewrite(rewrite) => {
            Filter::Rewrite(Rewrite { hostname: said(&rewrite.hostname), path: rewrite.path.as_ref().map(path_change) })
        }
        Kind::Mirror(mirror) => Filter::Mirror(Mirror {
            backend: named_backend(mirror.backend.as_ref()),
            numerator: mirror.numerator,
            denominator: mirror.denominator,
        }),
        Kind::Cors(cors) => Filter::Cors(Cors {
            allow_origins: cors.allow_origins.clone(),
            allow_credentials: cors.allow_credentials,
            allow_methods: cors.allow_methods.clone(),
            allow_headers: cors.allow_headers.clone(),
            expose_headers: cors.expose_headers.clone(),
            max_age: cors.max_age,
        }),
        Kind::ExternalAuth(auth) => Filter::ExternalAuth(external_auth(auth)?),
        Kind::Invalid(invalid) => Filter::Invalid(Invalid::new(invalid.reason.as_str())),
        Kind::Fault(fault) => Filter::Fault(Fault {
            delay_share: fault.delay_share,
            delay: checked_duration(fault.delay.as_ref())?.unwrap_or_default(),
            abort_share: fault.abort_share,
            abort_status: fault.abort_status,
        }),
        Kind::ExternalProcessing(processing) => Filter::ExternalProcessing(ExternalProcessing {
            backend: named_backend(processing.backend.as_ref()),
            timeout: checked_duration(processing.timeout.as_ref())?,
            fail_open: processing.fail_open,
            request_headers: processing.request_headers,
            response_headers: processing.response_headers,
        }),
        Kind::LocalRate(rate) => Filter::LocalRate(local_rate(rate)?),
    })
}

fn header_change(wire: &wire::HeaderChange) -> HeaderChange {
    let headers =
        |all: &[wire::Header]| all.iter().map(|h| Header { name: h.name.clone(), value: h.value.clone() }).collect();
    HeaderChange { set: headers(&wire.set), add: headers(&wire.add), remove: wire.remove.clone() }
}

fn a_redirect(wire: &wire::Redirect) -> Result<Redirect, String> {
    let small = |number: u32, what: &str| {
        let read = u16::try_from(number).map_err(|_| format!("{number} is not a {what}"))?;
        Ok::<_, String>(Some(read).filter(|n| *n != 0))
    };
    Ok(Redirect {
        scheme: said(&wire.scheme),
        hostname: said(&wire.hostname),
        path: wire.path.as_ref().map(path_change),
        port: small(wire.port, "port")?,
        status: small(wire.status, "status of a redirect")?,
    })
}

fn path_change(wire: &wire::PathChange) -> PathChange {
    match &wire.kind {
        Some(wire::path_change::Kind::Full(path)) => PathChange::Full(path.clone()),
        Some(wire::path_change::Kind::Prefix(path)) => PathChange::Prefix(path.clone()),
        None => PathChange::Unknown,
    }
}

pub(super) fn external_auth(wire: &wire::ExternalAuth) -> Result<ExternalAuth, String> {
    let status =
        u16::try_from(wire.status_on_error).map_err(|_| format!("{} is not a status", wire.status_on_error))?;
    Ok(ExternalAuth {
        backend: named_backend(wire.backend.as_ref()),
        http: wire.http,
        path_prefix: wire.path_prefix.clone(),
        allowed_headers: wire.allowed_headers.clone(),
        allowed_response_headers: wire.allowed_response_headers.clone(),
        max_body: wire.max_body,
        timeout: checked_duration(wire.timeout.as_ref())?,
        fail_open: wire.fail_open,
        status_on_error: Some(status).filter(|s| *s != 0),
    })
}

/// A text that is there.
fn said(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
