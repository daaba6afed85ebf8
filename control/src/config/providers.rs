//! Who is asked by policies with action CUSTOM: section `extensionProviders` of `control.yaml`, with the names of Istio's
//! MeshConfig.

use std::collections::BTreeMap;
use std::sync::Arc;

use document::{Report, Span};
use proto::routing as wire;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::object::route::wire_duration;
use crate::world;

/// An authorizer: exactly one of the two ways to ask it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Provider {
    /// Name that policies use.
    pub name: String,
    /// Asked by Envoy's ext_authz v3.
    pub envoy_ext_authz_grpc: Option<Asked>,
    /// Asked by a copy of the request's head.
    pub envoy_ext_authz_http: Option<Asked>,
}

/// How an authorizer is asked.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Asked {
    /// Host name of its service, or `namespace/hostname`.
    pub service: String,
    /// Port of the service.
    pub port: u16,
    /// How long an answer may take; a second when absent.
    pub timeout: Option<Span>,
    /// Whether requests pass while it does not answer. No by default.
    pub fail_open: bool,
    /// The answer to a client while it does not answer; 403 when absent.
    pub status_on_error: Option<u16>,
    /// What stands before the request's path when it is asked by HTTP.
    pub path_prefix: Option<String>,
    /// Headers of the request that it sees, beside those that it always sees, when it is asked by HTTP.
    pub include_request_headers_in_check: Vec<String>,
    /// Headers of its answer that the backend sees, when it is asked by HTTP.
    pub headers_to_upstream_on_allow: Vec<String>,
    /// What it sees of the request's body. Nothing when absent.
    pub include_request_body_in_check: Option<Body>,
}

/// What an authorizer sees of a body.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
pub struct Body {
    /// Bytes; a larger body is refused.
    pub max_request_bytes: u32,
}

impl Provider {
    fn asked(&self) -> Option<(&Asked, bool)> {
        match (&self.envoy_ext_authz_grpc, &self.envoy_ext_authz_http) {
            (Some(asked), None) => Some((asked, false)),
            (None, Some(asked)) => Some((asked, true)),
            _ => None,
        }
    }
}

/// Checks all of them.
pub(super) fn check(all: &[Provider], report: &mut Report) {
    for (i, provider) in all.iter().enumerate() {
        let at = format!("/extensionProviders/{i}");
        if provider.name.is_empty() || all.iter().take(i).any(|p| p.name == provider.name) {
            report.at(&format!("{at}/name")).mistake("empty, or used twice", "give each a name of its own");
        }
        match provider.asked() {
            None => report.at(&at).mistake(
                "exactly one of envoyExtAuthzGrpc and envoyExtAuthzHttp is needed",
                "keep one of the two; other kinds of providers are not for authorization",
            ),
            Some((asked, http)) => {
                let at = format!("{at}/{}", if http { "envoyExtAuthzHttp" } else { "envoyExtAuthzGrpc" });
                asked.check(&at, report);
            }
        }
    }
}

impl Asked {
    fn check(&self, at: &str, report: &mut Report) {
        let code = self.status_on_error.unwrap_or(403);
        for (field, wrong, what, remedy) in [
            ("service", self.service.is_empty(), "empty", "name its host name, such as authz.tools.svc.cluster.local"),
            ("port", self.port == 0, "0 is not a port", "name the port of the service"),
            ("statusOnError", !(400..600).contains(&code), "not the code of an error", "use 400 to 599"),
        ] {
            if wrong {
                report.at(&format!("{at}/{field}")).mistake(what, remedy);
            }
        }
    }
}

/// What translation is told of them.
pub(crate) fn providers(all: &[Provider]) -> BTreeMap<Arc<str>, world::Provider> {
    let one = |provider: &Provider| {
        let (asked, http) = provider.asked()?;
        let (namespace, host) = match asked.service.split_once('/') {
            Some((namespace, host)) => (Some(namespace.into()), host),
            None => (None, asked.service.as_str()),
        };
        let ask = wire::ExternalAuth {
            backend: None,
            http,
            path_prefix: asked.path_prefix.clone().unwrap_or_default(),
            allowed_headers: asked.include_request_headers_in_check.clone(),
            allowed_response_headers: asked.headers_to_upstream_on_allow.clone(),
            max_body: asked.include_request_body_in_check.as_ref().map(|b| b.max_request_bytes).unwrap_or_default(),
            timeout: asked.timeout.map(|t| wire_duration(t.get())),
            fail_open: asked.fail_open,
            status_on_error: asked.status_on_error.unwrap_or_default().into(),
        };
        let host = host.to_ascii_lowercase().into();
        Some((provider.name.as_str().into(), world::Provider { namespace, host, port: asked.port, ask }))
    };
    all.iter().filter_map(one).collect()
}
