//! Routes of connections: TCPRoute and TLSRoute (gateway-api.md 5).

use std::sync::Arc;

use hashbrown::HashMap;

use crate::mistake::{Mistake, Workbench};
use crate::model::{Backend, RouteName, TcpTable, TlsTable};
use crate::split::Split;
use crate::target::Target;

/// Where connections go, by weight.
#[derive(Debug)]
pub struct TcpRouter {
    /// Where it comes from.
    pub name: Arc<RouteName>,
    /// All backends.
    pub targets: Vec<Arc<Target>>,
    split: Split,
}

/// A connection that must be refused actively (reset), and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The backend that was chosen by weight is not usable.
    BackendInvalid(Arc<str>),
    /// No backend has a weight.
    NoBackend,
    /// No rule takes this server name.
    NoRoute,
}

impl TcpRouter {
    pub(crate) fn new(table: &TcpTable, bench: &mut Workbench, mistakes: &mut Vec<Mistake>) -> Self {
        Self::of(&table.route, &table.backends, bench, mistakes)
    }

    fn of(route: &RouteName, backends: &[Backend], bench: &mut Workbench, mistakes: &mut Vec<Mistake>) -> Self {
        let name = Arc::new(route.clone());
        let targets: Vec<Arc<Target>> = (backends.iter().enumerate())
            .map(|(i, b)| {
                let place = format!("backendRefs[{i}]");
                if !b.filters.is_empty() {
                    bench.note(&place, "connections have no filters");
                }
                Arc::new(Target::new(bench, &place, b))
            })
            .collect();
        let found = bench.take().into_iter().chain(bench.take_lesser());
        mistakes.extend(found.map(|problem| Mistake { route: name.clone(), problem }));
        let split = Split::new(targets.iter().map(|t| t.weight));
        Self { name, targets, split }
    }

    /// The backend of the next connection.
    ///
    /// # Errors
    /// When there is none, or the chosen one is not usable: its share is refused and not given to others.
    pub fn pick(&self) -> Result<Arc<Target>, Refusal> {
        let target = self.split.next().and_then(|i| self.targets.get(i)).ok_or(Refusal::NoBackend)?;
        match &target.invalid {
            Some(reason) => Err(Refusal::BackendInvalid(reason.clone())),
            None => Ok(target.clone()),
        }
    }
}

/// Where connections go, by server name and weight.
#[derive(Debug)]
pub struct TlsRouter {
    rules: Vec<TcpRouter>,
    exact: HashMap<Box<str>, usize>,
    /// By what follows the star and its dot.
    suffixes: HashMap<Box<str>, usize>,
    everything: Option<usize>,
}

impl TlsRouter {
    pub(crate) fn new(table: &TlsTable, bench: &mut Workbench, mistakes: &mut Vec<Mistake>) -> Self {
        let mut made = Self { rules: Vec::new(), exact: HashMap::new(), suffixes: HashMap::new(), everything: None };
        for (at, rule) in table.rules.iter().enumerate() {
            if rule.server_names.is_empty() {
                made.everything.get_or_insert(at);
            }
            for (i, name) in rule.server_names.iter().enumerate() {
                let name = canonical(name);
                // The first rule of a name has it: rules come in the order that decides.
                match name.strip_prefix("*.") {
                    Some(suffix) if sound(suffix) => {
                        made.suffixes.entry(suffix.into()).or_insert(at);
                    }
                    None if sound(&name) => {
                        made.exact.entry(name.into()).or_insert(at);
                    }
                    _ => bench.note(&format!("hostnames[{i}]"), format!("{name:?} is not a host name or *.host name")),
                }
            }
            made.rules.push(TcpRouter::of(&rule.route, &rule.backends, bench, mistakes));
        }
        made
    }

    /// The rule for a server name, the most specific first: exactly, then by the longest suffix, then rules for every
    /// name. A client that sends none meets only the last.
    pub fn route(&self, server_name: Option<&str>) -> Option<&TcpRouter> {
        let named = server_name.map(canonical).and_then(|name| self.named(&name));
        named.or(self.everything).and_then(|at| self.rules.get(at))
    }

    /// The backend of the next connection with this server name.
    ///
    /// # Errors
    /// As [`TcpRouter::pick`], and when no rule takes the name.
    pub fn pick(&self, server_name: Option<&str>) -> Result<Arc<Target>, Refusal> {
        self.route(server_name).ok_or(Refusal::NoRoute)?.pick()
    }

    fn named(&self, name: &str) -> Option<usize> {
        if let Some(at) = self.exact.get(name) {
            return Some(*at);
        }
        // A star stands for one label or more (TLSRoute, `hostnames`).
        let mut rest = name;
        while let Some((_, suffix)) = rest.split_once('.') {
            if let Some(at) = self.suffixes.get(suffix) {
                return Some(*at);
            }
            rest = suffix;
        }
        None
    }
}

/// Lower case, without the dot of the root.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

fn sound(name: &str) -> bool {
    !name.is_empty()
        && !name.contains("..")
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_'))
}

#[cfg(test)]
#[path = "layer4_tests.rs"]
mod tests;
