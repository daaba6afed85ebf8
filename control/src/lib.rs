//! The control plane: watches Kubernetes and serves delta xDS.
//!
//! `watch` trims objects on arrival (`object`) and hands them to the [`world`], which translates only what an object
//! touches; `serve` hands the result to those who may see it; `status` writes back what users should know.
