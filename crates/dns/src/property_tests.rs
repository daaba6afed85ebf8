//! Whatever comes, nothing panics, and what goes out is a message that a foreign reader understands.

use directory::Snapshot;
use hickory_proto::op::Message;
use hickory_proto::rr::RecordType;
use proptest::prelude::*;

use crate::testing::{SHOP, endpoint, message, service, settings, snapshot, with_edns};
use crate::{Decision, Received, decide, read};

fn world() -> Snapshot {
    let headless = service("shop", "db.shop.svc.cluster.local", "");
    let pods = (0..90).map(|i| endpoint(&headless, &format!("db-{i}"), &format!("10.244.0.{i} fd00::{i:x}"))).collect();
    let services = vec![
        headless,
        service("shop", "cart.shop.svc.cluster.local", "10.96.0.1 fd00::1"),
        service("shop", "*.example.com", "240.240.0.1"),
    ];
    snapshot(services, pods)
}

/// Reads, decides and answers as the proxy does.
fn serve(all: &Snapshot, bytes: &[u8], random: u64) -> Option<(Vec<u8>, Vec<u8>)> {
    let request = match read(bytes) {
        Received::Query(request) => request,
        Received::Malformed(answer) => return Some((answer.clone(), answer)),
        Received::Other(expected) => {
            let _own = expected.fits(bytes);
            return None;
        }
        Received::Ignored(_) => return None,
    };
    match decide(&request, SHOP, all, &settings(), random) {
        Decision::Answer(answer) => Some((answer.encode_udp(&request), answer.encode_tcp(&request))),
        Decision::Forward(_) => None,
    }
}

fn label() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-zA-Z0-9_][a-zA-Z0-9-]{0,62}",
        Just("cart".to_owned()),
        Just("db".to_owned()),
        Just("shop".to_owned()),
        Just("svc".to_owned()),
        Just("cluster".to_owned()),
        Just("local".to_owned()),
        Just("example".to_owned()),
        Just("com".to_owned()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2_000) })]

    #[test]
    fn any_bytes_are_survived(bytes in proptest::collection::vec(any::<u8>(), 0..600), random: u64) {
        let _served = serve(&world(), &bytes, random);
    }

    #[test]
    fn a_damaged_query_is_survived(at in 0usize..80, byte: u8, cut in 0usize..80, random: u64) {
        let mut bytes = with_edns(message("cart.shop.svc.cluster.local.", RecordType::A), 1232).to_vec().unwrap();
        let length = bytes.len();
        bytes[at % length] = byte;
        bytes.truncate(length - cut % length);
        if let Some((udp, tcp)) = serve(&world(), &bytes, random) {
            prop_assert!(Message::from_vec(&udp).is_ok() && Message::from_vec(&tcp).is_ok());
        }
    }

    #[test]
    fn every_answer_is_understood_and_belongs_to_its_question(
        labels in proptest::collection::vec(label(), 0..6),
        six: bool,
        payload in proptest::option::of(any::<u16>()),
        random: u64,
    ) {
        let name = format!("{}.", labels.join("."));
        let kind = if six { RecordType::AAAA } else { RecordType::A };
        prop_assume!(name.len() < 250);
        let query = message(&name, kind);
        let query = payload.map_or(query.clone(), |size| with_edns(query, size));
        let bytes = query.to_vec().unwrap();
        let Some((udp, tcp)) = serve(&world(), &bytes, random) else { return Ok(()) };
        let Received::Query(request) = read(&bytes) else { panic!("{name}") };
        let limit = payload.map_or(512, |size| usize::from(size).clamp(512, 4096));
        prop_assert!(udp.len() <= limit);
        for answer in [&udp, &tcp] {
            prop_assert!(request.expected().fits(answer));
            let read = Message::from_vec(answer).unwrap();
            prop_assert!(read.queries[0].name().eq_case(query.queries[0].name()));
            // The chain from the question to the addresses holds: each owner was named before.
            let mut owner = query.queries[0].name().clone();
            for record in &read.answers {
                prop_assert_eq!(&record.name, &owner);
                if let hickory_proto::rr::RData::CNAME(target) = &record.data {
                    owner = target.0.clone();
                }
            }
            prop_assert_eq!(read.edns.is_some(), payload.is_some());
        }
    }
}
