//! Kubernetes as Culvert's programs see it: the client, who calls (token review), objects of ours and of Istio, and how
//! their status is written.

pub mod client;
pub mod network_policy;
pub mod object;
pub mod review;
pub mod selector;
pub mod status;
