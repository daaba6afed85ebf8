//! A laboratory: nodes and pods as network namespaces on one machine, our programs between them, and faults on demand.
//!
//! One YAML document ([`Spec`]) says which nodes, pods, services and policies there are. [`Lab::up`] raises it: a wire
//! namespace with a bridge that every packet between nodes crosses, a namespace per node, and behind each node a
//! namespace per pod, joined by a veth pair. Where at least one pod is in the mesh, it also starts the certificate
//! authority, and a node agent and a ztunnel per node, from the folder of its own executable, each with a configuration
//! file as a user would write it. Pods run real programs.
//!
//! Nothing of a lab lives outside its namespaces but three things: its folder `/run/culvert/lab/<name>`, its control
//! groups `culvert-lab-<name>`, and its processes, which are all in these control groups. So [`down`] cleans up from
//! these alone, also when the one who raised the lab was killed half way.
//!
//! Where to look: `spec` (the document) → `plan` (addresses, names; pure) → `up` (the story of raising) → `links`,
//! `netns`, `cgroup`, `process`, `inside` (one mechanism each) → `programs` (ours) with `config` (their files) → `lab`
//! (the handle) with `command`, `capture`, `fault`, `admin`, `status` → `down`.

mod admin;
mod caps;
mod capture;
mod cgroup;
mod collector;
mod command;
mod config;
mod delay;
mod down;
mod error;
mod fault;
mod hosts;
mod inside;
mod lab;
mod links;
mod netns;
mod paths;
mod plan;
mod process;
mod programs;
mod revoke;
mod spec;
mod spec_check;
mod spec_policy;
mod state;
mod status;
mod tools;
mod up;
mod users;
mod wait;
mod waypoints;

pub use admin::{Answer, http_get};
pub use capture::{Capture, Captured};
pub use collector::{LogRecord, Span as CollectedSpan, ensure_collector};
pub use command::{Finished, Guard, InsideCommand, Running};
pub use down::{down, labs};
pub use error::LabError;
pub use fault::{Fault, FaultEntry};
pub use inside::{HELPER, run_helper};
pub use lab::{Lab, Options, Place};
pub use plan::{NodePlan, Plan, PodPlan, ServicePlan};
pub use spec::{Files, Node, OtlpTo, Pod, Ready, SameNode, Service, Spec, Telemetry, Waypoint};
pub use spec_policy::{Match, NamedAccount, Policy, PolicyAction, PolicyScope, TextMatch};
pub use status::{NodeStatus, PodStatus, ProcessStatus, ServiceStatus, Status};
pub use up::need_root;
