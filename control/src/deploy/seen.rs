//! What was seen of Gateways, classes, and of what was made for them; and what a change touches.

use kubernetes::object::GATEWAY_NAME;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::api::ApiResource;
use kube::core::GroupVersionKind;
use serde_json::Value;

use super::class;
use crate::config::waypoint::OwnIstioNames;

/// Kinds that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    Autoscaler,
    Budget,
    Class,
    Deployment,
    Gateway,
    /// Services called `istiod`: Istio's control plane is here.
    Istiod,
    NetworkPolicy,
    Service,
    ServiceAccount,
}

impl Kind {
    /// All of them.
    pub(crate) const ALL: [Self; 9] = [
        Self::Autoscaler,
        Self::Budget,
        Self::Class,
        Self::Deployment,
        Self::Gateway,
        Self::Istiod,
        Self::NetworkPolicy,
        Self::Service,
        Self::ServiceAccount,
    ];

    /// Those that we make for Gateways.
    const MADE: [Self; 6] =
        [Self::Autoscaler, Self::Budget, Self::Deployment, Self::NetworkPolicy, Self::Service, Self::ServiceAccount];

    /// Group, version and kind.
    pub(crate) fn names(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Autoscaler => ("autoscaling", "v2", "HorizontalPodAutoscaler"),
            Self::Budget => ("policy", "v1", "PodDisruptionBudget"),
            Self::Class => ("gateway.networking.k8s.io", "v1", "GatewayClass"),
            Self::Deployment => ("apps", "v1", "Deployment"),
            Self::Gateway => ("gateway.networking.k8s.io", "v1", "Gateway"),
            Self::NetworkPolicy => ("networking.k8s.io", "v1", "NetworkPolicy"),
            Self::Istiod | Self::Service => ("", "v1", "Service"),
            Self::ServiceAccount => ("", "v1", "ServiceAccount"),
        }
    }

    /// For the API.
    pub(crate) fn resource(self) -> ApiResource {
        let (group, version, kind) = self.names();
        ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind))
    }

    /// The kind of a document that we made.
    pub(crate) fn of(document: &Value) -> Option<Self> {
        let kind = document["kind"].as_str()?;
        Self::MADE.into_iter().find(|k| k.names().2 == kind)
    }
}

/// Namespace and name.
pub(crate) type Name = (String, String);

/// What happened.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Event {
    /// All objects of a kind are about to be listed.
    Begin(Kind),
    /// An object is there, new or different.
    Apply(Kind, Box<Value>),
    /// An object is gone.
    Remove(Kind, Name),
    /// The list is complete.
    Finish(Kind),
}

/// Work that a change makes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Task {
    /// Gateways that are wanted and that nobody made.
    Automatic,
    /// The classes.
    Classes,
    /// One Gateway.
    Gateway(Name),
}

/// Everything about one Gateway.
#[derive(Clone, Debug)]
pub(crate) struct Scene {
    /// The Gateway.
    pub(crate) gateway: Arc<Value>,
    /// Its class, if there is one.
    pub(crate) class: Option<Arc<Value>>,
    /// Whether the class is ours to serve.
    pub(crate) ours: bool,
    /// What was made for it, by kind and name.
    pub(crate) made: BTreeMap<(Kind, String), Arc<Value>>,
    /// Services of it that wait for nodes, `namespace/name`.
    pub(crate) waiting: Vec<String>,
}

/// What was seen.
#[derive(Debug)]
pub(crate) struct Seen {
    objects: BTreeMap<(Kind, Name), Arc<Value>>,
    /// While a kind is listed: what was not listed yet.
    unseen: BTreeMap<Kind, BTreeSet<Name>>,
    awaited: BTreeSet<Kind>,
    policy: OwnIstioNames,
}

impl Seen {
    pub(crate) fn new(policy: OwnIstioNames) -> Self {
        Self { objects: BTreeMap::new(), unseen: BTreeMap::new(), awaited: Kind::ALL.into_iter().collect(), policy }
    }

    /// Whether every kind was listed once. Before that an object that is there may look absent.
    pub(crate) fn complete(&self) -> bool {
        self.awaited.is_empty()
    }

    /// Takes an event in, and says what it touches.
    pub(crate) fn apply(&mut self, event: Event) -> BTreeSet<Task> {
        match event {
            Event::Begin(kind) => {
                let names = self.of_kind(kind).map(|(name, _)| name.clone()).collect();
                self.unseen.insert(kind, names);
                BTreeSet::new()
            }
            Event::Apply(kind, object) => {
                let name = name_of(&object);
                if let Some(unseen) = self.unseen.get_mut(&kind) {
                    unseen.remove(&name);
                }
                let object = Arc::from(object);
                let before = self.objects.insert((kind, name), Arc::clone(&object));
                self.touched(kind, before.as_deref(), Some(&object))
            }
            Event::Remove(kind, name) => {
                let before = self.objects.remove(&(kind, name));
                self.touched(kind, before.as_deref(), None)
            }
            Event::Finish(kind) => {
                let gone = self.unseen.remove(&kind).unwrap_or_default();
                let mut touched = BTreeSet::new();
                for name in gone {
                    touched.extend(self.apply(Event::Remove(kind, name)));
                }
                // Once everything is known all is looked at, the classes first.
                if self.awaited.remove(&kind) && self.awaited.is_empty() {
                    touched.insert(Task::Classes);
                    touched.extend(self.all_gateways());
                }
                touched
            }
        }
    }

    fn touched(&self, kind: Kind, before: Option<&Value>, after: Option<&Value>) -> BTreeSet<Task> {
        let some = after.or(before);
        match kind {
            Kind::Gateway => after.map(|object| Task::Gateway(name_of(object))).into_iter().collect(),
            Kind::Class => {
                let mut tasks = BTreeSet::from([Task::Classes]);
                // A status that was written changes nothing for its Gateways.
                let identity = |of: Option<&Value>| {
                    of.map(|o| (o["metadata"]["uid"].clone(), o["metadata"]["generation"].clone()))
                };
                let class = some.map(|o| o["metadata"]["name"].clone()).unwrap_or_default();
                if identity(before) != identity(after) {
                    tasks.extend(self.gateways().filter(|(_, g)| g["spec"]["gatewayClassName"] == class).map(task));
                }
                tasks
            }
            Kind::Istiod => {
                let mut tasks: BTreeSet<Task> = self.all_gateways().collect();
                tasks.insert(Task::Classes);
                tasks
            }
            Kind::Autoscaler
            | Kind::Budget
            | Kind::Deployment
            | Kind::NetworkPolicy
            | Kind::Service
            | Kind::ServiceAccount => {
                let named = |o: &Value| {
                    let (namespace, _) = name_of(o);
                    let gateway = o["metadata"]["labels"][GATEWAY_NAME].as_str()?.to_owned();
                    Some(Task::Gateway((namespace, gateway)))
                };
                [before, after].into_iter().flatten().filter_map(named).collect()
            }
        }
    }

    /// Whether Istio's names are ours now.
    pub(crate) fn istio_names(&self) -> bool {
        match self.policy {
            OwnIstioNames::Always => true,
            OwnIstioNames::Auto => self.of_kind(Kind::Istiod).next().is_none(),
            OwnIstioNames::Never => false,
        }
    }

    /// The classes.
    pub(crate) fn classes(&self) -> Vec<Arc<Value>> {
        self.of_kind(Kind::Class).map(|(_, class)| class.clone()).collect()
    }

    /// Everything about a Gateway; `None` when it is gone or going.
    pub(crate) fn scene(&self, name: &Name) -> Option<Scene> {
        let gateway = self.objects.get(&(Kind::Gateway, name.clone()))?.clone();
        if gateway["metadata"]["deletionTimestamp"].is_string() {
            return None;
        }
        let class = gateway["spec"]["gatewayClassName"].as_str().unwrap_or_default().to_owned();
        let class = self.objects.get(&(Kind::Class, (String::new(), class))).cloned();
        let controller = class.as_ref().and_then(|c| c["spec"]["controllerName"].as_str()).unwrap_or_default();
        let ours = class::is_ours(controller, self.istio_names());
        let uid = &gateway["metadata"]["uid"];
        let mut made = BTreeMap::new();
        for kind in Kind::MADE {
            let here = self.of_kind(kind).filter(|((namespace, _), _)| *namespace == name.0);
            let own = here.filter(|(_, object)| owner(object).is_some_and(|o| o["uid"] == *uid));
            made.extend(own.map(|((_, object_name), object)| ((kind, object_name.clone()), object.clone())));
        }
        Some(Scene { gateway, class, ours, made, waiting: Vec::new() })
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&Name, &Arc<Value>)> {
        let first = (kind, (String::new(), String::new()));
        self.objects.range(first..).take_while(move |((k, _), _)| *k == kind).map(|((_, name), object)| (name, object))
    }

    fn gateways(&self) -> impl Iterator<Item = (&Name, &Arc<Value>)> {
        self.of_kind(Kind::Gateway)
    }

    fn all_gateways(&self) -> impl Iterator<Item = Task> {
        self.gateways().map(task)
    }
}

fn task((name, _): (&Name, &Arc<Value>)) -> Task {
    Task::Gateway(name.clone())
}

/// Namespace and name of an object.
pub(crate) fn name_of(object: &Value) -> Name {
    let text = |pointer| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    (text("/metadata/namespace"), text("/metadata/name"))
}

/// Who controls an object.
pub(crate) fn owner(object: &Value) -> Option<&Value> {
    object.pointer("/metadata/ownerReferences")?.as_array()?.iter().find(|o| o["controller"] == true)
}

#[cfg(test)]
#[path = "seen_tests.rs"]
mod tests;
