use proptest::prelude::*;

use super::*;

/// A ClientHello with the extensions given, in one record.
fn hello(extensions: &[u8]) -> Vec<u8> {
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
    body.extend(extensions);
    let mut record = vec![CLIENT_HELLO_TYPE, 0];
    record.extend(u16::try_from(body.len()).unwrap().to_be_bytes());
    record.extend(body);
    let mut all = vec![22, 3, 1];
    all.extend(u16::try_from(record.len()).unwrap().to_be_bytes());
    all.extend(record);
    all
}

const CLIENT_HELLO_TYPE: u8 = 1;

fn named(name: &str) -> Vec<u8> {
    let length = |n: usize| u16::try_from(n).unwrap().to_be_bytes();
    let mut out = vec![0, 10, 0, 2, 9, 9];
    out.extend([0, 0]);
    out.extend(length(name.len() + 5));
    out.extend(length(name.len() + 3));
    out.push(0);
    out.extend(length(name.len()));
    out.extend(name.as_bytes());
    out
}

#[test]
fn what_clients_send_is_told() {
    let table: &[(&[u8], Guess)] = &[
        (b"", Guess::More),
        (b"G", Guess::More),
        (b"GET /a?b HTTP/1.1\r\n", Guess::Http1),
        (b"GET / HTTP/1.0\nHost: x", Guess::Http1),
        (b"\r\nGET / HTTP/1.1\r\n", Guess::Http1),
        (b"OPTIONS * HTTP/1.1\r\n", Guess::Http1),
        (b"CONNECT a:1 HTTP/1.1\r\n", Guess::Http1),
        (b"VERSION-CONTROL /x HTTP/1.1\r\n", Guess::Http1),
        (b"GET / HTTP/1.1", Guess::More),
        (b"PRI", Guess::More),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Guess::More),
        (PREFACE, Guess::Http2),
        (b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", Guess::Other),
        // A line of Redis, in its inline form, and its usual form.
        (b"GET /key\r\n", Guess::Other),
        (b"*1\r\n$4\r\nPING\r\n", Guess::Other),
        // An HTTP/0.9 request, and a version that we do not know.
        (b"GET /\r\n", Guess::Other),
        (b"GET / HTTP/3.0\r\n", Guess::Other),
        (b"GET / HTTP/2", Guess::Other),
        (b"GET  / HTTP/1.1\r\n", Guess::Other),
        (b"G(T / HTTP/1.1\r\n", Guess::Other),
        // PostgreSQL's startup, MySQL says nothing first, SSH's banner.
        (b"\0\0\0\x08\x04\xd2\x16/", Guess::Other),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Guess::Other),
        (b"\x16\x03\x01", Guess::More),
        (b"\x16\x05\x01", Guess::Other),
        (b"\x16\x03\x01\xff\xff", Guess::Other),
        (b"\x16\x03\x01\x00\x04\x02\x00\x00\x00", Guess::Other),
        (b"\x16\x03\x01\x00\x04\x01\x00\x00\x00", Guess::Other),
    ];
    for (bytes, wanted) in table {
        assert_eq!(guess(bytes), *wanted, "{}", String::from_utf8_lossy(bytes));
    }
}

#[test]
fn server_names_are_read_in_small_letters() {
    assert_eq!(guess(&hello(&named("Api.Shop"))), Guess::Tls { server_name: Some("api.shop".to_owned()) });
    assert_eq!(guess(&hello(&[])), Guess::Tls { server_name: None });
    assert_eq!(guess(&hello(&named("a b"))), Guess::Other);
    let mut cut = named("api.shop");
    cut.truncate(cut.len() - 1);
    assert_eq!(guess(&hello(&cut)), Guess::Other);
}

#[test]
fn a_hello_may_be_cut_into_records() {
    let whole = hello(&named("api.shop"));
    let (first, second) = whole[5..].split_at(20);
    let record = |part: &[u8]| [&[22, 3, 1, 0, u8::try_from(part.len()).unwrap()], part].concat();
    let cut = [record(first), record(second)].concat();
    assert_eq!(guess(&cut), Guess::Tls { server_name: Some("api.shop".to_owned()) });
}

#[test]
fn nothing_is_waited_for_without_end() {
    let mut line = b"GET /".to_vec();
    line.resize(ENOUGH - 1, b'a');
    assert_eq!(guess(&line), Guess::More);
    line.push(b'a');
    assert_eq!(guess(&line), Guess::Other);
}

/// Bytes that look like something.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let noise = proptest::collection::vec(any::<u8>(), 0..80);
    let seed = prop_oneof![
        Just(b"GET /abc HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()),
        Just(PREFACE.to_vec()),
        Just(hello(&named("api.shop.svc.cluster.local"))),
        noise,
    ];
    (seed, proptest::option::of((0..200_usize, any::<u8>()))).prop_map(|(mut bytes, change)| {
        if let Some((at, byte)) = change
            && let Some(slot) = bytes.get_mut(at)
        {
            *slot = byte;
        }
        bytes
    })
}

proptest! {
    #[test]
    fn a_guess_never_changes_as_bytes_arrive(bytes in plausible()) {
        let whole = guess(&bytes);
        let mut decided = None;
        for end in 0..=bytes.len() {
            let now = guess(&bytes[..end]);
            if let Some(before) = &decided {
                prop_assert_eq!(before, &now, "after {} bytes", end);
            } else if now != Guess::More {
                decided = Some(now);
            }
        }
        prop_assert_eq!(decided.unwrap_or(Guess::More), whole);
    }
}
