//! How many workers (drop-in.md, `ZTUNNEL_WORKER_THREADS`).

use super::environment::Reader;

/// What an operator asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Number(usize),
    /// Of the CPUs that the container may use.
    Percent(usize),
}

/// What the container may use, as the downward API says.
#[derive(Clone, Copy, Debug, Default)]
struct Cpus {
    /// Of the machine.
    machine: usize,
    /// `ZTUNNEL_CPU_LIMIT`: the limit, or what the node has when there is none.
    usable: Option<usize>,
    /// `ZTUNNEL_RESOURCE_CPU_LIMIT`: a limit that somebody set.
    limit: Option<usize>,
    /// `ZTUNNEL_RESOURCE_CPU_REQUEST`.
    request: Option<usize>,
}

/// Istio's least number: one busy worker must not hold up all pods of the node.
const LEAST: usize = 2;

pub(super) fn read(reader: &mut Reader<'_>, concurrency: Option<usize>, machine: usize) -> usize {
    let whole = |text: &str| text.parse::<usize>().ok().filter(|n| *n > 0);
    let asked = reader.parsed("ZTUNNEL_WORKER_THREADS", "use a number such as 4, or a share such as 50%", |text| {
        match text.strip_suffix('%') {
            Some(percent) => whole(percent.trim()).filter(|p| *p <= 100).map(Asked::Percent),
            None => whole(text).map(Asked::Number),
        }
    });
    let mut cpus = |name| reader.parsed(name, "use a whole number of CPUs", |text| text.parse().ok());
    let cpus = Cpus {
        machine,
        usable: cpus("ZTUNNEL_CPU_LIMIT"),
        limit: cpus("ZTUNNEL_RESOURCE_CPU_LIMIT"),
        request: cpus("ZTUNNEL_RESOURCE_CPU_REQUEST"),
    };
    count(asked, concurrency, cpus)
}

fn count(asked: Option<Asked>, concurrency: Option<usize>, cpus: Cpus) -> usize {
    match (asked, concurrency) {
        (Some(Asked::Number(n)), _) => n,
        (Some(Asked::Percent(percent)), _) => {
            (cpus.usable.filter(|n| *n > 0).unwrap_or(cpus.machine) * percent).div_ceil(100).max(1)
        }
        // Zero means all (ProxyConfig.concurrency).
        (None, Some(0)) => cpus.machine.max(1),
        (None, Some(n)) => n,
        (None, None) => {
            let wanted = LEAST.max(cpus.machine.div_ceil(4)).max(cpus.request.unwrap_or(0));
            wanted.min(cpus.limit.unwrap_or(usize::MAX).max(LEAST))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_for_wins_then_the_proxy_config_then_the_cpus() {
        let cpus = |machine, usable, limit, request| Cpus { machine, usable, limit, request };
        let plain = |machine| cpus(machine, None, None, None);
        let (number, percent) = (|n| Some(Asked::Number(n)), |p| Some(Asked::Percent(p)));
        for (asked, concurrency, cpus, wanted) in [
            (number(7), Some(3), plain(64), 7),
            (percent(50), Some(3), plain(64), 32),
            (percent(50), None, cpus(64, Some(3), None, None), 2),
            (percent(1), None, plain(4), 1),
            (None, Some(3), plain(64), 3),
            (None, Some(0), plain(64), 64),
            (None, None, plain(64), 16),
            (None, None, plain(1), 2),
            (None, None, cpus(16, None, None, Some(9)), 9),
            (None, None, cpus(64, None, Some(8), None), 8),
            (None, None, cpus(64, None, Some(1), Some(1)), 2),
        ] {
            assert_eq!(count(asked, concurrency, cpus), wanted, "{asked:?} {concurrency:?} {cpus:?}");
        }
    }
}
