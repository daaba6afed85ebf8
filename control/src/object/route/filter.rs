//! Filters (gateway-api.md 3.3).

use std::collections::HashSet;
use std::sync::Arc;

use kubernetes::object::route as api;
use proto::routing as wire;

use super::http::{Broken, unknown};
use super::{Filter, RouteKind, read_target};
use crate::object::{Faults, request_policy, shown};

/// Where filters stand.
pub(super) struct Place<'a> {
    pub(super) kind: RouteKind,
    /// The route's namespace.
    pub(super) own: &'a Arc<str>,
    /// How many prefixes the rule matches, if all its matches are prefixes; else none.
    pub(super) prefixes: usize,
}

/// Reads a list of filters. One that cannot be applied answers in its place with an error.
pub(super) fn filters(
    of: &[api::Filter],
    field: &str,
    place: &Place<'_>,
    faults: &mut Faults,
    broken: &mut Broken,
) -> Vec<Filter> {
    let mut seen = HashSet::new();
    let mut made = Vec::with_capacity(of.len());
    for (i, filter) in of.iter().enumerate() {
        let at = format!("{field}[{i}]");
        let kind = filter.type_.clone().unwrap_or_else(|| api::FilterType::Other(String::new()));
        let repeats = matches!(kind, api::FilterType::RequestMirror | api::FilterType::ExtensionRef);
        if !repeats && !seen.insert(kind.clone()) {
            wrong(&at, &format!("there is already a filter of type {kind}"), "write both into one", faults, broken);
        }
        made.push(match one(filter, &kind, &at, place, faults, broken) {
            Some(filter) => filter,
            None => Filter::invalid(format!("{at} cannot be applied")),
        });
    }
    if seen.contains(&api::FilterType::RequestRedirect) && seen.contains(&api::FilterType::UrlRewrite) {
        wrong(field, "a redirect and a rewrite exclude each other", "keep one of the two", faults, broken);
    }
    made
}

fn wrong(field: &str, what: &str, remedy: &str, faults: &mut Faults, broken: &mut Broken) {
    faults.add(field, what, remedy);
    broken.by(format!("{field}: {what}"));
}

fn one(
    filter: &api::Filter,
    kind: &api::FilterType,
    at: &str,
    place: &Place<'_>,
    faults: &mut Faults,
    broken: &mut Broken,
) -> Option<Filter> {
    use api::FilterType;
    use wire::filter::Kind;
    if !belongs(kind, at, place, faults, broken) {
        return None;
    }
    let ready = |kind: Kind| Some(Filter::Ready(wire::Filter { kind: Some(kind) }));
    match kind {
        FilterType::RequestHeaderModifier => {
            let given = given(filter.request_header_modifier.as_ref(), "requestHeaderModifier", at, faults, broken)?;
            ready(Kind::RequestHeaders(headers(given, &format!("{at}.requestHeaderModifier"), faults, broken)))
        }
        FilterType::ResponseHeaderModifier => {
            let given = given(filter.response_header_modifier.as_ref(), "responseHeaderModifier", at, faults, broken)?;
            ready(Kind::ResponseHeaders(headers(given, &format!("{at}.responseHeaderModifier"), faults, broken)))
        }
        FilterType::RequestRedirect => {
            let given = given(filter.request_redirect.as_ref(), "requestRedirect", at, faults, broken)?;
            ready(Kind::Redirect(redirect(given, &format!("{at}.requestRedirect"), place, faults, broken)))
        }
        FilterType::UrlRewrite => {
            let given = given(filter.url_rewrite.as_ref(), "urlRewrite", at, faults, broken)?;
            let field = format!("{at}.urlRewrite.path");
            let path = given.path.as_ref().and_then(|p| path_change(p, &field, place, faults, broken));
            ready(Kind::Rewrite(wire::Rewrite { hostname: given.hostname.clone().unwrap_or_default(), path }))
        }
        FilterType::RequestMirror => {
            let given = given(filter.request_mirror.as_ref(), "requestMirror", at, faults, broken)?;
            Some(mirror(given, &format!("{at}.requestMirror"), place, faults, broken))
        }
        FilterType::Cors => ready(Kind::Cors(cors(
            given(filter.cors.as_ref(), "cors", at, faults, broken)?,
            &format!("{at}.cors"),
            faults,
            broken,
        ))),
        FilterType::ExternalAuth => {
            let given = given(filter.external_auth.as_ref(), "externalAuth", at, faults, broken)?;
            auth(given, &format!("{at}.externalAuth"), place, faults, broken)
        }
        FilterType::ExtensionRef => extension(filter, &format!("{at}.extensionRef"), faults, broken),
        FilterType::Other(other) => {
            unknown(other, &format!("{at}.type"), "use a type of filter that the Gateway API defines", faults, broken);
            None
        }
    }
}

/// What an object of somebody's own kind says; ours is RequestPolicy.
fn extension(filter: &api::Filter, field: &str, faults: &mut Faults, broken: &mut Broken) -> Option<Filter> {
    let name = filter.extension_ref.clone().unwrap_or_default();
    if (name.group.as_str(), name.kind.as_str()) == (request_policy::GROUP, "RequestPolicy") {
        return Some(Filter::Extension(name.name.into(), field.into()));
    }
    let what = format!("{} {} is not known here", shown(&name.kind), shown(&name.name));
    wrong(field, &what, "name a RequestPolicy of group culvert.dev, or remove the filter", faults, broken);
    None
}

/// The field that a filter's type names.
fn given<'a, T>(field: Option<&'a T>, name: &str, at: &str, faults: &mut Faults, broken: &mut Broken) -> Option<&'a T> {
    if field.is_none() {
        wrong(&format!("{at}.{name}"), "is missing", "write what the filter is to do", faults, broken);
    }
    field
}

/// Whether a kind of filter is one of the route's kind.
fn belongs(kind: &api::FilterType, at: &str, place: &Place<'_>, faults: &mut Faults, broken: &mut Broken) -> bool {
    use api::FilterType;
    let only_http = matches!(kind, FilterType::Cors | FilterType::RequestRedirect | FilterType::UrlRewrite);
    if only_http && place.kind != RouteKind::Http {
        let remedy = "use an HTTPRoute for it, or remove it";
        wrong(at, &format!("filter {kind} is not one of a {}", place.kind.object()), remedy, faults, broken);
        return false;
    }
    true
}

/// One action for each name (gateway-api.md 3.3, "Header modifier").
fn headers(of: &api::HeaderFilter, field: &str, faults: &mut Faults, broken: &mut Broken) -> wire::HeaderChange {
    let header = |h: &api::Header| wire::Header { name: h.name.clone(), value: h.value.clone() };
    let names = of.set.iter().chain(&of.add).map(|h| h.name.as_str()).chain(of.remove.iter().map(String::as_str));
    let mut seen = HashSet::new();
    for name in names {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            let what = format!("{} is not the name of a header", shown(name));
            wrong(field, &what, "write a token of letters, digits and -", faults, broken);
        } else if !seen.insert(name.to_ascii_lowercase()) {
            let what = format!("header {} is named twice", shown(name));
            wrong(field, &what, "write one action for each header", faults, broken);
        }
    }
    for value in of.set.iter().chain(&of.add).filter(|h| http::HeaderValue::from_str(&h.value).is_err()) {
        let what = format!("the value of header {} has a byte that no header may have", shown(&value.name));
        wrong(field, &what, "write visible characters only", faults, broken);
    }
    wire::HeaderChange {
        set: of.set.iter().map(header).collect(),
        add: of.add.iter().map(header).collect(),
        remove: of.remove.clone(),
    }
}

fn redirect(
    of: &api::RedirectFilter,
    field: &str,
    place: &Place<'_>,
    faults: &mut Faults,
    broken: &mut Broken,
) -> wire::Redirect {
    if let Some(scheme) = of.scheme.as_deref().filter(|s| !matches!(*s, "http" | "https")) {
        unknown(scheme, &format!("{field}.scheme"), "use http or https", faults, broken);
    }
    let path = of.path.as_ref().and_then(|p| path_change(p, &format!("{field}.path"), place, faults, broken));
    let port = match of.port.map(super::super::port) {
        Some(None) => {
            wrong(&format!("{field}.port"), "is not a port", "write a number from 1 to 65535", faults, broken);
            None
        }
        other => other.flatten(),
    };
    let status = of.status_code.unwrap_or_default();
    if !matches!(status, 0 | 301 | 302 | 303 | 307 | 308) {
        let remedy = "use 301, 302, 303, 307 or 308";
        unknown(&status.to_string(), &format!("{field}.statusCode"), remedy, faults, broken);
    }
    wire::Redirect {
        scheme: of.scheme.clone().unwrap_or_default(),
        hostname: of.hostname.clone().unwrap_or_default(),
        path,
        port: port.map(u32::from).unwrap_or_default(),
        status: u32::try_from(status).unwrap_or_default(),
    }
}

fn path_change(
    of: &api::PathModifier,
    field: &str,
    place: &Place<'_>,
    faults: &mut Faults,
    broken: &mut Broken,
) -> Option<wire::PathChange> {
    use wire::path_change::Kind;
    let kind = match &of.type_ {
        Some(api::PathModifierType::Full) => Kind::Full(of.replace_full_path.clone().unwrap_or_default()),
        Some(api::PathModifierType::Prefix) => {
            if place.prefixes != 1 {
                let what = "the rule does not match exactly one PathPrefix, so there is nothing to replace";
                wrong(field, what, "give the rule one match with a PathPrefix", faults, broken);
            }
            Kind::Prefix(of.replace_prefix_match.clone().unwrap_or_default())
        }
        other => {
            let text = other.as_ref().map(|o| o.as_str()).unwrap_or_default();
            unknown(text, &format!("{field}.type"), "use ReplaceFullPath or ReplacePrefixMatch", faults, broken);
            return None;
        }
    };
    Some(wire::PathChange { kind: Some(kind) })
}

fn mirror(of: &api::MirrorFilter, field: &str, place: &Place<'_>, faults: &mut Faults, broken: &mut Broken) -> Filter {
    let to = read_target(&of.backend_ref, place.own, &format!("{field}.backendRef"));
    let share = match (of.percent, &of.fraction) {
        (None, None) => Some((0, 0)),
        (Some(percent), None) => u32::try_from(percent).ok().map(|p| (p, 100)),
        (None, Some(f)) => {
            u32::try_from(f.numerator).ok().zip(u32::try_from(f.denominator.unwrap_or(100)).ok().filter(|d| *d > 0))
        }
        (Some(_), Some(_)) => None,
    };
    let share = share.filter(|(numerator, denominator)| numerator <= denominator);
    if share.is_none() {
        let what = "the share is not one between nothing and all";
        wrong(field, what, "write percent from 0 to 100, or a fraction, not both", faults, broken);
    }
    let (numerator, denominator) = share.unwrap_or_default();
    Filter::Mirror(to, wire::Mirror { backend: None, numerator, denominator })
}

fn cors(of: &api::CorsFilter, field: &str, faults: &mut Faults, broken: &mut Broken) -> wire::Cors {
    if of.allow_origins.len() > 1 && of.allow_origins.iter().any(|o| o == "*") {
        let what = "* stands beside other origins";
        wrong(&format!("{field}.allowOrigins"), what, "write * alone, or name the origins", faults, broken);
    }
    let age = u32::try_from(of.max_age.unwrap_or_default()).unwrap_or_else(|_| {
        wrong(&format!("{field}.maxAge"), "is not a number of seconds", "write 1 or more", faults, broken);
        0
    });
    wire::Cors {
        allow_origins: of.allow_origins.clone(),
        allow_credentials: of.allow_credentials.unwrap_or_default(),
        allow_methods: of.allow_methods.clone(),
        allow_headers: of.allow_headers.clone(),
        expose_headers: of.expose_headers.clone(),
        max_age: age,
    }
}

fn auth(
    of: &api::ExternalAuthFilter,
    field: &str,
    place: &Place<'_>,
    faults: &mut Faults,
    broken: &mut Broken,
) -> Option<Filter> {
    let to = read_target(&of.backend_ref, place.own, &format!("{field}.backendRef"));
    let http = match &of.protocol {
        Some(api::AuthProtocol::Grpc) => false,
        Some(api::AuthProtocol::Http) => true,
        other => {
            let text = other.as_ref().map(|o| o.as_str()).unwrap_or_default();
            unknown(text, &format!("{field}.protocol"), "use GRPC or HTTP", faults, broken);
            return None;
        }
    };
    let (by_http, by_grpc) = (of.http.clone().unwrap_or_default(), of.grpc.clone().unwrap_or_default());
    let size = of.forward_body.as_ref().and_then(|b| b.max_size).unwrap_or_default();
    let max_body = u32::try_from(size).unwrap_or_else(|_| {
        wrong(&format!("{field}.forwardBody.maxSize"), "is not a size", "write a number of bytes", faults, broken);
        0
    });
    let made = wire::ExternalAuth {
        http,
        path_prefix: by_http.path.unwrap_or_default(),
        allowed_headers: if http { by_http.allowed_headers } else { by_grpc.allowed_headers },
        allowed_response_headers: by_http.allowed_response_headers,
        max_body,
        ..wire::ExternalAuth::default()
    };
    Some(Filter::Auth(to, made))
}
