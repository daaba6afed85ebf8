//! What this node knows of the mesh, asked with the eyes of a pod.

use std::sync::Arc;

use mesh::Workload;
use proxy::World;

use crate::pod::Pod;

/// The workload that a pod of this node is.
pub(crate) trait OfPod {
    /// Waiting up to [`proxy::HOLD`] for discovery to name it.
    async fn local(&self, pod: &Pod) -> Option<Arc<Workload>>;

    /// If discovery has named it: as it is now, or as it was before discovery dropped it.
    fn local_now(&self, pod: &Pod) -> Option<Arc<Workload>>;
}

impl OfPod for World {
    async fn local(&self, pod: &Pod) -> Option<Arc<Workload>> {
        self.held(|| self.local_now(pod)).await
    }

    fn local_now(&self, pod: &Pod) -> Option<Arc<Workload>> {
        let info = pod.info();
        pod.workload(self.directory().local_workload(&info.namespace, &info.name, &info.service_account))
    }
}
