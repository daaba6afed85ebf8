//! The two steps: pods that change, and a full push.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Settings;
use super::api::Api;
use super::nodes::Nodes;
use super::objects::{self, Pod, SYSTEM, Size};
use super::programs::{self, Control, Folder};
use super::table::{Quiet, Table};

/// A process is measured at rest this long after the last event.
const SETTLE: Duration = Duration::from_secs(1);
const KIB: f64 = 1024.0;
const MIB: f64 = 1024.0 * 1024.0;

/// A cluster of a size, as the script serves it.
pub(crate) fn fill(size: Size) -> Api {
    let api = Api::new();
    let names = (0..size.namespaces()).map(|n| objects::namespace(n * 10)).chain([SYSTEM.to_owned()]);
    api.place(names.enumerate().map(|(number, name)| objects::namespace_object(&name, number)));
    api.place((0..size.nodes()).map(|number| objects::node_object(&objects::node(number), 1)));
    api.place((0..size.nodes()).map(objects::proxy));
    api.place((0..size.services).map(objects::service_object));
    api.place((0..size.services).map(|service| objects::slice_object(service, &members(size, service, 0), size)));
    api.place((0..size.pods).map(|slot| Pod { slot, turn: 0 }.object(size, true)));
    api
}

/// Pods behind a service, when the first `replaced` places have been filled anew, turn by turn.
fn members(size: Size, service: usize, replaced: usize) -> Vec<Pod> {
    let turn = |slot| replaced / size.pods + usize::from(slot < replaced % size.pods);
    (service..size.pods).step_by(size.services).map(|slot| Pod { slot, turn: turn(slot) }).collect()
}

/// Pods are replaced, one after the other, at a steady rate.
pub(crate) fn churn(settings: &Settings, folder: &Folder, table: &mut Table) -> Result<()> {
    let size = settings.small();
    let api = fill(size);
    let serving = api.serve()?;
    let mut control = Control::start(folder, serving.address)?;
    let mut add = |key: &str, unit, value| table.add(&format!("change.{key}"), unit, value);
    add("control.start", "s", control.started.as_secs_f64());
    let proxy = programs::ztunnel(folder, control.xds, 0)?;
    let nodes = Nodes::start(settings.nodes, folder, control.xds)?;
    nodes.until_synced()?;
    control.until_synced(0)?;
    std::thread::sleep(SETTLE);
    add("control.rss-before", "MiB", control.program.resident()?);
    nodes.forget();
    control.program.forget_peak()?;
    let (cpu, proxy_cpu, quiet) = (control.program.cpu()?, proxy.cpu()?, Quiet::now(0.0)?);
    let count = (settings.rate * settings.seconds) as usize;
    let began = Instant::now();
    let late = replace(&api, &nodes, size, count, settings.rate);
    nodes.until("the last change", |notes| notes.delays.len() >= count * nodes.count)?;
    let (took, notes) = (began.elapsed().as_secs_f64(), nodes.notes());
    let (used, proxy_used) = (control.program.cpu()? - cpu, proxy.cpu()? - proxy_cpu);
    let others = quiet.others(used + proxy_used)?;
    let mut delays: Vec<f64> = notes.delays.iter().map(|d| d.as_secs_f64() * 1e3).collect();
    delays.sort_by(f64::total_cmp);
    ensure!(delays.len() >= count, "{} arrivals of {count} changes", delays.len());
    for (name, part) in [("p50", 0.5), ("p99", 0.99), ("most", 1.0)] {
        add(&format!("to-node.{name}"), "ms", delays[((delays.len() - 1) as f64 * part).round() as usize]);
    }
    add("reached", "1/s", count as f64 / took);
    add("script-late", "ms", late.as_secs_f64() * 1e3);
    add("control.cpu", "% of one CPU", used / took * 100.0);
    add("control.cpu-per-change", "CPU-ms", used * 1e3 / count as f64);
    add("control.rss-peak", "MiB", control.program.peak()?);
    add("bytes-per-node", "KiB", notes.bytes as f64 / KIB / (count * nodes.count) as f64);
    add("responses-per-node", "1", notes.responses as f64 / (count * nodes.count) as f64);
    add("proxy.cpu-per-change", "CPU-ms", proxy_used * 1e3 / count as f64);
    add("proxy.rss", "MiB", proxy.resident()?);
    table.others(others);
    Ok(())
}

/// Replaces `count` pods; says how late the script was at most.
fn replace(api: &Api, nodes: &Nodes, size: Size, count: usize, rate: u32) -> Duration {
    let began = Instant::now();
    let mut late = Duration::ZERO;
    for number in 0..count {
        let due = began + Duration::from_secs(1) / rate * number as u32;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        late = late.max(due.elapsed());
        let (slot, turn) = (number % size.pods, number / size.pods);
        let (old, new) = (Pod { slot, turn }, Pod { slot, turn: turn + 1 });
        // As a rollout does it: placed, running with an address, behind its service, and the old one goes.
        api.apply(new.object(size, false));
        let (running, service) = (new.object(size, true), new.service(size));
        nodes.changed(&new.uid(size), || api.apply(running));
        api.apply(objects::slice_object(service, &members(size, service, number + 1), size));
        api.remove(old.object(size, true));
    }
    late
}

/// All nodes connect at once; then every workload changes at once.
pub(crate) fn full(settings: &Settings, folder: &Folder, table: &mut Table) -> Result<()> {
    let size = settings.large();
    let api = fill(size);
    let serving = api.serve()?;
    let mut control = Control::start(folder, serving.address)?;
    let mut add = |key: &str, unit, value| table.add(&format!("full.{key}"), unit, value);
    add("control.start", "s", control.started.as_secs_f64());
    add("control.start-cpu", "CPU-s", control.program.cpu()?);
    add("control.start-rss-peak", "MiB", control.program.peak()?);
    std::thread::sleep(SETTLE);
    add("control.rss", "MiB", control.program.resident()?);
    let proxy = proxy(folder, &mut control, &mut add)?;
    let quiet = Quiet::now(control.program.cpu()? + proxy.cpu()?)?;
    // The first picture, to all at once.
    let (cpu, began) = (control.program.cpu()?, Instant::now());
    control.program.forget_peak()?;
    let nodes = Nodes::start(settings.nodes, folder, control.xds)?;
    nodes.until_synced()?;
    add("first.all-nodes", "s", began.elapsed().as_secs_f64());
    add("first.cpu-per-node", "CPU-s", (control.program.cpu()? - cpu) / nodes.count as f64);
    add("first.bytes-per-node", "MiB", nodes.notes().bytes as f64 / MIB / nodes.count as f64);
    add("first.control.rss-peak", "MiB", control.program.peak()?);
    std::thread::sleep(SETTLE);
    add("first.control.rss-after", "MiB", control.program.resident()?);
    // Another zone for every node: every workload is different.
    nodes.forget();
    control.program.forget_peak()?;
    proxy.forget_peak()?;
    let (cpu, proxy_cpu, began) = (control.program.cpu()?, proxy.cpu()?, Instant::now());
    for number in 0..size.nodes() {
        api.apply(objects::node_object(&objects::node(number), 2));
    }
    nodes.until("every workload", |notes| notes.workloads >= size.workloads() * nodes.count)?;
    add("push.all-nodes", "s", began.elapsed().as_secs_f64());
    control.until_synced(0)?;
    add("push.cpu", "CPU-s", control.program.cpu()? - cpu);
    let notes = nodes.notes();
    add("push.bytes-per-node", "MiB", notes.bytes as f64 / MIB / nodes.count as f64);
    add("push.responses-per-node", "1", notes.responses as f64 / nodes.count as f64);
    add("push.control.rss-peak", "MiB", control.program.peak()?);
    add("push.proxy.cpu", "CPU-s", proxy.cpu()? - proxy_cpu);
    add("push.proxy.rss-peak", "MiB", proxy.peak()?);
    std::thread::sleep(SETTLE);
    add("push.control.rss-after", "MiB", control.program.resident()?);
    add("push.proxy.rss-after", "MiB", proxy.resident()?);
    let others = quiet.others(control.program.cpu()? + proxy.cpu()?)?;
    table.others(others);
    Ok(())
}

/// A real proxy: without a world, then with all of it.
fn proxy(
    folder: &Folder,
    control: &mut Control,
    add: &mut impl FnMut(&str, &'static str, f64),
) -> Result<programs::Program> {
    let [nobody] = programs::free_ports()?;
    let idle = programs::ztunnel(folder, nobody, 0)?;
    std::thread::sleep(SETTLE);
    add("proxy.rss-empty", "MiB", idle.resident()?);
    drop(idle);
    let proxy = programs::ztunnel(folder, control.xds, 0)?;
    add("proxy.start-to-synced", "s", control.until_synced(0)?.as_secs_f64());
    std::thread::sleep(SETTLE);
    add("proxy.rss", "MiB", proxy.resident()?);
    add("proxy.rss-peak", "MiB", proxy.peak()?);
    Ok(proxy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_has_the_pods_of_the_turn() {
        let size = Size { pods: 6, services: 2 };
        let turns = |replaced| members(size, 1, replaced).iter().map(|p| (p.slot, p.turn)).collect::<Vec<_>>();
        assert_eq!(turns(0), [(1, 0), (3, 0), (5, 0)]);
        assert_eq!(turns(4), [(1, 1), (3, 1), (5, 0)]);
        assert_eq!(turns(8), [(1, 2), (3, 1), (5, 1)]);
    }
}
