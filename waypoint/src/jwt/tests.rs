//! Tokens with keys made here: what is accepted, and every attack that is known on this format.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, ECDSA_P521_SHA512_FIXED_SIGNING, EcdsaKeyPair,
    EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RSA_PKCS1_SHA512,
    RSA_PSS_SHA256, RSA_PSS_SHA384, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
};
use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderName, HeaderValue};
use proto::routing as wire;
use serde_json::{Value, json};

use super::{Authenticated, Authentications, Cache, Refused, TokenError};

const NOW: u64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

enum Signer {
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
    Rsa(RsaKeyPair),
}

impl Signer {
    fn rsa() -> Self {
        Self::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap())
    }

    fn ec(algorithm: &'static EcdsaSigningAlgorithm) -> Self {
        Self::Ec(EcdsaKeyPair::generate(algorithm).unwrap())
    }

    fn ed() -> Self {
        Self::Ed(Ed25519KeyPair::generate().unwrap())
    }

    fn jwk(&self, more: Value) -> Value {
        let mut jwk = match self {
            Self::Ec(key) => {
                let point = &key.public_key().as_ref()[1..];
                let (x, y) = point.split_at(point.len() / 2);
                let curve = match x.len() {
                    32 => "P-256",
                    48 => "P-384",
                    _ => "P-521",
                };
                json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)})
            }
            Self::Ed(key) => json!({"kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().as_ref())}),
            Self::Rsa(key) => {
                let (n, e) = (key.public_key().modulus(), key.public_key().exponent());
                json!({"kty": "RSA", "n": b64(n.big_endian_without_leading_zero()),
                       "e": b64(e.big_endian_without_leading_zero())})
            }
        };
        for (name, value) in more.as_object().unwrap() {
            jwk[name] = value.clone();
        }
        jwk
    }

    fn sign(&self, algorithm: &str, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match self {
            Self::Ec(key) => key.sign(&random, message).unwrap().as_ref().to_vec(),
            Self::Ed(key) => key.sign(message).as_ref().to_vec(),
            Self::Rsa(key) => {
                let encoding: &'static dyn RsaEncoding = match algorithm {
                    "PS256" => &RSA_PSS_SHA256,
                    "PS384" => &RSA_PSS_SHA384,
                    "PS512" => &RSA_PSS_SHA512,
                    "RS384" => &RSA_PKCS1_SHA384,
                    "RS512" => &RSA_PKCS1_SHA512,
                    _ => &RSA_PKCS1_SHA256,
                };
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, message, &mut signature).unwrap();
                signature
            }
        }
    }

    fn token(&self, header: Value, claims: Value) -> String {
        let algorithm = header["alg"].as_str().unwrap_or_default().to_owned();
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = self.sign(&algorithm, message.as_bytes());
        format!("{message}.{}", b64(signature))
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "me", "aud": ["shop"], "exp": NOW + 600, "nbf": NOW - 600, "groups": ["a", "b"],
           "level": 7, "realm": {"roles": ["cook"]}, "https://x.example/k": "v"})
}

fn with(more: Value) -> Value {
    let mut all = claims();
    for (name, value) in more.as_object().unwrap() {
        all[name] = value.clone();
    }
    all
}

fn rule(keys: &[Value]) -> wire::JwtRule {
    wire::JwtRule {
        issuer: ISSUER.into(),
        audiences: vec!["shop".into()],
        jwks: json!({ "keys": keys }).to_string(),
        forward_original_token: true,
        ..wire::JwtRule::default()
    }
}

fn compiled(rules: Vec<wire::JwtRule>) -> Authentications {
    let object =
        wire::Authentication { namespace: "shop".into(), name: "jwt".into(), rules, ..wire::Authentication::default() };
    let (compiled, faults) = Authentications::compile(&[object]);
    assert_eq!(faults, Vec::<String>::new());
    compiled
}

fn headers(lines: &[(&str, &str)]) -> HeaderMap {
    let pairs = lines.iter().map(|(name, value)| {
        let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
        (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
    });
    let mut map = HeaderMap::new();
    pairs.for_each(|(name, value)| {
        map.append(name, value);
    });
    map
}

fn bearer(token: &str) -> HeaderMap {
    headers(&[("authorization", &format!("Bearer {token}"))])
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn check(rules: &Authentications, headers: &mut HeaderMap, query: Option<&str>) -> Result<Authenticated, Refused> {
    rules.authenticate(&mut Cache::default(), headers, query, at(NOW))
}

fn outcome(rules: &Authentications, token: &str) -> Result<(), Refused> {
    check(rules, &mut bearer(token), None).map(|a| assert_eq!(a.claims.unwrap().text("sub"), Some("me")))
}

#[test]
fn every_algorithm_is_accepted_with_a_key_of_its_type_and_with_no_other() {
    let rsa = Signer::rsa();
    let (p256, p384) = (Signer::ec(&ECDSA_P256_SHA256_FIXED_SIGNING), Signer::ec(&ECDSA_P384_SHA384_FIXED_SIGNING));
    let (p521, ed) = (Signer::ec(&ECDSA_P521_SHA512_FIXED_SIGNING), Signer::ed());
    let signers = [
        (&rsa, "RS256 RS384 RS512 PS256 PS384 PS512"),
        (&p256, "ES256"),
        (&p384, "ES384"),
        (&p521, "ES512"),
        (&ed, "EdDSA Ed25519"),
    ];
    let all = "RS256 RS384 RS512 PS256 PS384 PS512 ES256 ES384 ES512 EdDSA Ed25519";
    for (signer, fitting) in signers {
        let rules = compiled(vec![rule(&[signer.jwk(json!({}))])]);
        for algorithm in all.split(' ') {
            let got = outcome(&rules, &signer.token(json!({"alg": algorithm}), claims()));
            let fits = fitting.split(' ').any(|f| f == algorithm);
            let want = if fits { Ok(()) } else { Err(Refused::Token(TokenError::NoKey)) };
            assert_eq!(got, want, "{fitting} {algorithm}");
        }
    }
    // A key that says its algorithm is for no other one.
    let rules = compiled(vec![rule(&[rsa.jwk(json!({"alg": "PS256"}))])]);
    assert_eq!(outcome(&rules, &rsa.token(json!({"alg": "PS256"}), claims())), Ok(()));
    assert_eq!(outcome(&rules, &rsa.token(json!({"alg": "RS256"}), claims())), Err(TokenError::NoKey.into()));
}

/// A token of which one thing is wrong.
fn forgeries(rsa: &Signer, other: &Signer) -> Vec<(&'static str, String, Refused)> {
    let good = rsa.token(json!({"alg": "RS256", "kid": "1"}), claims());
    let [header, payload, signature] = good.split('.').collect::<Vec<_>>()[..] else { panic!("three parts") };
    let signed = |header: Value, claims: Value| rsa.token(header, claims);
    let raw = |header: &str, payload: &str| {
        let message = format!("{}.{}", b64(header), b64(payload));
        format!("{message}.{}", b64(rsa.sign("RS256", message.as_bytes())))
    };
    let bare = |alg: &str| format!("{}.{payload}.", b64(json!({"alg": alg}).to_string()));
    // The classic: the public key as the secret of an HMAC.
    let public = rsa.jwk(json!({})).to_string();
    let message = format!("{}.{payload}", b64(r#"{"alg":"HS256","kid":"1"}"#));
    let mac = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, public.as_bytes()), message.as_bytes());
    let confused = format!("{message}.{}", b64(mac));
    let own = other.jwk(json!({"kid": "1"}));
    let by_other = |header: Value| other.token(header, claims());
    let rs = || json!({"alg": "RS256", "kid": "1"});
    let text = claims().to_string();
    let twice = text.replacen('{', r#"{"sub":"root","#, 1);
    let padding = "p".repeat(super::token::MAX_TOKEN);
    let form = || Refused::Token(TokenError::Form);
    let t = Refused::Token;
    vec![
        ("none", bare("none"), t(TokenError::Algorithm)),
        ("None", bare("None"), t(TokenError::Algorithm)),
        ("nOnE with signature", format!("{}{signature}", bare("nOnE")), t(TokenError::Algorithm)),
        ("empty algorithm", bare(""), t(TokenError::Algorithm)),
        ("HMAC with the public key", confused, t(TokenError::Algorithm)),
        ("lower case", signed(json!({"alg": "rs256"}), claims()), t(TokenError::Algorithm)),
        ("no algorithm", signed(json!({"kid": "1"}), claims()), form()),
        ("no signature", format!("{header}.{payload}."), t(TokenError::Signature)),
        ("other signature", by_other(rs()), t(TokenError::Signature)),
        ("own key inside", by_other(json!({"alg": "RS256", "kid": "1", "jwk": own})), t(TokenError::Signature)),
        (
            "own key by address",
            by_other(json!({"alg": "RS256", "jku": "https://evil.example/k"})),
            t(TokenError::Signature),
        ),
        ("own certificate", by_other(json!({"alg": "RS256", "x5c": ["MIIB"]})), t(TokenError::Signature)),
        ("key id as a path", by_other(json!({"alg": "RS256", "kid": "../../dev/null"})), t(TokenError::NoKey)),
        ("key id as a query", by_other(json!({"alg": "RS256", "kid": "1' OR '1'='1"})), t(TokenError::NoKey)),
        ("key id no text", raw(r#"{"alg":"RS256","kid":1}"#, &text), form()),
        ("unknown key id", signed(json!({"alg": "RS256", "kid": "2"}), claims()), t(TokenError::NoKey)),
        ("algorithm twice", raw(r#"{"alg":"RS256","alg":"none"}"#, &text), form()),
        ("header changed", format!("{}.{payload}.{signature}", b64(r#"{"alg":"RS256"}"#)), t(TokenError::Signature)),
        (
            "payload changed",
            format!("{header}.{}.{signature}", b64(with(json!({"sub": "root"})).to_string())),
            t(TokenError::Signature),
        ),
        (
            "PSS taken for PKCS1",
            signed(json!({"alg": "RS256"}), claims()).replacen(
                &b64(r#"{"alg":"RS256"}"#),
                &b64(r#"{"alg":"PS256"}"#),
                1,
            ),
            t(TokenError::Signature),
        ),
        ("expired", signed(rs(), with(json!({"exp": NOW - 61}))), t(TokenError::Expired)),
        ("expires now, leeway over", signed(rs(), with(json!({"exp": NOW - 60}))), t(TokenError::Expired)),
        ("expiry as text", signed(rs(), with(json!({"exp": "9999999999"}))), form()),
        ("expiry twice", raw(&rs().to_string(), &text.replacen('{', r#"{"exp":9999999999,"#, 1)), form()),
        ("not yet", signed(rs(), with(json!({"nbf": NOW + 61}))), t(TokenError::NotYet)),
        ("other audience", signed(rs(), with(json!({"aud": "till"}))), t(TokenError::Audience)),
        ("audience within", signed(rs(), with(json!({"aud": "shop2"}))), t(TokenError::Audience)),
        ("no audience", signed(rs(), with(json!({"aud": []}))), t(TokenError::Audience)),
        ("audience no text", signed(rs(), with(json!({"aud": {"shop": 1}}))), form()),
        ("other issuer", signed(rs(), with(json!({"iss": "https://evil.example"}))), Refused::UnknownIssuer),
        ("issuer with slash", signed(rs(), with(json!({"iss": "https://issuer.example/"}))), Refused::UnknownIssuer),
        ("issuer in capitals", signed(rs(), with(json!({"iss": "HTTPS://ISSUER.EXAMPLE"}))), Refused::UnknownIssuer),
        ("no issuer", signed(rs(), json!({"sub": "me"})), Refused::UnknownIssuer),
        ("subject twice", raw(&rs().to_string(), &twice), form()),
        (
            "critical headers",
            signed(json!({"alg": "RS256", "kid": "1", "crit": ["b64"], "b64": false}), claims()),
            t(TokenError::Critical),
        ),
        ("nested", signed(json!({"alg": "RS256", "kid": "1", "cty": "JWT"}), claims()), t(TokenError::Nested)),
        ("encrypted", format!("{good}.{payload}.{signature}"), form()),
        ("two parts", format!("{header}.{payload}"), form()),
        ("one part", "opaque".to_owned(), form()),
        ("padded", format!("{good}="), form()),
        ("other alphabet", good.replace(['-', '_'], "+"), form()),
        ("spaces", format!("{header}. {payload}.{signature}"), form()),
        ("too long", signed(rs(), with(json!({ "padding": padding }))), t(TokenError::TooLong)),
        ("not an object", raw(&rs().to_string(), "[1]"), form()),
        ("too deep", raw(&rs().to_string(), &format!("{{\"x\":{}{}}}", "[".repeat(200), "]".repeat(200))), form()),
    ]
}

#[test]
fn forged_tokens_are_refused_with_their_reason() {
    let (rsa, other) = (Signer::rsa(), Signer::rsa());
    let rules = compiled(vec![rule(&[rsa.jwk(json!({"kid": "1"}))])]);
    assert_eq!(outcome(&rules, &rsa.token(json!({"alg": "RS256", "kid": "1"}), claims())), Ok(()));
    let forgeries = forgeries(&rsa, &other);
    for (name, token, why) in &forgeries {
        // The alphabet of base64 hits only tokens that hold one of its two last signs.
        if *name != "other alphabet" || token.contains('+') {
            assert_eq!(outcome(&rules, token), Err(why.clone()), "{name}");
        }
    }
    assert!(forgeries.len() >= 40);
}

#[test]
fn a_token_with_any_letter_changed_is_refused() {
    let ed = Signer::ed();
    let rules = compiled(vec![rule(&[ed.jwk(json!({}))])]);
    let good = ed.token(json!({"alg": "EdDSA", "kid": "1"}), claims());
    for (at, letter) in good.char_indices() {
        for other in ['A', 'b', '.', '=', '%', '\u{e9}'] {
            if letter != other {
                let changed = format!("{}{other}{}", &good[..at], &good[at + 1..]);
                assert!(outcome(&rules, &changed).is_err(), "{other} at {at}");
            }
        }
    }
}

#[test]
fn times_are_forgiven_a_minute_or_what_the_rule_says() {
    let ed = Signer::ed();
    let token = |claims: Value| ed.token(json!({"alg": "EdDSA"}), claims);
    let rules = compiled(vec![rule(&[ed.jwk(json!({}))])]);
    assert_eq!(outcome(&rules, &token(with(json!({"exp": NOW - 59, "nbf": NOW + 60})))), Ok(()));
    assert_eq!(outcome(&rules, &token(with(json!({"exp": 1.8e9 + 0.5})))), Ok(()));
    assert_eq!(outcome(&rules, &token(json!({"iss": ISSUER, "sub": "me", "aud": "shop"}))), Ok(()));
    let strict = wire::JwtRule { leeway: Some(prost_types::Duration::default()), ..rule(&[ed.jwk(json!({}))]) };
    let strict = compiled(vec![strict]);
    assert_eq!(outcome(&strict, &token(with(json!({"exp": NOW})))), Err(TokenError::Expired.into()));
    assert_eq!(outcome(&strict, &token(with(json!({"exp": NOW + 1})))), Ok(()));
}

#[test]
fn issuers_do_not_sign_for_each_other() {
    let (one, two) = (Signer::ed(), Signer::ed());
    let mut second = rule(&[two.jwk(json!({}))]);
    second.issuer = "https://two.example".into();
    second.from_headers = vec![wire::JwtHeader { name: "x-two".into(), prefix: String::new() }];
    let rules = compiled(vec![rule(&[one.jwk(json!({}))]), second]);
    let ed = || json!({"alg": "EdDSA"});
    assert_eq!(outcome(&rules, &one.token(ed(), claims())), Ok(()));
    let of_two = || with(json!({"iss": "https://two.example"}));
    let crossed = one.token(ed(), of_two());
    let at_two = |token: &str| check(&rules, &mut headers(&[("x-two", token)]), None).map(|_| ());
    assert_eq!(at_two(&crossed), Err(TokenError::Signature.into()));
    assert_eq!(at_two(&two.token(ed(), of_two())), Ok(()));
    // Valid, but not where that issuer's tokens may stand.
    assert_eq!(outcome(&rules, &two.token(ed(), of_two())), Err(Refused::UnknownIssuer));
    let both =
        [("x-two", two.token(ed(), of_two())), ("authorization", format!("Bearer {}", one.token(ed(), claims())))];
    let mut both = headers(&[(both[0].0, &both[0].1), (both[1].0, &both[1].1)]);
    assert_eq!(check(&rules, &mut both, None).map(|_| ()), Err(Refused::Ambiguous));
}

#[test]
fn a_token_is_found_where_rules_look_and_only_one_is_believed() {
    let ed = Signer::ed();
    let good = ed.token(json!({"alg": "EdDSA"}), claims());
    let jwk = [ed.jwk(json!({}))];
    let everywhere = wire::JwtRule {
        from_headers: vec![wire::JwtHeader { name: "X-Token".into(), prefix: "jwt=".into() }],
        from_params: vec!["t".into()],
        from_cookies: vec!["session".into()],
        ..rule(&jwk)
    };
    let (usual, everywhere) = (compiled(vec![rule(&jwk)]), compiled(vec![everywhere]));
    let query = |name: &str| format!("a=1&{name}={good}&b=2");
    let found = |rules: &Authentications, lines: &[(&str, String)], query: Option<&str>| {
        let lines: Vec<(&str, &str)> = lines.iter().map(|(n, v)| (*n, v.as_str())).collect();
        check(rules, &mut headers(&lines), query).map(|a| a.claims.is_some())
    };
    let auth = |value: String| ("authorization", value);
    for (rules, lines, query, want) in [
        (&usual, vec![auth(format!("Bearer {good}"))], None, Ok(true)),
        (&usual, vec![auth(format!("bearer  {good}"))], None, Ok(true)),
        (&usual, vec![auth(format!("Basic {good}"))], None, Ok(false)),
        (&usual, vec![], Some(query("access_token")), Ok(true)),
        (&usual, vec![], Some(query("t")), Ok(false)),
        (&usual, vec![], None, Ok(false)),
        (&usual, vec![auth("Bearer opaque".into())], None, Err(TokenError::Form.into())),
        (&usual, vec![auth("Bearer \u{e9}".into())], None, Err(TokenError::Form.into())),
        (&usual, vec![auth(format!("Bearer {good}")), auth(format!("Bearer {good}"))], None, Ok(true)),
        (&usual, vec![auth(format!("Bearer {good}")), auth("Bearer other".into())], None, Err(Refused::Ambiguous)),
        (&usual, vec![auth(format!("Bearer {good}"))], Some("access_token=other".into()), Err(Refused::Ambiguous)),
        (&usual, vec![], Some(format!("access_token={good}&access_token=x")), Err(Refused::Ambiguous)),
        (&everywhere, vec![("x-token", format!("jwt={good}"))], None, Ok(true)),
        (&everywhere, vec![("x-token", good.clone())], None, Ok(false)),
        (&everywhere, vec![auth(format!("Bearer {good}"))], None, Ok(false)),
        (&everywhere, vec![], Some(query("t")), Ok(true)),
        (&everywhere, vec![("cookie", format!("a=b; session={good}"))], None, Ok(true)),
        (&everywhere, vec![("cookie", "a=b".into()), ("cookie", format!("session=\"{good}\""))], None, Ok(true)),
        (&everywhere, vec![("cookie", format!("session=x; session={good}"))], None, Err(Refused::Ambiguous)),
    ] {
        assert_eq!(found(rules, &lines, query.as_deref()), want, "{lines:?} {query:?}");
    }
}

#[test]
fn the_token_goes_on_only_where_the_rule_says_so() {
    let ed = Signer::ed();
    let token = ed.token(json!({"alg": "EdDSA"}), claims());
    let rule = wire::JwtRule {
        forward_original_token: false,
        from_headers: vec![wire::JwtHeader { name: "authorization".into(), prefix: "Bearer ".into() }],
        from_params: vec!["t".into(), "u".into()],
        from_cookies: vec!["session".into()],
        ..rule(&[ed.jwk(json!({}))])
    };
    let rules = compiled(vec![rule]);
    let value = format!("Bearer {token}");
    let crumbs = format!("a=b; session={token}; c=d");
    let mut map = headers(&[("authorization", &value), ("cookie", &crumbs), ("cookie", "e=f"), ("x", "y")]);
    let query = format!("q=%20&t={token}&u={token}&r");
    let done = check(&rules, &mut map, Some(&query)).unwrap();
    assert_eq!(done.query.as_deref(), Some("q=%20&r"));
    let left: Vec<(&str, &str)> = map.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap())).collect();
    assert_eq!(left, [("cookie", "a=b; c=d; e=f"), ("x", "y")]);
    // A query without the token is left alone.
    let done = check(&rules, &mut bearer(&token), Some("q=1")).unwrap();
    assert_eq!(done.query, None);
}

#[test]
fn headers_of_claims_come_from_the_token_or_not_at_all() {
    let ed = Signer::ed();
    let token = ed.token(json!({"alg": "EdDSA"}), with(json!({"bad": "a\nb"})));
    let claim = |header: &str, claim: &str| wire::ClaimHeader { header: header.into(), claim: claim.into() };
    let rule = wire::JwtRule {
        output_payload_to_header: "X-Payload".into(),
        output_claim_to_headers: vec![
            claim("x-sub", "sub"),
            claim("x-level", "level"),
            claim("x-groups", "groups"),
            claim("x-roles", "realm.roles"),
            claim("x-k", "https://x.example/k"),
            claim("x-none", "missing"),
            claim("x-bad", "bad"),
        ],
        ..rule(&[ed.jwk(json!({}))])
    };
    let rules = compiled(vec![rule]);
    let mut map = bearer(&token);
    for name in ["x-sub", "X_Sub", "x-none", "x-bad", "x_payload", "x-payload"] {
        map.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_static("forged"));
    }
    let mut without = map.clone();
    without.remove("authorization");
    check(&rules, &mut map, None).unwrap();
    let get = |name: &str| map.get(name).map(|v| v.to_str().unwrap());
    assert_eq!(get("x-payload"), token.split('.').nth(1));
    assert_eq!((get("x-sub"), get("x-level"), get("x-k")), (Some("me"), Some("7"), Some("v")));
    assert_eq!((get("x-groups"), get("x-roles")), (Some(&*b64(r#"["a","b"]"#)), Some(&*b64(r#"["cook"]"#))));
    assert_eq!((get("x-none"), get("x-bad"), get("x_sub"), get("x_payload")), (None, None, None, None));
    check(&rules, &mut without, None).unwrap();
    assert!(without.is_empty(), "{without:?}");
}

#[test]
fn what_cannot_be_understood_refuses_tokens_and_lets_others_pass_unauthenticated() {
    let ed = Signer::ed();
    let token = ed.token(json!({"alg": "EdDSA"}), claims());
    let good = rule(&[ed.jwk(json!({}))]);
    let invalid = |reason: &str| Some(wire::Invalid { reason: reason.into() });
    let object = |rules, invalid| wire::Authentication { namespace: "n".into(), name: "a".into(), rules, invalid };
    let missing = wire::JwtRule { keys_missing: invalid("404"), ..good.clone() };
    let oct = json!({"kty": "oct", "k": b64("secret")});
    let small = json!({"kty": "RSA", "n": b64([255; 128]), "e": "AQAB"});
    let encryption = ed.jwk(json!({"use": "enc"}));
    let with_keys = |keys: &[Value]| rule(keys);
    let text = |jwks: &str| wire::JwtRule { jwks: jwks.into(), ..good.clone() };
    let keys_missing = Refused::KeysMissing(ISSUER.into());
    for (objects, refused, fault) in [
        (
            vec![object(vec![missing], None)],
            keys_missing.clone(),
            "n/a: jwtRules[0]: no token of https://issuer.example is accepted: 404",
        ),
        (vec![object(vec![with_keys(&[oct])], None)], keys_missing.clone(), "symmetric keys are not accepted"),
        (vec![object(vec![with_keys(&[small])], None)], keys_missing.clone(), "RSA key of 1024 bits"),
        (vec![object(vec![with_keys(&[encryption])], None)], keys_missing.clone(), "no key for signatures"),
        (vec![object(vec![text("{")], None)], keys_missing.clone(), "cannot be read"),
        (vec![object(vec![text("{\"keys\":[]}")], None)], keys_missing, "no key for signatures"),
        (
            vec![object(vec![good.clone()], None), object(vec![], invalid("two issuers"))],
            Refused::Misunderstood("n/a: two issuers".into()),
            "n/a: two issuers",
        ),
        (
            vec![object(vec![wire::JwtRule { issuer: String::new(), ..good.clone() }], None)],
            Refused::Misunderstood("n/a: jwtRules[0].issuer is empty: name the issuer".into()),
            "issuer is empty",
        ),
        (
            vec![object(
                vec![wire::JwtRule {
                    from_headers: vec![wire::JwtHeader { name: "a b".into(), prefix: String::new() }],
                    ..good.clone()
                }],
                None,
            )],
            Refused::Misunderstood("n/a: jwtRules[0].fromHeaders[0]: \"a b\" is not the name of a header".into()),
            "fromHeaders[0]",
        ),
    ] {
        let (rules, faults) = Authentications::compile(&objects);
        assert!(faults.iter().any(|f| f.contains(fault)), "{faults:?}");
        assert_eq!(outcome(&rules, &token), Err(refused));
        assert!(check(&rules, &mut HeaderMap::new(), None).unwrap().claims.is_none());
    }
    // One bad key beside a good one costs only a remark.
    let (rules, faults) = Authentications::compile(&[object(
        vec![with_keys(&[json!({"kty": "weird"}), ed.jwk(json!({"use": "sig", "key_ops": ["verify"]}))])],
        None,
    )]);
    assert_eq!((faults.len(), outcome(&rules, &token)), (1, Ok(())));
}

#[test]
fn the_cache_is_bounded_and_forgets_neither_times_nor_rules() {
    let ed = Signer::ed();
    let make = |n: u64| ed.token(json!({"alg": "EdDSA"}), with(json!({ "n": n })));
    let rules = compiled(vec![rule(&[ed.jwk(json!({}))])]);
    let mut cache = Cache::default();
    let mut ask = |rules: &Authentications, token: &str, now: u64| {
        rules.authenticate(&mut cache, &mut bearer(token), None, at(now)).map(|a| a.claims.is_some())
    };
    let token = make(0);
    assert_eq!(ask(&rules, &token, NOW), Ok(true));
    // Known, and still judged by the clock.
    assert_eq!(ask(&rules, &token, NOW + 661), Err(TokenError::Expired.into()));
    assert_eq!(ask(&rules, &token, NOW + 659), Ok(true));
    // New rules know nothing of it.
    let others = compiled(vec![rule(&[Signer::ed().jwk(json!({}))])]);
    assert_eq!(ask(&others, &token, NOW), Err(TokenError::Signature.into()));
    for n in 0..5000 {
        assert_eq!(ask(&rules, &make(n), NOW), Ok(true));
    }
    assert!(cache.len() <= 2048, "{}", cache.len());
    assert_ne!(super::cache::key(1, "a"), super::cache::key(2, "a"));
    assert_eq!(super::cache::key(1, "a").len(), digest::SHA256.output_len());
}

#[test]
fn the_challenge_repeats_nothing_of_the_token() {
    let refused = Refused::Token(TokenError::Expired);
    assert_eq!(refused.challenge("cart.shop"), "Bearer realm=\"cart.shop\", error=\"invalid_token\"");
    assert_eq!(refused.challenge("a\"b\\\r\n"), "Bearer realm=\"ab\", error=\"invalid_token\"");
}
