//! The canonical path, as tables and against a reading of RFC 3986 that is written in another way.

use proptest::prelude::*;

use super::{Encoded, PathError, path};

#[test]
fn every_spelling_of_a_path_becomes_one() {
    for (raw, want) in [
        ("", "/"),
        ("/", "/"),
        ("*", "*"),
        ("/a/b", "/a/b"),
        ("/a/b/", "/a/b/"),
        ("//a///b//", "/a/b/"),
        ("/%61%2Db%7E", "/a-b~"),
        ("/%2f", "/%2F"),
        ("/a%2fb%5c", "/a%2Fb%5C"),
        ("/%c3%a9", "/%C3%A9"),
        ("/\u{e9}", "/%C3%A9"),
        ("/a b\"<>^`{|}", "/a%20b%22%3C%3E%5E%60%7B%7C%7D"),
        ("/a%7cb", "/a%7Cb"),
        ("/!$&'()*+,;=:@", "/!$&'()*+,;=:@"),
        ("/%21%24%26%27%28%29%2a%2b%2c%3b%3d%3a%40", "/%21%24%26%27%28%29%2A%2B%2C%3B%3D%3A%40"),
        ("/a/./b", "/a/b"),
        ("/a/../b", "/b"),
        ("/a/%2e%2E/b", "/b"),
        ("/a/.%2e", "/"),
        ("/a/b/..", "/a/"),
        ("/a/b/.", "/a/b/"),
        ("/../../a", "/a"),
        ("/a//../b", "/b"),
        ("/...", "/..."),
        ("/.a/..b/c.", "/.a/..b/c."),
        ("\\a\\..\\b", "/b"),
        ("/a\\b", "/a/b"),
        ("/a;x=1/b", "/a;x=1/b"),
        ("/a;/../b", "/b"),
        ("/%25", "/%25"),
        ("/%2525", "/%2525"),
        ("/.well-known/x", "/.well-known/x"),
    ] {
        assert_eq!(path(raw, Encoded::Kept).as_deref(), Ok(want), "{raw:?}");
    }
}

#[test]
fn what_can_be_read_in_two_ways_is_refused() {
    use PathError as E;
    for (raw, kept, refused) in [
        ("a", Some(E::NotAbsolute), Some(E::NotAbsolute)),
        ("%2f", Some(E::NotAbsolute), Some(E::NotAbsolute)),
        ("/a%", Some(E::Escape), Some(E::Escape)),
        ("/a%2", Some(E::Escape), Some(E::Escape)),
        ("/a%zz", Some(E::Escape), Some(E::Escape)),
        ("/%u002e", Some(E::Escape), Some(E::Escape)),
        ("/%2%66", Some(E::Escape), Some(E::Escape)),
        ("/a%00.css", Some(E::Control), Some(E::Control)),
        ("/a%0d%0aX:1", Some(E::Control), Some(E::Control)),
        ("/a\tb", Some(E::Control), Some(E::Control)),
        ("/%7f", Some(E::Control), Some(E::Control)),
        ("/a#b", Some(E::Fragment), Some(E::Fragment)),
        ("/a?b", Some(E::Query), Some(E::Query)),
        ("/a/..;/b", Some(E::DotParameter), Some(E::DotParameter)),
        ("/a/.;x", Some(E::DotParameter), Some(E::DotParameter)),
        ("/a/%2e%2e%3bx/b", Some(E::DotParameter), Some(E::DotParameter)),
        ("/a%2fb", None, Some(E::EncodedSlash)),
        ("/a/..%5cb", None, Some(E::EncodedSlash)),
        ("/a%252fb", None, Some(E::Doubled)),
        ("/a%25%32%66b", None, Some(E::Doubled)),
        ("/%252e", None, Some(E::Doubled)),
        ("/..%c0%afb", None, Some(E::NotUtf8)),
        ("/%c0%ae%c0%ae/b", None, Some(E::NotUtf8)),
        ("/%e9", None, Some(E::NotUtf8)),
        ("/..%ef%bc%8fb", None, Some(E::LookAlike)),
        ("/\u{ff0e}\u{ff0e}/b", None, Some(E::LookAlike)),
        ("/%e2%80%a5/b", None, Some(E::LookAlike)),
        ("/100%25", None, None),
        ("/%25/a", None, None),
        ("/%c3%a9", None, None),
    ] {
        assert_eq!(path(raw, Encoded::Kept).err(), kept, "kept {raw:?}");
        assert_eq!(path(raw, Encoded::Refused).err(), refused, "refused {raw:?}");
    }
}

#[test]
fn what_is_canonical_is_borrowed() {
    for raw in ["/", "/a/b?".trim_end_matches('?'), "/a;b=c/d@e:f", "/.well-known/x", "/a%20b"] {
        assert!(matches!(path(raw, Encoded::Kept), Ok(std::borrow::Cow::Borrowed(_))), "{raw}");
    }
}

/// RFC 3986 5.2.4 as the text has it: an input and an output buffer, letter by letter.
fn remove_dot_segments(mut input: String) -> String {
    let mut output = String::new();
    while !input.is_empty() {
        if input.starts_with("/./") || input == "/." {
            input = format!("/{}", input.get(3..).unwrap_or_default());
        } else if input.starts_with("/../") || input == "/.." {
            input = format!("/{}", input.get(4..).unwrap_or_default());
            output.truncate(output.rfind('/').unwrap_or(0));
        } else {
            let end = input[1..].find('/').map_or(input.len(), |at| at + 1);
            output.push_str(&input[..end]);
            input = input[end..].to_owned();
        }
    }
    output
}

fn pieces(broken: bool) -> impl Strategy<Value = String> {
    let mut pieces = vec![
        "/", "//", ".", "..", "/..", "/./", "a", "b%20", "%61", "%2e", "%2E", "\\", "%2f", "%25", "2f", ";", "%3b",
        "\u{e9}", "%c3%a9", "%C0", "~", "%7e", "%41", " ", "%00", "{", "*",
    ];
    // Before other pieces it may become another escape.
    pieces.extend(broken.then_some("%"));
    prop::collection::vec(prop::sample::select(pieces), 0..9).prop_map(|p| format!("/{}", p.concat()))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn twice_is_once(raw in pieces(true)) {
        for encoded in [Encoded::Kept, Encoded::Refused] {
            if let Ok(once) = path(&raw, encoded) {
                let twice = path(&once, encoded);
                prop_assert_eq!(twice.as_deref(), Ok(&*once));
            }
        }
    }

    #[test]
    fn dot_segments_go_as_the_rfc_says(raw in pieces(false)) {
        if let Ok(got) = path(&raw, Encoded::Kept) {
            // Merged slashes first, or "/a//.." would name another resource than the one that is left.
            let mut plain = raw.replace('\\', "/");
            for (escape, sign) in [("%61", "a"), ("%2e", "."), ("%2E", "."), ("%7e", "~"), ("%41", "A")] {
                plain = plain.replace(escape, sign);
            }
            while plain.contains("//") {
                plain = plain.replace("//", "/");
            }
            let want = remove_dot_segments(plain);
            let want = want.replace("%2f", "%2F").replace("%3b", "%3B").replace("%c3%a9", "%C3%A9");
            let want = want.replace('\u{e9}', "%C3%A9").replace(' ', "%20").replace('{', "%7B");
            prop_assert_eq!(&*got, want, "{:?}", raw);
        }
    }

    #[test]
    fn nothing_is_left_to_resolve(raw in pieces(true)) {
        if let Ok(got) = path(&raw, Encoded::Refused) {
            prop_assert!(got.starts_with('/') && !got.contains("//") && !got.contains('\\'));
            prop_assert!(!got.split('/').any(|s| s == "." || s == ".."));
            prop_assert!(!got.to_ascii_lowercase().contains("%2f"));
        }
    }
}
