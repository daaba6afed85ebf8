//! What the agent's thread wants done at the API server.

use super::facts::PodFacts;

/// One thing to do. The answers come back as input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// Write the annotation of a pod; `None` takes it away.
    Annotate { pod: PodRef, value: Option<&'static str> },
    /// Tell of a pod.
    Event { pod: PodRef, reason: &'static str, note: String },
    /// Ask for a pod and its namespace: the CNI plug-in knows it and the watch does not.
    Look { namespace: String, name: String },
}

/// A pod by its names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PodRef {
    /// The UID by which the agent knows it.
    pub(crate) uid: String,
    /// The UID of the object.
    pub(crate) object_uid: String,
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl From<&PodFacts> for PodRef {
    fn from(pod: &PodFacts) -> Self {
        Self {
            uid: pod.uid.clone(),
            object_uid: pod.object_uid.clone(),
            namespace: pod.namespace.clone(),
            name: pod.name.clone(),
        }
    }
}
