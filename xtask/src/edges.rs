//! The only arrows allowed between our crates (ARCHITECTURE.md, "Map").

use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};

/// Crate and what it may depend on. `unify` (which is empty) is allowed everywhere. A crate that is not listed is a broken rule, so a new one must be placed on the map first.
const ALLOWED: &[(&str, &[&str])] = &[
    // L0: data and formats.
    ("document", &[]),
    ("mesh", &[]),
    ("proto", &[]),
    ("redirect-abi", &[]),
    ("unify", &[]),
    // L1: decisions, pure.
    ("directory", &["mesh"]),
    ("policy", &["mesh"]),
    ("sniff", &["mesh"]),
    ("routing", &["mesh"]),
    // L2: one mechanism each.
    ("dns", &["directory", "mesh"]),
    ("hbone", &["mesh"]),
    ("identity", &["mesh", "proto"]),
    ("kubernetes", &["mesh"]),
    ("net", &["mesh"]),
    ("redirect-loader", &["redirect-abi"]),
    ("telemetry", &["mesh", "proto"]),
    ("xds", &["document", "mesh", "proto"]),
    ("zds", &["mesh", "proto"]),
    // L3: frames.
    ("chassis", &["document", "net", "telemetry"]),
    (
        "lab",
        &["document", "mesh", "net", "policy", "directory", "proto", "identity", "hbone", "xds", "zds", "telemetry"],
    ),
    (
        "proxy",
        &[
            "chassis",
            "directory",
            "document",
            "hbone",
            "identity",
            "mesh",
            "net",
            "policy",
            "proto",
            "telemetry",
            "xds",
        ],
    ),
    // L4: programs. None imports another.
    ("ca", &["chassis", "document", "identity", "kubernetes", "mesh", "proto", "telemetry"]),
    ("control", &["chassis", "document", "identity", "kubernetes", "mesh", "policy", "proto", "telemetry", "xds"]),
    ("culvert", &["document", "kubernetes", "lab", "mesh"]),
    (
        "node",
        &[
            "chassis",
            "document",
            "kubernetes",
            "mesh",
            "net",
            "proto",
            "redirect-abi",
            "redirect-loader",
            "telemetry",
            "zds",
        ],
    ),
    (
        "ztunnel",
        &[
            "chassis",
            "directory",
            "dns",
            "document",
            "hbone",
            "identity",
            "mesh",
            "net",
            "policy",
            "proxy",
            "telemetry",
            "xds",
            "zds",
        ],
    ),
    (
        "waypoint",
        &[
            "chassis",
            "directory",
            "document",
            "hbone",
            "identity",
            "mesh",
            "net",
            "policy",
            "proto",
            "proxy",
            "routing",
            "sniff",
            "telemetry",
            "xds",
        ],
    ),
    // Tools.
    ("bench", &["identity", "lab", "proto", "routing", "xds"]),
    ("e2e-cluster", &["document", "kubernetes", "lab", "mesh"]),
    ("e2e-lab", &["hbone", "identity", "lab", "mesh", "proto"]),
    ("xtask", &[]),
];

/// Level 4: nobody imports them, not even in tests.
const PROGRAMS: &[&str] = &["ca", "control", "culvert", "node", "waypoint", "ztunnel"];

/// External crates that only one of ours may use.
const SOLE_USERS: &[(&str, &str)] = &[
    ("aya", "redirect-loader"),
    ("h2", "hbone"),
    ("opentelemetry", "telemetry"),
    ("opentelemetry-otlp", "telemetry"),
    ("opentelemetry_sdk", "telemetry"),
    ("tracing-opentelemetry", "telemetry"),
    ("prometheus-client", "telemetry"),
    ("saphyr-parser", "document"),
];

/// Edges that are not on the map.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata failed")?;
    let ours: Vec<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    let mut faults = Vec::new();
    for package in &metadata.packages {
        let name = package.name.as_str();
        let Some((_, allowed)) = ALLOWED.iter().find(|(n, _)| *n == name) else {
            faults.push(format!("{name}: not on the map; place it in xtask/src/edges.rs and ARCHITECTURE.md"));
            continue;
        };
        for dependency in &package.dependencies {
            let to = dependency.name.as_str();
            let dev = dependency.kind == DependencyKind::Development;
            // Tests may use whatever they test with, but never a program.
            let free = to == "unify" || (dev && !PROGRAMS.contains(&to));
            if ours.contains(&to) && !free && !allowed.contains(&to) {
                faults.push(format!("{name} -> {to}: no such arrow on the map (xtask/src/edges.rs)"));
            }
            if let Some((_, user)) = SOLE_USERS.iter().find(|(d, u)| *d == to && *u != name)
                && !dev
            {
                faults.push(format!("{name} -> {to}: only {user} may use it"));
            }
        }
    }
    Ok(faults)
}
