//! JSON pointers (RFC 6901): from a path to its place in the text, and to the form that people read.

use crate::tree::{At, Data, Node};

/// What a pointer leads to.
pub(crate) struct Found {
    /// Where the key of the last segment stands; for list items and the root the same as `value`.
    pub(crate) key: At,
    /// Where the value stands. When the pointer leads nowhere: the deepest thing that exists.
    pub(crate) value: At,
    /// As in `pods[2].port`.
    pub(crate) field: String,
}

/// `pointer` with one more segment.
pub(crate) fn join(pointer: &str, segment: &str) -> String {
    format!("{pointer}/{}", segment.replace('~', "~0").replace('/', "~1"))
}

/// The segments of a pointer, unescaped.
pub(crate) fn segments(pointer: &str) -> impl Iterator<Item = String> {
    pointer.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~"))
}

/// Whether `above` is `pointer` or leads to something that holds it.
pub(crate) fn covers(above: &str, pointer: &str) -> bool {
    pointer.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Finds the place of a pointer.
pub(crate) fn locate(root: &Node, pointer: &str) -> Found {
    let mut found = Found { key: root.at, value: root.at, field: String::new() };
    let mut here = Some(root);
    for segment in segments(pointer) {
        let index = match here.map(|n| &n.data) {
            Some(Data::List(items)) => segment.parse::<usize>().ok().map(|i| (i, items.get(i))),
            _ => None,
        };
        if let Some((i, item)) = index {
            found.field.push_str(&format!("[{i}]"));
            here = item;
            if let Some(item) = item {
                (found.key, found.value) = (item.at, item.at);
            }
            continue;
        }
        push_key(&mut found.field, &segment);
        here = match here.map(|n| &n.data) {
            Some(Data::Map(entries)) => entries.iter().find(|e| e.key == segment).map(|e| {
                (found.key, found.value) = (e.at, e.value.at);
                &e.value
            }),
            _ => None,
        };
    }
    found
}

pub(crate) fn push_key(field: &mut String, key: &str) {
    let plain = !key.is_empty() && key.chars().all(|c| c.is_alphanumeric() || matches!(c, '_' | '-' | '/'));
    if !field.is_empty() {
        field.push('.');
    }
    if plain {
        field.push_str(key);
    } else {
        field.push_str(&format!("{key:?}"));
    }
}

/// The node that a pointer leads to.
pub(crate) fn find<'a>(root: &'a Node, pointer: &str) -> Option<&'a Node> {
    segments(pointer).try_fold(root, |node, segment| match &node.data {
        Data::List(items) => items.get(segment.parse::<usize>().ok()?),
        Data::Map(entries) => entries.iter().find(|e| e.key == segment).map(|e| &e.value),
        _ => None,
    })
}
