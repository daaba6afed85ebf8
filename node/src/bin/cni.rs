//! `culvert-cni`: the chained CNI plug-in. Container runtimes run it; people do not.

use std::collections::BTreeMap;
use std::process::ExitCode;

fn main() -> ExitCode {
    let variable = |(key, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((key.into_string().ok()?, value.into_string().ok()?))
    };
    let environment: BTreeMap<String, String> = std::env::vars_os().filter_map(variable).collect();
    if node::cni::plugin::run(&environment, &mut std::io::stdin(), &mut std::io::stdout()) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
