//! Short forms for the tests of this crate. Queries are made and answers read by hickory's own writer and reader, which
//! share nothing with ours.

use std::net::IpAddr;

use directory::Snapshot;
use hickory_proto::op::{Edns, Message, Query};
use hickory_proto::rr::{Name, RData, RecordType};
use mesh::addr::NetworkAddress;
use mesh::{Service, Workload};

use crate::{Answer, Client, Decision, Received, Request, Settings, decide, read};

pub(crate) const SHOP: Client<'static> = Client { namespace: "shop", network: "" };

pub(crate) fn settings() -> Settings {
    Settings::new("cluster.local", None).unwrap()
}

pub(crate) fn message(name: &str, kind: RecordType) -> Message {
    let mut message = Message::query();
    message.metadata.id = 0x1234;
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
    message
}

pub(crate) fn with_edns(mut message: Message, payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(payload);
    message.set_edns(edns);
    message
}

pub(crate) fn request(message: &Message) -> Request {
    match read(&message.to_vec().unwrap()) {
        Received::Query(request) => request,
        other => panic!("{other:?}"),
    }
}

pub(crate) fn ask(name: &str, kind: RecordType) -> Request {
    request(&message(name, kind))
}

/// A service of `namespace` with these addresses, each `network/address` or `address`.
pub(crate) fn service(namespace: &str, host: &str, vips: &str) -> Service {
    let vip = |text: &str| {
        let (network, ip) = text.split_once('/').unwrap_or(("", text));
        NetworkAddress::new(network, ip.parse().unwrap())
    };
    Service {
        name: host.split('.').next().unwrap().into(),
        namespace: namespace.into(),
        hostname: host.into(),
        vips: vips.split_whitespace().map(vip).collect(),
        ..Service::default()
    }
}

/// An endpoint of a service.
pub(crate) fn endpoint(service: &Service, name: &str, addresses: &str) -> Workload {
    let mut workload = Workload {
        uid: format!("Kubernetes//Pod/{}/{name}", service.namespace).into(),
        name: name.into(),
        namespace: service.namespace.clone(),
        addresses: addresses.split_whitespace().map(|a| a.parse().unwrap()).collect(),
        ..Workload::default()
    };
    workload.services.insert(service.key().to_string().into(), Default::default());
    workload
}

pub(crate) fn snapshot(services: Vec<Service>, workloads: Vec<Workload>) -> Snapshot {
    let mut all = Snapshot::default();
    services.into_iter().for_each(|s| all.insert_service(s));
    workloads.into_iter().for_each(|w| all.insert_workload(w));
    all
}

pub(crate) fn answer(all: &Snapshot, request: &Request) -> Answer {
    match decide(request, SHOP, all, &settings(), 7) {
        Decision::Answer(answer) => answer,
        Decision::Forward(why) => panic!("forwarded: {why:?}"),
    }
}

/// A decision in one line: addresses sorted, `canonical>` in front where there is a CNAME.
pub(crate) fn line(decision: &Decision) -> String {
    match decision {
        Decision::Forward(why) => format!("forward: {}", why.as_str()),
        Decision::Answer(answer) => {
            let mut ips: Vec<IpAddr> = answer.addresses.clone();
            ips.sort();
            let ips = ips.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
            let canonical = answer.canonical.as_ref().map(|c| format!("{c}> ")).unwrap_or_default();
            format!("{canonical}{}/{}: {ips}", answer.service.namespace, answer.service.hostname)
        }
    }
}

/// Records of an answer, as text.
pub(crate) fn records(message: &Message) -> Vec<String> {
    let data = |data: &RData| match data {
        RData::A(a) => format!("A {}", a.0),
        RData::AAAA(a) => format!("AAAA {}", a.0),
        RData::CNAME(name) => format!("CNAME {}", name.0),
        other => panic!("{other:?}"),
    };
    message.answers.iter().map(|r| format!("{} {} {}", r.name, r.ttl, data(&r.data))).collect()
}
