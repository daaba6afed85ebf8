//! The canonical host, as tables.

use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

use super::{HostError, authority, host};

#[test]
fn every_spelling_of_a_host_becomes_one() {
    for (raw, want) in [
        ("cart", "cart"),
        ("Cart.Shop.SVC", "cart.shop.svc"),
        ("cart.", "cart"),
        ("cart:80", "cart:80"),
        ("cart.:0080", "cart:80"),
        ("cart:", "cart"),
        ("10.0.0.1", "10.0.0.1"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[::1]", "[::1]"),
        ("[FD00:0:0::1]:8080", "[fd00::1]:8080"),
        ("[::ffff:10.0.0.1]", "[::ffff:10.0.0.1]"),
        ("a_b.c-d.e1", "a_b.c-d.e1"),
        ("1a.2b", "1a.2b"),
        ("xn--caf-dma.example", "xn--caf-dma.example"),
    ] {
        let got = host(raw).map(|a| a.to_string());
        assert_eq!(got.as_deref(), Ok(want), "{raw:?}");
    }
}

#[test]
fn what_is_no_host_is_refused() {
    use HostError as E;
    let long = format!("{}a", "a.".repeat(127));
    for (raw, error) in [
        ("", E::Empty),
        (".", E::Empty),
        ("..", E::Empty),
        (":80", E::Empty),
        ("a..b", E::Empty),
        (".a", E::Empty),
        ("a..", E::Empty),
        ("user@cart", E::UserInfo),
        ("user:pass@cart:80", E::UserInfo),
        ("cart:http", E::Port),
        ("cart:65536", E::Port),
        ("cart:+80", E::Port),
        ("cart:-1", E::Port),
        ("cart: 80", E::Port),
        ("::1", E::Ipv6),
        ("a:80:80", E::Ipv6),
        ("[::1", E::Ipv6),
        ("[::1]x", E::Ipv6),
        ("[::1%25eth0]", E::Ipv6),
        ("[10.0.0.1]", E::Ipv6),
        ("[]", E::Ipv6),
        ("a:[", E::Ipv6),
        ("ca rt", E::Character),
        ("cart/", E::Character),
        ("cart%2e", E::Character),
        ("cart,admin", E::Character),
        ("caf\u{e9}", E::Character),
        ("c\u{ff41}rt", E::Character),
        ("*.cart", E::Character),
        ("cart\\", E::Character),
        ("127.1", E::Number),
        ("2130706433", E::Number),
        ("0x7f.0.0.1", E::Number),
        ("0x7f000001", E::Number),
        ("1.2.3.0x4", E::Number),
        ("0177.0.0.01", E::Number),
        ("10.0.0.256", E::Number),
        ("10.0.0.1.5", E::Number),
        ("a.1", E::Number),
        (long.as_str(), E::TooLong),
    ] {
        assert_eq!(host(raw).err(), Some(error), "{raw:?}");
    }
}

#[test]
fn a_request_has_one_host() {
    let of = |target: Option<&str>, lines: &[&str]| {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append("host", HeaderValue::from_str(line).unwrap());
        }
        authority(target, &headers).map(|a| a.to_string())
    };
    assert_eq!(of(None, &["Cart:80"]).as_deref(), Ok("cart:80"));
    assert_eq!(of(Some("cart"), &[]).as_deref(), Ok("cart"));
    assert_eq!(of(Some("CART."), &["cart"]).as_deref(), Ok("cart"));
    assert_eq!(of(Some("cart"), &["cart:80"]), Err(HostError::Conflict));
    assert_eq!(of(Some("cart"), &["admin"]), Err(HostError::Conflict));
    assert_eq!(of(None, &["cart", "cart"]), Err(HostError::Duplicate));
    assert_eq!(of(Some("cart"), &["cart", "admin"]), Err(HostError::Duplicate));
    assert_eq!(of(None, &[]), Err(HostError::Missing));
    assert_eq!(of(None, &["a@b"]), Err(HostError::UserInfo));
}

proptest! {
    #[test]
    fn twice_is_once(raw in "[a-zA-Z0-9._:\\[\\]@-]{0,12}") {
        if let Ok(once) = host(&raw) {
            let text = once.to_string();
            prop_assert_eq!(host(&text), Ok(once));
        }
    }
}
