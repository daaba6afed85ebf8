use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A as Ipv4, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::testing::{answer, ask, endpoint, message, records, request, service, snapshot, with_edns};
use crate::{Received, UDP_MOST, read};

/// A headless service with so many endpoints.
fn crowd(count: u16) -> directory::Snapshot {
    let headless = service("shop", "db.shop.svc.cluster.local", "");
    let pods = (0..count)
        .map(|i| endpoint(&headless, &format!("db-{i}"), &format!("10.244.{}.{} fd00::{i:x}", i / 256, i % 256)))
        .collect();
    snapshot(vec![headless, service("shop", "api.example.com", "240.240.0.1")], pods)
}

#[test]
fn an_answer_is_what_the_question_was_down_to_its_capitals() {
    let all = crowd(1);
    let query = message("dB.ShoP.svc.CLUSTER.local.", RecordType::A);
    let asked = request(&query);
    let bytes = answer(&all, &asked).encode_udp(&asked);
    let found = Message::from_vec(&bytes).unwrap();
    assert_eq!((found.id, found.message_type, found.op_code), (0x1234, MessageType::Response, OpCode::Query));
    assert!(found.authoritative && found.recursion_available && found.recursion_desired && !found.truncation);
    assert_eq!(found.response_code, ResponseCode::NoError);
    assert!(found.queries[0].name().eq_case(query.queries[0].name()));
    assert!(found.answers[0].name.eq_case(query.queries[0].name()));
    assert_eq!(records(&found), ["dB.ShoP.svc.CLUSTER.local. 30 A 10.244.0.0"]);
    assert!(found.edns.is_none() && found.authorities.is_empty() && found.additionals.is_empty());
    assert!(asked.expected().fits(&bytes));
}

#[test]
fn a_stripped_search_domain_is_shown_as_a_cname() {
    let asked = ask("Api.Example.com.shop.svc.cluster.local.", RecordType::A);
    let found = Message::from_vec(&answer(&crowd(0), &asked).encode_udp(&asked)).unwrap();
    assert_eq!(
        records(&found),
        ["Api.Example.com.shop.svc.cluster.local. 30 CNAME api.example.com.", "api.example.com. 30 A 240.240.0.1",]
    );
    let none = ask("api.example.com.shop.svc.cluster.local.", RecordType::AAAA);
    let found = Message::from_vec(&answer(&crowd(0), &none).encode_udp(&none)).unwrap();
    assert_eq!(records(&found), ["api.example.com.shop.svc.cluster.local. 30 CNAME api.example.com."]);
}

#[test]
fn a_name_without_such_an_address_is_no_error() {
    let asked = ask("api.example.com.", RecordType::AAAA);
    let found = Message::from_vec(&answer(&crowd(0), &asked).encode_udp(&asked)).unwrap();
    assert_eq!((found.response_code, found.answers.len()), (ResponseCode::NoError, 0));
    assert!(found.authoritative && !found.truncation);
}

#[test]
fn udp_answers_are_as_long_as_the_client_can_take() {
    let all = crowd(1_000);
    for (payload, limit, kind) in [
        (None, 512, RecordType::A),
        (Some(100), 512, RecordType::A),
        (Some(1232), 1232, RecordType::A),
        (Some(1232), 1232, RecordType::AAAA),
        (Some(65_535), UDP_MOST, RecordType::A),
    ] {
        let query = message("db.shop.svc.cluster.local.", kind);
        let asked = request(&payload.map_or(query.clone(), |size| with_edns(query, size)));
        let bytes = answer(&all, &asked).encode_udp(&asked);
        let found = Message::from_vec(&bytes).unwrap();
        assert!(found.truncation, "{payload:?}");
        // As full as it can be: not one record more would fit (AAAA has 28 bytes).
        assert!(bytes.len() <= limit && bytes.len() + 28 > limit, "{payload:?}: {} of {limit}", bytes.len());
        assert_eq!(found.edns.is_some(), payload.is_some());
    }
    let few = ask("db.shop.svc.cluster.local.", RecordType::A);
    let found = Message::from_vec(&answer(&crowd(20), &few).encode_udp(&few)).unwrap();
    assert_eq!((found.answers.len(), found.truncation), (20, false));
}

#[test]
fn tcp_carries_all_or_a_part_without_sending_the_client_round_in_circles() {
    for (count, shown) in [(1_000, 1_000), (5_000, 4_093)] {
        let asked = ask("db.shop.svc.cluster.local.", RecordType::A);
        let found = Message::from_vec(&answer(&crowd(count), &asked).encode_tcp(&asked)).unwrap();
        assert_eq!((found.answers.len(), found.truncation), (shown, false));
    }
}

#[test]
fn edns_is_answered_in_kind() {
    let mut query = with_edns(message("api.example.com.", RecordType::A), 1232);
    if let Some(edns) = &mut query.edns {
        edns.set_dnssec_ok(true);
    }
    let asked = request(&query);
    let found = Message::from_vec(&answer(&crowd(0), &asked).encode_udp(&asked)).unwrap();
    let edns = found.edns.as_ref().unwrap();
    assert_eq!((usize::from(edns.max_payload()), edns.version(), edns.flags().dnssec_ok), (UDP_MOST, 0, true));
    if let Some(edns) = &mut query.edns {
        edns.set_version(1);
    }
    let asked = request(&query);
    let found = Message::from_vec(&answer(&crowd(0), &asked).encode_udp(&asked)).unwrap();
    // 16 is BADSIG too, of which the reader thinks first.
    assert_eq!((u16::from(found.response_code), found.answers.len()), (u16::from(ResponseCode::BADVERS), 0));
    assert_eq!(found.edns.as_ref().unwrap().version(), 0);
}

#[test]
fn what_is_not_a_question_has_its_own_end() {
    let good = message("cart.shop.svc.cluster.local.", RecordType::A).to_vec().unwrap();
    let change = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        read(&bytes)
    };
    assert!(matches!(read(&good), Received::Query(_)));
    assert!(matches!(read(&[]), Received::Ignored(_)));
    assert!(matches!(read(&good[..11]), Received::Ignored(_)));
    assert!(matches!(change(2, 0x81), Received::Ignored(_)), "a response");
    assert!(matches!(change(2, 0x28), Received::Other(_)), "UPDATE");
    assert!(matches!(change(2, 0x20), Received::Other(_)), "NOTIFY");
    assert!(matches!(change(5, 0), Received::Other(_)), "no question");
    assert!(matches!(change(5, 2), Received::Malformed(_)), "two questions");
    assert!(matches!(change(4, 255), Received::Malformed(_)), "65281 questions");
    assert!(matches!(change(7, 1), Received::Malformed(_)), "an answer is announced and missing");
    assert!(matches!(change(12, 64), Received::Malformed(_)), "a label of 64 letters");
    assert!(matches!(change(12, 63), Received::Malformed(_)), "a label beyond the end");
    assert!(matches!(read(&good[..good.len() - 1]), Received::Malformed(_)), "cut short");
    let Received::Malformed(answer) = change(5, 2) else { panic!() };
    let found = Message::from_vec(&answer).unwrap();
    assert_eq!((found.id, found.response_code), (0x1234, ResponseCode::FormErr));
    assert!(found.recursion_desired && found.queries.is_empty());
}

#[test]
fn a_question_that_points_elsewhere_is_malformed() {
    // A name that is a pointer to the root label in the header's zeros.
    let mut bytes = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    bytes.extend([0xc0, 0x06, 0, 1, 0, 1]);
    assert!(matches!(read(&bytes), Received::Malformed(_)));
}

#[test]
fn two_opt_records_are_malformed() {
    let mut bytes = with_edns(message("a.", RecordType::A), 1232).to_vec().unwrap();
    let opt = bytes[bytes.len() - 11..].to_vec();
    bytes.extend(opt);
    bytes[11] = 2;
    assert!(matches!(read(&bytes), Received::Malformed(_)));
    let one = with_edns(message("a.", RecordType::A), 1232).to_vec().unwrap();
    assert!(matches!(read(&one), Received::Query(_)));
}

#[test]
fn other_classes_are_not_ours() {
    let mut query = message("cart.shop.svc.cluster.local.", RecordType::A);
    query.queries[0].set_query_class(DNSClass::CH);
    assert_eq!(request(&query).wants_ipv6(), None);
}

#[test]
fn only_its_own_answer_fits_a_query() {
    let query = message("Cart.example.com.", RecordType::A);
    let asked = request(&query);
    let reply = |change: &dyn Fn(&mut Message)| {
        let mut reply = query.clone().into_response();
        let data = RData::A(Ipv4::new(192, 0, 2, 1));
        reply.add_answer(Record::from_rdata(Name::from_ascii("cart.example.com.").unwrap(), 60, data));
        change(&mut reply);
        asked.expected().fits(&reply.to_vec().unwrap())
    };
    let question = |name: &str, kind| Query::query(Name::from_ascii(name).unwrap(), kind);
    assert!(reply(&|_| {}));
    assert!(reply(&|m| m.queries[0] = question("CART.EXAMPLE.COM.", RecordType::A)), "capitals");
    assert!(reply(&|m| m.metadata.response_code = ResponseCode::NXDomain));
    assert!(reply(&|m| {
        m.queries.clear();
        m.metadata.response_code = ResponseCode::FormErr;
    }));
    assert!(!reply(&|m| m.queries.clear()), "no question, and no error");
    assert!(!reply(&|m| m.metadata.id = 0x1235));
    assert!(!reply(&|m| m.metadata.message_type = MessageType::Query));
    assert!(!reply(&|m| m.metadata.op_code = OpCode::Status));
    assert!(!reply(&|m| m.queries[0] = question("cart.example.org.", RecordType::A)));
    assert!(!reply(&|m| m.queries[0] = question("cart.example.com.", RecordType::AAAA)));
    assert!(!asked.expected().fits(&[]));
    // 65 (HTTPS) and 97 are an A and an a.
    let https = request(&message("cart.example.com.", RecordType::HTTPS));
    let mut other = message("cart.example.com.", RecordType::Unknown(97)).into_response();
    other.add_answer(Record::from_rdata(Name::root(), 1, RData::TXT(TXT::new(vec!["x".to_owned()]))));
    assert!(!https.expected().fits(&other.to_vec().unwrap()));
}

#[test]
fn an_operation_that_is_not_ours_has_an_answer_too() {
    let mut update = message("example.com.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let Received::Other(expected) = read(&update.to_vec().unwrap()) else { panic!() };
    assert!(expected.fits(&update.clone().into_response().to_vec().unwrap()));
    assert!(!expected.fits(&update.to_vec().unwrap()));
}

#[test]
fn a_server_that_cannot_be_reached_is_said_to_have_failed() {
    let asked = ask("Example.com.", RecordType::MX);
    let bytes = asked.expected().server_failure();
    let found = Message::from_vec(&bytes).unwrap();
    assert_eq!((found.id, found.response_code, found.queries.len()), (0x1234, ResponseCode::ServFail, 1));
    assert!(asked.expected().fits(&bytes));
    let mut update = message("example.com.", RecordType::SOA);
    update.metadata.op_code = OpCode::Update;
    let Received::Other(expected) = read(&update.to_vec().unwrap()) else { panic!() };
    assert_eq!(Message::from_vec(&expected.server_failure()).unwrap().op_code, OpCode::Update);
}
