use std::collections::BTreeMap;
use std::io::Write;
use std::net::IpAddr;

use serde::Deserialize;

use super::*;

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Shop {
    name: String,
    #[serde(default)]
    mode: Mode,
    #[serde(default)]
    pods: Vec<Pod>,
    #[serde(default)]
    timeout: Option<Span>,
    #[serde(default)]
    matcher: Option<Matcher>,
    #[serde(default)]
    source: Option<Source>,
}

#[derive(Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum Mode {
    #[default]
    Mtls,
    Direct,
}

/// Variants with content, named by their key.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
enum Matcher {
    /// The whole.
    Exact(String),
    /// The start.
    Prefix(String),
    /// Anything.
    Any,
}

/// Variants named by a field.
#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
enum Source {
    File { path: String },
    Url { url: String, retries: u8 },
}

#[derive(Debug, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Pod {
    address: IpAddr,
    port: u16,
    #[serde(default)]
    budget: Size,
    #[serde(default)]
    ports: BTreeMap<u16, u16>,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    host_network: bool,
}

impl Check for Shop {
    fn check(&self, report: &mut Report) {
        for (i, pod) in self.pods.iter().enumerate() {
            report.at("/pods").at(i).check(pod);
        }
    }
}

impl Check for Pod {
    fn check(&self, report: &mut Report) {
        if self.port == 0 {
            report.at("/port").mistake("0 is not a port", "use 1 to 65535");
        }
        if self.labels.contains_key("a/b") {
            report.at("/labels").at("a/b").mistake("is reserved", "use another label");
        }
    }
}

fn lines(text: &str) -> Vec<String> {
    parse::<Shop>("shop.yaml", text).expect_err("has mistakes").to_string().lines().map(str::to_owned).collect()
}

#[test]
fn a_right_document_is_read() {
    let text = "name: shop\nmode: direct\npods:\n  - address: fd00::1\n    port: 80\n    budget: 64KiB\n    ports: {80: 8080}\n    \
                hostNetwork: true\ntimeout: 250ms\nmatcher: {Exact: x}\nsource: {kind: url, url: u, retries: 3}\n";
    let shop: Shop = parse("shop.yaml", text).unwrap();
    assert_eq!(shop.mode, Mode::Direct);
    assert_eq!(shop.timeout, Some(Span::from_millis(250)));
    assert_eq!(shop.pods[0].ports[&80], 8080);
    assert_eq!(shop.pods[0].budget, Size(64 << 10));
    assert_eq!(shop.matcher, Some(Matcher::Exact("x".into())));
    assert_eq!(shop.source, Some(Source::Url { url: "u".into(), retries: 3 }));
    assert_eq!(parse::<Shop>("f", "{\"name\": \"json\", \"matcher\": \"Any\"}").unwrap().matcher, Some(Matcher::Any));
}

#[test]
fn six_different_mistakes_are_all_told_in_order_of_line() {
    let text = "\
name: shop
mode: dirct
pods:
  - address: 10.0.0.1
    prot: 80
  - address: 10.0.0.300
    port: 99999
  - address: 10.0.0.2
    port: \"80\"
    port: 81
timeout: 5 parsecs
";
    assert_eq!(
        lines(text),
        [
            r#"shop.yaml:2:7: mode: "dirct" is not allowed here; did you mean direct? Use one of: mtls, direct"#,
            r#"shop.yaml:5:5: pods[0].prot: unknown key "prot"; did you mean "port"?"#,
            "shop.yaml:6:14: pods[1].address: invalid IP address syntax; write an address such as 10.0.0.1 or fd00::1",
            "shop.yaml:7:11: pods[1].port: 99999 is out of range; use 0 to 65535",
            r#"shop.yaml:9:11: pods[2].port: wants a whole number, got "80"; remove the quotes: 80"#,
            r#"shop.yaml:10:5: pods[2].port: "port" is given twice, first on line 9; keep one of them"#,
            r#"shop.yaml:11:10: timeout: "5 parsecs" is not a duration; write a number and a unit (ms, s, m, h), such as 250ms or 5s"#,
        ]
    );
}

#[test]
fn the_types_own_check_speaks_last_and_with_places() {
    let text = "name: shop\npods:\n  - {address: 10.0.0.1, port: 1}\n  - address: 10.0.0.2\n    port: 0\n    labels:\n      a/b: x\n";
    assert_eq!(
        lines(text),
        [
            "shop.yaml:5:11: pods[1].port: 0 is not a port; use 1 to 65535",
            "shop.yaml:7:12: pods[1].labels.a/b: is reserved; use another label",
        ]
    );
}

#[test]
fn each_shape_mistake_names_its_remedy() {
    let mut differ = Vec::new();
    for (text, want) in [
        ("mode: direct", r#"1:1: "name" is missing; add `name: <text>`"#),
        ("name: 1.10", r#"1:7: name: wants text, got 1.10; quote it: "1.10""#),
        (
            "name: yes\npods: 3",
            "2:7: pods: wants a list, got 3; write a list: each item on a line of its own after `- `",
        ),
        ("name:", "1:5: name: wants text, got nothing; give it a value, or remove the key"),
        (
            "name: a\ncolour: red",
            "2:1: colour: unknown key \"colour\"; known keys: matcher, mode, name, pods, source, timeout",
        ),
        ("name: a\ntimeout: 5", "2:10: timeout: wants text, got 5; write it like 250ms or 5s or 1h"),
        (
            "name: a\npods: [{address: ::1, port: 1, hostNetwork: yes}]",
            r#"2:45: pods[0].hostNetwork: wants true or false, got "yes"; write true"#,
        ),
        (
            "name: a\npods: [{address: ::1, port: 1, ports: {http: 80}}]",
            "2:40: pods[0].ports.http: unknown key \"http\"; the keys here are whole numbers",
        ),
        (
            "name: a\npods: [{address: ::1, port: 1, ports: {99999: 80}}]",
            "2:40: pods[0].ports.99999: invalid value: integer `99999`, expected u16; write a value of the form that the field wants",
        ),
        (
            "name: a\nmatcher: {Exakt: x}",
            "2:11: matcher.Exakt: unknown key \"Exakt\"; did you mean \"Exact\"? Use one of: Exact, Prefix",
        ),
        ("name: a\nmatcher: {Exact: 5}", r#"2:18: matcher.Exact: wants text, got 5; quote it: "5""#),
        (
            "name: a\nmatcher: Anny",
            r#"2:10: matcher: "Anny" is not allowed here; write Any, or a map with one of: Exact, Prefix"#,
        ),
        (
            "name: a\nmatcher: {Exact: x, Prefix: y}",
            "2:10: matcher: several keys where one is wanted; use one of: Exact, Prefix",
        ),
        ("name: a\nsource: {kind: ftp}", r#"2:16: source.kind: "ftp" is not allowed here; use one of: file, url"#),
        (
            "name: a\nsource: {kind: url, url: u, retries: 300}",
            "2:38: source.retries: 300 is out of range; use 0 to 255",
        ),
        ("name: a\nsource: {kind: file, pth: x}", "2:22: source.pth: unknown key \"pth\"; did you mean \"path\"?"),
        ("- a", "1:1: wants a map, got a list; write `key: value` lines below it"),
        ("name: a\ntimeout: .inf", "2:10: timeout: .inf is not a finite number; quote it if a text is meant"),
    ] {
        let got = lines(text);
        if got != [format!("shop.yaml:{want}")] {
            differ.push((text, want, got));
        }
    }
    assert!(differ.is_empty(), "{differ:#?}");
}

#[test]
fn what_makes_yaml_hard_to_read_is_refused() {
    for (text, want) in [
        ("", "1:1: the document is empty; write at least {} to take every default"),
        ("# only a comment\n", "1:1: the document is empty; write at least {} to take every default"),
        ("---\n", "1:1: the document is empty; write at least {} to take every default"),
        ("name: a\n---\nname: b\n", "2:1: a second document starts here; one file holds one document; split the file"),
        ("name: &x a\n", "1:7: name: anchors (&name) are not supported; write the value out where it is needed"),
        (
            "name: !!str 5\n",
            "1:7: name: tags (!name) are not supported; leave the tag out; quote the value if a text is meant",
        ),
        ("name: a\n[x]: 5\n", "2:1: a key must be plain text; write the key as one word or a quoted text"),
        (
            "name: 99999999999999999999999\n",
            "1:7: name: 99999999999999999999999 is a number too large for 64 bits; quote it if a text is meant",
        ),
        ("name: a\nname: b\n", "2:1: name: \"name\" is given twice, first on line 1; keep one of them"),
    ] {
        let got = lines(text);
        assert_eq!(got, [format!("shop.yaml:{want}")], "{text:?}");
    }
    let anchored = lines("name: &x a\nmatcher:\n  Exact: *x\n");
    assert_eq!(anchored[1], "shop.yaml:3:10: matcher.Exact: an alias (*name) is not supported; write the value out");
    assert_eq!(anchored.len(), 2, "{anchored:?}");
    let merged = lines("name: a\npods:\n- <<: {port: 1}\n  address: ::1\n  port: 1\n");
    assert_eq!(merged, ["shop.yaml:3:3: pods[0]: merge keys (<<) are not supported; write the keys out"]);
}

#[test]
fn a_syntax_error_tells_its_place_and_no_guesses() {
    let got = lines("name: a\npods:\n  - address: [1\nmode: x\n");
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(got[0].starts_with("shop.yaml:4:") || got[0].starts_with("shop.yaml:5:"), "{got:?}");
    assert!(got[0].contains("not YAML"), "{got:?}");
    let tab = lines("name: a\npods:\n\t- address: ::1\n");
    assert!(tab[0].ends_with("indent with spaces, YAML allows no tabs there"), "{tab:?}");
}

#[test]
fn nesting_is_bounded() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let got = lines(&deep);
    assert!(got[0].contains("deeper than 64 levels") || got[0].contains("not YAML"), "{}", got[0]);
}

#[test]
fn files_are_read_and_the_unreadable_is_a_mistake() {
    let dir = std::env::temp_dir().join(format!("document-test-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    let path = dir.join("shop.yaml");
    std::fs::write(&path, "\u{feff}name: a\r\nmode: mtls\r\n").unwrap();
    let read = load::<Shop>(&path);
    let mut file = std::fs::File::create(&path).unwrap();
    file.write_all(b"name: a\nmode: \"\xff\"\n").unwrap();
    drop(file);
    let garbled = load::<Shop>(&path).unwrap_err();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!(read.unwrap().name, "a");
    assert_eq!((garbled.0[0].line, garbled.0[0].column), (2, 8));
    let absent = load::<Shop>(&path).unwrap_err();
    assert!(absent.to_string().contains("cannot read the file"), "{absent}");
}
