//! Compiles the .proto files with protox: no protoc needed on the machine that builds.

use std::error::Error;

const FILES: [&str; 11] = [
    "workload.proto",
    "egress.proto",
    "network.proto",
    "node.proto",
    "authorization.proto",
    "discovery.proto",
    "ca.proto",
    "zds.proto",
    "routing.proto",
    "ext_authz.proto",
    "ext_proc.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=wire");
    let descriptors = protox::compile(FILES, ["wire"])?;
    tonic_prost_build::configure()
        // Ordered maps: the same message always has the same bytes, which versions by hash rely on.
        .btree_map(".")
        .compile_fds(descriptors)?;
    Ok(())
}
