//! Path prefixes, element by element.

use std::hash::{Hash, Hasher};

use hashbrown::{Equivalent, HashMap};

use crate::slot::Slot;

/// A tree of path elements with all its edges in one map. The root, which is the prefix `/`, has no slot here: the router
/// looks at it last of all.
#[derive(Debug)]
pub(crate) struct Prefixes {
    nodes: Vec<Node>,
    edges: HashMap<Edge, u32>,
}

#[derive(Debug)]
struct Node {
    parent: u32,
    /// Bytes of the prefix that leads here.
    length: usize,
    slot: Slot,
}

/// From a node by an element.
#[derive(Debug, PartialEq, Eq)]
struct Edge {
    from: u32,
    element: Box<str>,
}

impl Hash for Edge {
    fn hash<H: Hasher>(&self, state: &mut H) {
        EdgeView { from: self.from, element: &self.element }.hash(state);
    }
}

#[derive(Hash)]
struct EdgeView<'a> {
    from: u32,
    element: &'a str,
}

impl Equivalent<Edge> for EdgeView<'_> {
    fn equivalent(&self, key: &Edge) -> bool {
        self.from == key.from && *self.element == *key.element
    }
}

const ROOT: u32 = 0;

impl Default for Prefixes {
    fn default() -> Self {
        Self { nodes: vec![Node { parent: ROOT, length: 0, slot: Slot::default() }], edges: HashMap::new() }
    }
}

impl Prefixes {
    /// The slot of a prefix that begins with a slash, does not end with one, and is not empty.
    pub(crate) fn slot(&mut self, prefix: &str) -> &mut Slot {
        let mut at = ROOT;
        let mut length = 0;
        for element in elements(prefix) {
            length += 1 + element.len();
            at = match self.edges.get(&EdgeView { from: at, element }) {
                Some(there) => *there,
                None => {
                    let new = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
                    self.nodes.push(Node { parent: at, length, slot: Slot::default() });
                    self.edges.insert(Edge { from: at, element: element.into() }, new);
                    new
                }
            };
        }
        &mut self.nodes[at as usize].slot
    }

    pub(crate) fn finish(&mut self) {
        self.nodes.iter_mut().for_each(|n| n.slot.finish());
        self.nodes.shrink_to_fit();
        self.edges.shrink_to_fit();
    }

    /// The slots of all prefixes of a path with their lengths, longest first, without the root.
    pub(crate) fn along(&self, path: &str) -> impl Iterator<Item = (usize, &Slot)> {
        let mut at = ROOT;
        for element in elements(path) {
            match self.edges.get(&EdgeView { from: at, element }) {
                Some(there) => at = *there,
                None => break,
            }
        }
        std::iter::successors((at != ROOT).then_some(at), |at| {
            self.nodes.get(*at as usize).map(|n| n.parent).filter(|p| *p != ROOT)
        })
        .filter_map(|at| self.nodes.get(at as usize).map(|n| (n.length, &n.slot)))
    }
}

/// What is between the slashes; nothing when there is none at the beginning (`*`, or the empty path of CONNECT).
fn elements(path: &str) -> impl Iterator<Item = &str> {
    path.strip_prefix('/').into_iter().flat_map(|rest| rest.split('/'))
}
