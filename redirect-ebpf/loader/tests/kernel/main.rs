//! The redirector on a real kernel: every test makes its own namespaces, cgroups and BPF file system, and takes them away again.
//!
//! Needs root; without it the run fails. A name as argument runs the tests whose names contain it.
#![allow(clippy::unwrap_used, clippy::panic, missing_docs, unreachable_pub, reason = "a test fails by panicking")]
#![allow(unsafe_code, reason = "raw sockets and MPTCP have no safe face")]

mod actor;
mod balancer;
mod bypass;
mod capture;
mod clsact;
mod generations;
mod handmade;
mod homes;
mod kubelet;
mod lab;
mod leaving;
mod lifecycle;
mod questions;
mod repair;
mod tuples;
mod uring;
mod versions;
mod wire;

use std::process::ExitCode;

type Test = (&'static str, fn());

fn main() -> ExitCode {
    if std::env::var_os(actor::ENV).is_some() {
        actor::run();
        return ExitCode::SUCCESS;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let filters: Vec<&String> = arguments.iter().filter(|a| !a.starts_with("--")).collect();
    let all: Vec<Test> = [
        capture::TESTS,
        generations::TESTS,
        handmade::TESTS,
        bypass::TESTS,
        leaving::TESTS,
        lifecycle::TESTS,
        repair::TESTS,
        kubelet::TESTS,
        questions::TESTS,
        tuples::TESTS,
        homes::TESTS,
        clsact::TESTS,
        balancer::TESTS,
        versions::TESTS,
    ]
    .concat();
    if arguments.iter().any(|a| a == "--list") {
        all.iter().for_each(|(name, _)| println!("{name}: test"));
        return ExitCode::SUCCESS;
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("these tests attach kernel programs and make network namespaces; remedy: run them as root");
        return ExitCode::FAILURE;
    }
    let _own_cgroup = lab::OwnCgroup::enter();
    let mut failed = Vec::new();
    for (name, test) in
        all.iter().filter(|(name, _)| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str())))
    {
        let start = std::time::Instant::now();
        let outcome = std::panic::catch_unwind(test);
        let word = if outcome.is_ok() { "ok" } else { "FAILED" };
        println!("test {name} ... {word} ({} ms)", start.elapsed().as_millis());
        if outcome.is_err() {
            failed.push(name);
        }
    }
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        println!("failed: {failed:?}");
        ExitCode::FAILURE
    }
}
