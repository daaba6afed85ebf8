//! All endpoints that a request may go to, for a proxy that chooses among them by itself (load, latency, health).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mesh::addr::canonical;
use mesh::service::Service;
use mesh::workload::{TunnelProtocol, Workload};
use mesh::{Identity, TunnelAddr};

use crate::HBONE_PORT;
use crate::balance::{Purpose, Wish};
use crate::route::expected;
use crate::snapshot::Snapshot;

/// An endpoint that may be used.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// The workload.
    pub workload: Arc<Workload>,
    /// Its address and target port.
    pub at: SocketAddr,
    /// Where its tunnel is dialled; `None`: plain TCP to `at`.
    pub tunnel: Option<TunnelAddr>,
    /// Who may answer the tunnel (hbone.md 2).
    pub expected: Vec<Identity>,
}

impl Candidate {
    /// A workload that was addressed by itself. What `service` adds to the identities that may answer is its own to say.
    pub fn new(workload: Arc<Workload>, service: Option<&Service>, at: SocketAddr) -> Self {
        let tunnel = match workload.tunnel {
            TunnelProtocol::Hbone => Some(TunnelAddr::new(SocketAddr::new(at.ip(), HBONE_PORT))),
            TunnelProtocol::None => None,
        };
        Self { expected: expected(Some(&workload), service), workload, at, tunnel }
    }
}

impl Snapshot {
    /// The endpoints of a service port that are best for `source`: reachable, of the best rank by the service's own
    /// preference (discovery.md 3, "Ranking"), in order of uids. Those of other networks, and those that have a name in
    /// place of an address, are left out. `near` is an address of the family to prefer.
    pub fn candidates(&self, source: &Workload, service: &Service, port: u16, near: IpAddr) -> Vec<Candidate> {
        let key = service.key().to_string();
        let wish = Wish { source, service, port, dialled: canonical(near), purpose: Purpose::Application, random: 0 };
        let mut best = None;
        let mut all = Vec::new();
        for workload in self.endpoints(&key).filter(|w| w.network == source.network) {
            let Some(target) = wish.target_port(&key, workload) else { continue };
            let Some(rank) = wish.rank(workload).filter(|_| wish.reachable(workload)) else { continue };
            let Some(ip) = wish.ip(workload) else { continue };
            if best.is_some_and(|best| rank < best) {
                continue;
            }
            if best != Some(rank) {
                all.clear();
                best = Some(rank);
            }
            all.push(Candidate::new(workload.clone(), Some(service), SocketAddr::new(ip, target)));
        }
        all
    }

    /// Where a connection to a service port may end when somebody else chooses: address (of the family of `near`, if there is
    /// one) and target port of every endpoint on the network of `source`, whatever its health and rank, which whoever chooses
    /// sees from another place and at another time. The address is absent where only a name is known.
    pub fn ends(&self, source: &Workload, service: &Service, port: u16, near: IpAddr) -> Vec<(Option<IpAddr>, u16)> {
        let key = service.key().to_string();
        let wish = Wish { source, service, port, dialled: canonical(near), purpose: Purpose::Application, random: 0 };
        let here = self.endpoints(&key).filter(|w| w.network == source.network);
        let ends = here.filter_map(|workload| {
            let target = wish.target_port(&key, workload)?;
            match wish.ip(workload) {
                None if workload.hostname.is_empty() => None,
                ip => Some((ip, target)),
            }
        });
        ends.collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use mesh::service::{HealthPolicy, LoadBalancing, LoadBalancingMode, Scope};
    use mesh::workload::{Health, Locality, PortMap};

    use super::*;

    fn pod(name: &str, last: u8, zone: &str) -> Workload {
        Workload {
            uid: name.into(),
            name: name.into(),
            namespace: "shop".into(),
            service_account: name.into(),
            addresses: vec![[10, 0, 0, last].into()],
            tunnel: TunnelProtocol::Hbone,
            locality: Locality { region: "eu".into(), zone: zone.into(), subzone: "".into() },
            services: BTreeMap::from([("shop/web".into(), PortMap::default())]),
            ..Workload::default()
        }
    }

    fn names(all: &[Candidate]) -> Vec<&str> {
        all.iter().map(|c| &*c.workload.name).collect()
    }

    #[test]
    fn all_endpoints_of_the_best_rank_and_no_others() {
        let mut service = Service {
            name: "web".into(),
            namespace: "shop".into(),
            hostname: "web".into(),
            ports: PortMap(BTreeMap::from([(80, 8080)])),
            ..Service::default()
        };
        let mut snapshot = Snapshot::default();
        let sick = Workload { health: Health::Unhealthy, ..pod("c", 3, "b") };
        let elsewhere = Workload { network: "n2".into(), ..pod("d", 4, "a") };
        let plain = Workload { tunnel: TunnelProtocol::None, ..pod("e", 5, "b") };
        for workload in [pod("a", 1, "a"), pod("b", 2, "b"), sick, elsewhere, plain] {
            snapshot.insert_workload(workload);
        }
        let source = pod("wp", 9, "b");
        let near = [0, 0, 0, 0].into();
        let all = snapshot.candidates(&source, &service, 80, near);
        assert_eq!(names(&all), ["a", "b", "e"]);
        assert_eq!(
            (all[0].at, all[0].tunnel),
            ("10.0.0.1:8080".parse().unwrap(), Some(TunnelAddr::new("10.0.0.1:15008".parse().unwrap())))
        );
        assert_eq!(all[0].expected[0].to_string(), "spiffe://cluster.local/ns/shop/sa/a");
        assert_eq!(all[2].tunnel, None);
        service.load_balancing = Some(LoadBalancing {
            preference: vec![Scope::Region, Scope::Zone],
            mode: LoadBalancingMode::Failover,
            health: HealthPolicy::OnlyHealthy,
        });
        assert_eq!(names(&snapshot.candidates(&source, &service, 80, near)), ["b", "e"]);
        assert_eq!(snapshot.candidates(&source, &service, 81, near), []);
        // Whoever else chooses may choose any of them, also one that is sick or far.
        let named = Workload { addresses: Vec::new(), hostname: "x.test".into(), ..pod("f", 6, "b") };
        let nowhere = Workload { addresses: Vec::new(), ..pod("g", 7, "b") };
        [named, nowhere].into_iter().for_each(|w| snapshot.insert_workload(w));
        let ip = |last: u8| Some(IpAddr::from([10, 0, 0, last]));
        let ends = [(ip(1), 8080), (ip(2), 8080), (ip(3), 8080), (ip(5), 8080), (None, 8080)];
        assert_eq!(snapshot.ends(&source, &service, 80, near), ends);
        assert_eq!(snapshot.ends(&source, &service, 81, near), []);
    }
}
