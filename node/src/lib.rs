//! The node agent. It decides which pods are captured, owns the redirector's programs and pins, and hands pods to the
//! node proxy. Pods come from a file ([`config::PodsFile`]) or from Kubernetes; on Kubernetes new pods come by the chained
//! CNI plug-in ([`cni::plugin`]), a program of its own.

mod agent;
pub mod app;
pub mod cni;
pub mod config;
mod file;
mod find;
mod kubernetes;
mod meters;
mod status;
