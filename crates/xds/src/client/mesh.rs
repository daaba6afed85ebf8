//! From updates to changes in the words of the mesh.

use std::sync::Arc;

use proto::{ADDRESS_TYPE, AUTHORIZATION_TYPE, POD_NETWORKS_NAME, POD_NETWORKS_TYPE, ROUTING_TYPE};
use tokio::sync::mpsc;

use super::{Handler, Rejection, Stopped, Update};
use crate::convert::{
    Address, Texts, address_with, authorization_from_resource, pod_networks_from_resource, routing_from_resource,
    stand_in,
};
use crate::{Change, StandIn};

/// Converts each update and hands it to whoever keeps the world, who may let it wait.
#[derive(Clone, Debug)]
pub struct Changes(pub mpsc::Sender<Change>);

impl Handler for Changes {
    async fn apply(&mut self, update: Update) -> Result<Vec<Rejection>, Stopped> {
        let (change, rejections) = to_change(update);
        if !change.is_empty() {
            self.0.send(change).await.map_err(|_| Stopped)?;
        }
        Ok(rejections)
    }
}

/// The change that an update makes, and the resources in it that were not understood.
pub fn to_change(update: Update) -> (Change, Vec<Rejection>) {
    let mut rejections = Vec::new();
    let mut texts = Texts::default();
    let mut change = Change { answered: update.answered, synced: update.synced, ..Change::default() };
    for resource in &update.upserts {
        let result = match update.type_url {
            ADDRESS_TYPE => address_with(&mut texts, resource).map(|address| match address {
                Address::Service(s) => change.services.push(s),
                Address::Workload(w) => change.workloads.push(w),
            }),
            AUTHORIZATION_TYPE => authorization_from_resource(resource).map(|p| change.policies.push(p)),
            POD_NETWORKS_TYPE => pod_networks_from_resource(resource).map(|all| change.pod_networks = Some(all)),
            ROUTING_TYPE => routing_from_resource(resource).map(|r| change.routing.push(r)),
            other => Err(crate::convert::Reason::Type(other.to_owned())),
        };
        if let Err(reason) = result {
            if update.type_url == AUTHORIZATION_TYPE
                && let Some(policy) = stand_in(resource)
            {
                change.stand_ins.push(StandIn { policy, reason: reason.to_string().into() });
            }
            rejections.push(Rejection { name: resource.name.clone(), reason: reason.to_string() });
        }
    }
    let removals: Vec<Arc<str>> = update.removals;
    match update.type_url {
        AUTHORIZATION_TYPE => change.removed_policies = removals,
        // There is one, so what came in the same response is newer than its removal. One that was refused leaves what was known.
        POD_NETWORKS_TYPE => {
            if update.upserts.is_empty() && removals.iter().any(|name| **name == *POD_NETWORKS_NAME) {
                change.pod_networks = Some(Vec::new());
            }
        }
        ROUTING_TYPE => change.removed_routing = removals,
        _ => change.removed = removals,
    }
    // A picture with a hole in it is not complete: the acknowledgement failed, and so does this.
    change.synced &= rejections.is_empty();
    (change, rejections)
}
