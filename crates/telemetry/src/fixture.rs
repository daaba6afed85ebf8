//! Connections for tests: `shop/web` of cluster one calls `shop/api` of cluster two.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use mesh::workload::Locality;
use mesh::{Direction, Identity, Outcome, PeerAddr, Service, Workload};

use crate::facts::{Authority, Facts, SourceEnd};
use crate::{Record, Telemetry};

pub(crate) fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

pub(crate) fn identity(account: &str) -> Identity {
    Identity::new("cluster.local", "shop", account).unwrap()
}

pub(crate) fn workload(name: &str, cluster: &str) -> Arc<Workload> {
    Arc::new(Workload {
        uid: format!("{cluster}//Pod/shop/{name}-5d7").into(),
        name: format!("{name}-5d7").into(),
        namespace: "shop".into(),
        service_account: name.into(),
        canonical_name: name.into(),
        canonical_revision: "v2".into(),
        workload_name: name.into(),
        cluster_id: cluster.into(),
        locality: Locality { region: "eu".into(), zone: "eu-1".into(), subzone: "".into() },
        ..Workload::default()
    })
}

pub(crate) fn service() -> Arc<Service> {
    Arc::new(Service {
        name: "api".into(),
        namespace: "shop".into(),
        hostname: "api.shop.svc.cluster.local".into(),
        ..Service::default()
    })
}

/// A record of a connection by HBONE, everything known, not opened.
pub(crate) fn record(telemetry: &Telemetry, direction: Direction) -> Record {
    let mut record = Record::new(telemetry, direction, PeerAddr(address("10.1.0.1:40000")), address("10.2.0.2:15008"));
    record.source(workload("web", "one"));
    record.source_identity(identity("web"));
    record.destination(workload("api", "two"));
    record.service(service());
    record.authority(address("10.2.0.2:8080"));
    record.mutual_tls();
    record
}

/// The facts of such a connection, with fixed times: 12 ms, 100 bytes there, 2000 back.
pub(crate) fn facts(direction: Direction, outcome: Outcome) -> Facts {
    let mut facts = Facts::new(direction, PeerAddr(address("10.1.0.1:40000")), address("10.2.0.2:15008"));
    facts.started = UNIX_EPOCH + Duration::from_micros(1_767_225_600_000_001);
    facts.duration = Duration::from_micros(12_345);
    facts.source = Some(SourceEnd::Workload(workload("web", "one")));
    facts.source_identity = Some(identity("web"));
    facts.destination = Some(workload("api", "two"));
    facts.service = Some(service());
    facts.authority = Some(Authority::Address(address("10.2.0.2:8080")));
    facts.mutual_tls = true;
    (facts.to_destination, facts.to_source) = (100, 2_000);
    facts.outcome = outcome;
    facts
}

/// A stream that keeps what is written.
#[derive(Clone, Debug, Default)]
pub(crate) struct Kept(Arc<Mutex<Vec<u8>>>);

impl Kept {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()).unwrap()
    }
}

impl std::io::Write for Kept {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The value of the one line of `text` that begins with `name` and holds every one of `parts`; 0 when there is none.
pub(crate) fn value(text: &str, name: &str, parts: &[&str]) -> u64 {
    let fits = |line: &&str| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
            && parts.iter().all(|part| line.contains(part))
    };
    let lines: Vec<_> = text.lines().filter(fits).collect();
    assert!(lines.len() <= 1, "several lines:\n{}", lines.join("\n"));
    lines.first().map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}
