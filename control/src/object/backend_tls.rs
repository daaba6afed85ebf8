//! BackendTLSPolicy: TLS to the endpoints of a Service (gateway-api.md 7).

use std::sync::Arc;

use kubernetes::object as api;
use proto::routing as wire;

use super::route::CONTROLLER;
use super::{Faults, Key, Kind, Meta, Pool, shown};

/// A BackendTLSPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendTlsPolicy {
    /// Names, age, generation.
    pub meta: Meta,
    /// Services, and the names of ports where they are said.
    pub targets: Vec<(Key, Option<Arc<str>>)>,
    /// The message, without roots.
    pub ready: wire::BackendTls,
    /// Whose roots.
    pub roots: Roots,
    /// Its status has entries of ours.
    pub reported: bool,
    /// What is wrong with it.
    pub faults: Faults,
}

/// Where the roots are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Roots {
    /// In these ConfigMaps of the policy's namespace; or why an object cannot be one.
    Maps(Vec<Result<Arc<str>, String>>),
    /// With the system.
    System,
    /// Not said, or said twice.
    Unclear,
}

impl From<&api::BackendTlsPolicy> for BackendTlsPolicy {
    fn from(policy: &api::BackendTlsPolicy) -> Self {
        let mut faults = Faults::default();
        let meta = Meta::new(&policy.metadata);
        let of = &policy.spec.validation;
        let targets = policy.spec.target_refs.iter().enumerate().filter_map(|(i, t)| {
            if (t.group.as_str(), t.kind.as_str()) != ("", "Service") {
                let what = format!("{} of group {} cannot be a target", shown(&t.kind), shown(&t.group));
                faults.add(format!("spec.targetRefs[{i}]"), what, "name a Service");
                return None;
            }
            let key = Key::new(Kind::Service, meta.namespace.clone(), t.name.as_str());
            Some((key, t.section_name.as_deref().map(Arc::from)))
        });
        let targets = targets.collect();
        let names = of.subject_alt_names.iter().enumerate().filter_map(|(i, name)| {
            let text = match name.type_ {
                Some(api::AltNameType::Hostname) => name.hostname.clone(),
                Some(api::AltNameType::Uri) => name.uri.clone(),
                _ => None,
            };
            if text.is_none() {
                let what = "has no value of its type, so it matches nothing";
                faults.add(
                    format!("spec.validation.subjectAltNames[{i}]"),
                    what,
                    "write hostname or uri, as type says",
                );
            }
            text
        });
        let names: Vec<String> = names.collect();
        let invalid = (names.is_empty() && !of.subject_alt_names.is_empty())
            .then(|| wire::Invalid { reason: "spec.validation.subjectAltNames: none of them can be read".to_owned() });
        let ready = wire::BackendTls {
            server_name: of.hostname.clone(),
            subject_alt_names: names,
            invalid,
            ..wire::BackendTls::default()
        };
        Self {
            targets,
            ready,
            roots: roots(of, &mut faults),
            reported: policy.status.iter().flat_map(|s| &s.ancestors).any(|a| a.controller_name == CONTROLLER),
            meta,
            faults,
        }
    }
}

fn roots(of: &api::BackendTlsValidation, faults: &mut Faults) -> Roots {
    match (&of.well_known_ca_certificates, &of.ca_certificate_refs[..]) {
        (None, refs @ [_, ..]) => Roots::Maps(
            refs.iter()
                .map(|r| match (r.group.as_str(), r.kind.as_str()) {
                    ("" | "core", "ConfigMap") => Ok(Arc::from(r.name.as_str())),
                    (group, kind) => Err(format!("{} of group {} holds no roots", shown(kind), shown(group))),
                })
                .collect(),
        ),
        (Some(api::WellKnownRoots::System), []) => Roots::System,
        _ => {
            let what = "exactly one of caCertificateRefs and wellKnownCACertificates: System is needed";
            faults.add("spec.validation", what, "keep one of the two");
            Roots::Unclear
        }
    }
}

impl BackendTlsPolicy {
    pub(super) fn share(&mut self, pool: &mut Pool) {
        self.meta.share(pool);
    }
}
