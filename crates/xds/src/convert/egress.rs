//! What a workload may dial: an entry of `Workload.extensions` of our own (egress.proto).

use std::sync::Arc;

use mesh::workload::Egress;
use prost::Message;
use prost_types::Any;
use proto::workload::Extension;
use proto::{EGRESS_EXTENSION, EGRESS_TYPE};

use super::Reason;
use super::common::{ip, ip_bytes};
use super::texts::Texts;

/// Whether this is the entry.
pub(super) fn is(extension: &Extension) -> bool {
    extension.name == EGRESS_EXTENSION
}

/// Reads the entry, if there is one. Policies of several all count.
///
/// # Errors
/// When it cannot be read: a workload that might dial anything because nobody understands what it may dial is refused as a
/// whole.
pub(super) fn read(texts: &mut Texts, extensions: &[Extension]) -> Result<Option<Arc<Egress>>, Reason> {
    let mut found: Option<Egress> = None;
    for extension in extensions.iter().filter(|e| is(e)) {
        let field = || format!("extensions[{EGRESS_EXTENSION}].config");
        let any = extension.config.as_ref().ok_or_else(|| Reason::Missing { field: field() })?;
        if any.type_url != EGRESS_TYPE {
            return Err(Reason::Type(any.type_url.clone()));
        }
        let wire = proto::egress::Egress::decode(&*any.value).map_err(|e| Reason::Bytes(e.to_string()))?;
        let egress = found.get_or_insert_default();
        egress.policies.extend(wire.policies.iter().map(|name| texts.shared(name)));
        for address in &wire.exempt {
            egress.exempt.push(ip("extensions.egress.exempt", address)?);
        }
    }
    Ok(found.map(Arc::new))
}

/// Writes the entry.
pub(super) fn write(egress: Option<&Egress>) -> impl Iterator<Item = Extension> {
    let config = egress.map(|egress| {
        let wire = proto::egress::Egress {
            policies: egress.policies.iter().map(ToString::to_string).collect(),
            exempt: egress.exempt.iter().map(|a| ip_bytes(*a)).collect(),
        };
        Any { type_url: EGRESS_TYPE.to_owned(), value: wire.encode_to_vec() }
    });
    config.into_iter().map(|config| Extension { name: EGRESS_EXTENSION.to_owned(), config: Some(config) })
}
