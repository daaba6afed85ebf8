//! Texts that many resources have in common.

use std::collections::HashSet;
use std::sync::Arc;

/// Gives one memory to equal texts. The workloads of a mesh have some eighteen texts each, and nearly all of them
/// (namespace, node, service account, zone and the empty text) are those of thousands of others.
#[derive(Debug, Default)]
pub(crate) struct Texts(HashSet<Arc<str>>);

impl Texts {
    /// The text, in the memory that it has already.
    pub(crate) fn shared(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.0.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        self.0.insert(new.clone());
        new
    }
}
