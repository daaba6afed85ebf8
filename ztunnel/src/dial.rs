//! New tunnels of a pod: from inside it, with its certificate.

use std::sync::Arc;

use hbone::{Dial, Dialled, PoolKey};
use proxy::dial::{DialError, Transport, Way, dial};

use crate::here::Shared;
use crate::pod::Pod;

/// Dials for one pod.
pub(crate) struct PodDialer {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pod: Arc<Pod>,
}

impl Dial for PodDialer {
    type Io = Transport;
    type Error = DialError;

    async fn dial(&self, key: &PoolKey) -> Result<Dialled<Self::Io>, DialError> {
        let way = Way {
            identities: &self.shared.identities,
            netns: Some(self.pod.netns()),
            mark: self.shared.egress_mark(),
            revocable: self.shared.config.crl_file.is_some(),
        };
        dial(way, key).await
    }
}
