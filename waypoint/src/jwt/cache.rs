//! Tokens that were checked already: a signature costs some fifty microseconds, and clients repeat their tokens.

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256};

use super::Verified;

/// Tokens of one generation. Two generations of claims of about 1 KiB are some 2 MiB for each worker, and 1024 users at
/// one time are more than one worker serves between two expiries of its busiest tokens.
const GENERATION: usize = 1024;

/// Hash of a compilation of rules and of a token: never the token itself.
pub(crate) type Key = [u8; 32];

/// Checked tokens of one worker, bounded: when the young generation is full it becomes the old one, and what nobody asked
/// for since is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    young: HashMap<Key, Verified>,
    old: HashMap<Key, Verified>,
}

pub(super) fn key(rules: u64, token: &str) -> Key {
    let mut context = Context::new(&SHA256);
    context.update(&rules.to_be_bytes());
    context.update(token.as_bytes());
    let mut key = Key::default();
    key.copy_from_slice(context.finish().as_ref());
    key
}

impl Cache {
    pub(super) fn get(&mut self, key: &Key) -> Option<Verified> {
        if let Some(known) = self.young.get(key) {
            return Some(known.clone());
        }
        let known = self.old.remove(key)?;
        self.put(*key, known.clone());
        Some(known)
    }

    pub(super) fn put(&mut self, key: Key, verified: Verified) {
        if self.young.len() >= GENERATION {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(key, verified);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}
