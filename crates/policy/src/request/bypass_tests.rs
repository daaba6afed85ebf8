//! Ways to say one thing to the waypoint and another to the application: every one is put to a DENY policy, to an ALLOW
//! policy that excepts what is forbidden, and to an ALLOW policy that names what is permitted. None may get through.
//!
//! What "getting through" means is told by models of servers: each reads a request in its own careless way (undoing
//! escapes once more, dropping parameters, taking the last of two headers …). A vector counts when some model reads the
//! client's bytes as the forbidden thing; it gets through when it is permitted and some model reads *what is sent on*
//! as the forbidden thing.

use super::canonical::{self, Encoded};
use super::testing::{Ask, allow, compiled, deny, not_paths, paths, texts, to, when};
use super::{Operation, RequestPolicies};

/// How a server reads a path.
#[derive(Clone, Copy, Debug)]
struct Server {
    /// How often escapes are undone.
    undone: u8,
    /// `;x` goes from segments, before or after.
    parameters: bool,
    /// A backslash is a slash.
    backslash: bool,
    /// Trailing dots and spaces go from segments.
    trimmed: bool,
    /// Query and fragment are looked for after escapes are undone.
    late_query: bool,
}

fn servers() -> Vec<Server> {
    let mut all = Vec::new();
    for undone in 0..3 {
        for bits in 0..16u8 {
            let bit = |n: u8| bits & (1 << n) != 0;
            all.push(Server { undone, parameters: bit(0), backslash: bit(1), trimmed: bit(2), late_query: bit(3) });
        }
    }
    all
}

impl Server {
    fn reads(self, raw: &str) -> String {
        let mut text = raw.to_owned();
        for _ in 0..self.undone {
            text = undo(&text);
        }
        if self.late_query || self.undone == 0 {
            text.truncate(text.find(['?', '#']).unwrap_or(text.len()));
        }
        text.truncate(text.find('\0').unwrap_or(text.len()));
        if self.backslash {
            text = text.replace('\\', "/");
        }
        let mut kept: Vec<&str> = Vec::new();
        for segment in text.split('/') {
            let segment = if self.parameters { segment.split(';').next().unwrap_or_default() } else { segment };
            match segment {
                "" | "." => continue,
                ".." => {
                    kept.pop();
                    continue;
                }
                _ => {}
            }
            let segment = if self.trimmed { segment.trim_end_matches(['.', ' ', '\t', '\r', '\n']) } else { segment };
            if !segment.is_empty() {
                kept.push(segment);
            }
        }
        format!("/{}", kept.join("/"))
    }

    fn serves_admin(self, raw: &str) -> bool {
        let read = self.reads(raw);
        read == "/admin" || read.starts_with("/admin/")
    }
}

/// Undoes escapes as careless decoders do: `%u002e` too, overlong and wide signs become what they stand for.
fn undo(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let number =
            |digits: Option<&[u8]>| digits.and_then(|d| u8::from_str_radix(std::str::from_utf8(d).ok()?, 16).ok());
        let wide = *first == b'%' && rest.get(1).is_some_and(|u| u.eq_ignore_ascii_case(&b'u'));
        if let (true, Some(value)) = (wide, number(rest.get(4..6))) {
            bytes.push(value);
            rest = &rest[6..];
            continue;
        }
        if let (b'%', Some(value)) = (*first, number(rest.get(1..3))) {
            bytes.push(value);
            rest = &rest[3..];
            continue;
        }
        bytes.push(*first);
        rest = tail;
    }
    let mut plain = Vec::new();
    let mut rest = bytes.as_slice();
    while let [first, tail @ ..] = rest {
        // Overlong forms of two bytes.
        if let (0xc0 | 0xc1, Some(second)) = (*first, tail.first()) {
            plain.push((*first & 1) << 6 | (*second & 0x3f));
            rest = &tail[1..];
            continue;
        }
        plain.push(*first);
        rest = tail;
    }
    let text = String::from_utf8_lossy(&plain).into_owned();
    let narrow = |c: char| match c {
        '\u{2024}' | '\u{fe52}' | '\u{ff0e}' => '.',
        '\u{ff0f}' => '/',
        '\u{ff3c}' | '\u{fe68}' => '\\',
        '\u{ff05}' | '\u{fe6a}' => '%',
        c => c,
    };
    text.chars().map(narrow).collect::<String>().replace('\u{2025}', "..")
}

/// What stands before the word.
const BEFORE: &[&str] = &[
    "/",
    "//",
    "///",
    "/./",
    "/.//",
    "//./",
    "/%2e/",
    "/%2E//",
    "/x/../",
    "/x/..//",
    "/public/../",
    "/public/%2e%2e/",
    "/public/.%2e/",
    "/public/%2e./",
    "/public/%2E%2E/",
    "/public/x/../../",
    "/public/./../",
    "/public//../",
    "/public/..;/",
    "/public/..;x=y/",
    "/public/..%3b/",
    "/public/%2e%2e;/",
    "/public/..%2f",
    "/public/..%2F",
    "/public/%2e%2e%2f",
    "/public/..%5c",
    "/public/..%5C",
    "/public\\..\\",
    "/public/..\\",
    "/public\\../",
    "\\",
    "/\\",
    "\\\\",
    "/%5c",
    "/%2f",
    "%2f",
    "/;/",
    "/;x/",
    "/;x=y/",
    "/.;/",
    "/%3b/",
    "/public/..%252f",
    "/public/..%25%32%66",
    "/public/%252e%252e/",
    "/public/%252e%252e%252f",
    "/public/..%255c",
    "/public/..%c0%af",
    "/public/%c0%ae%c0%ae/",
    "/public/%c0%ae%c0%ae%c0%af",
    "/public/..%c1%9c",
    "/public/..%ef%bc%8f",
    "/public/%ef%bc%8e%ef%bc%8e/",
    "/public/\u{ff0e}\u{ff0e}/",
    "/public/%e2%80%a5/",
    "/public/..%ef%bc%bc",
    "/public/%u002e%u002e/",
    "/public/..%u002f",
    "/public/;x/../../",
    "/../",
    "/../../",
    "/%2e%2e/",
    "/public/..%2f..%2f",
    "/a.css/../",
    "/public/%2e%2e%5c",
];

/// The word itself.
const WORDS: &[&str] = &["admin", "%61dmin", "a%64%6Din", "%2561dmin", "admi%6e", "%u0061dmin", "%c1%a1dmin"];

/// What stands behind it.
const BEHIND: &[&str] = &[
    "",
    "/",
    "//",
    "/.",
    "/./",
    "/x",
    "/x/..",
    "/x/../y",
    "/%2e",
    "/%2e%2e/admin",
    ";",
    ";x",
    ";x=1/y",
    ";jsessionid=1",
    "%3b",
    "%3bx.css",
    ";.css",
    ";x.css",
    ";/x.css",
    "%20",
    "%20/",
    "%20/x",
    ".",
    "./",
    "./x",
    "%2e",
    "%2e/x",
    "..",
    "%00",
    "%00.css",
    "%0a",
    "%0d%0aX",
    "%09",
    "%2f",
    "%2fx",
    "%2fx.css",
    "%5c",
    "%5cx.css",
    "\\",
    "\\x",
    "%252f",
    "%253b.css",
    "%2500.css",
    "%3f",
    "%3f.css",
    "%3fx=/public/",
    "%23",
    "%23.css",
    "#",
    "#.css",
    "?",
    "?.css",
    "/..%2fadmin",
    "/..;/admin",
    "%c0%af",
    "%ef%bc%8fx",
    "%u002fx",
];

/// Written by hand: what the combinations miss.
const BY_HAND: &[&str] = &[
    "http://cart/admin",
    "//cart/admin",
    "/public/..//admin/",
    "/public/.../admin",
    "/public/..%00/admin",
    "admin",
    "./admin",
    "../admin",
    "/public/%%32%65%%32%65/admin",
    "/%2561dmin/%252e",
    "/public/%2e%2e;x%2fadmin",
    "/ad\u{200d}min",
    "/admin%e2%80%8b",
    "/public/..%09/admin",
    "/public/..%0d/admin",
    "/public/..%20/admin",
    "/public/.%20./admin",
    "/public/..\u{2215}admin",
    "/public/..%e2%88%95admin",
    "/%61%64%6d%69%6e",
    "/%41dmin",
    "/public%2f..%2fadmin",
    "/public%2f%2e%2e%2fadmin.css",
    "/public/../admin;x.css",
    "/public/a/..;a/../admin",
    "/public/a;/..;/..;/admin",
    "/public/\\..\\admin",
    "/public/%5c..%5cadmin",
    "/public/..%25%35%63admin",
    "/public/..%25c0%25af/admin",
    "/%25%36%31dmin",
    "/public?/../admin",
    "/public#/../admin",
    "/public/%23/../../admin",
    "/public/%3f/../../admin",
    "/public/%3f/..%2f..%2fadmin",
    "/;/admin",
    "/;a=b/%61dmin",
    "/.;x/admin",
    "/admin;/",
];

fn vectors() -> Vec<String> {
    let mut all: Vec<String> = BY_HAND.iter().map(ToString::to_string).collect();
    for before in BEFORE {
        all.extend(WORDS.iter().map(|word| format!("{before}{word}")));
        all.extend(BEHIND.iter().map(|behind| format!("{before}admin{behind}")));
    }
    for word in WORDS {
        all.extend(BEHIND.iter().map(|behind| format!("/{word}{behind}")));
    }
    all.sort();
    all.dedup();
    all
}

fn path_forms() -> [(&'static str, RequestPolicies); 6] {
    [
        ("DENY", compiled(vec![deny(vec![paths(&["/admin", "/admin/*"])])])),
        ("DENY by template", compiled(vec![deny(vec![paths(&["/admin", "/admin/{**}"])])])),
        ("DENY but the public", compiled(vec![deny(vec![not_paths(&["/public/*", "*.css"])])])),
        ("ALLOW but it", compiled(vec![allow(vec![not_paths(&["/admin", "/admin/*"])])])),
        ("ALLOW what is public", compiled(vec![allow(vec![paths(&["/public/*"])])])),
        ("ALLOW files", compiled(vec![allow(vec![paths(&["*.css"])])])),
    ]
}

/// The path that is sent on when the waypoint lets it pass.
fn sent_on(path: &str, policies: &RequestPolicies) -> Option<String> {
    let ask = Ask::path(path);
    ask.passes(policies).then(|| canonical::path(path, Encoded::Refused).unwrap().into_owned())
}

#[test]
fn no_spelling_of_a_path_gets_through() {
    let servers = servers();
    let vectors = vectors();
    let genuine = vectors.iter().filter(|v| servers.iter().any(|s| s.serves_admin(v))).count();
    assert!(genuine >= 300, "only {genuine} of {} vectors mean anything to any server", vectors.len());
    let mut through = Vec::new();
    for (form, policies) in path_forms() {
        for vector in &vectors {
            let Some(sent) = sent_on(vector, &policies) else { continue };
            if let Some(server) = servers.iter().find(|s| s.serves_admin(&sent)) {
                // A file below the forbidden folder that carries the permitted ending is what such a policy permits.
                let by_ending = server.reads(&sent).ends_with(".css") && sent.ends_with(".css");
                if !(by_ending && matches!(form, "ALLOW files" | "DENY but the public")) {
                    through.push(format!("{form}: {vector} sent on as {sent}, read so by {server:?}"));
                }
            }
        }
    }
    assert!(through.is_empty(), "{} got through:\n{}", through.len(), through.join("\n"));
    println!("{} path vectors, {genuine} of them genuine, in 6 forms: 0 got through", vectors.len());
}

#[test]
fn honest_paths_are_not_hindered() {
    let forms = path_forms();
    for path in
        ["/public/x", "/public/x.css", "/public/a%20b", "/public/%C3%A9", "/public/a;v=1/x.css", "/public/x/../y"]
    {
        for form in [0, 1, 2, 3, 4] {
            assert!(sent_on(path, &forms[form].1).is_some(), "{} hinders {path}", forms[form].0);
        }
    }
    for path in ["/", "/administrator", "/x/admin", "/api/v1/x:go", "/.well-known/x", "/a//b", "/100%25"] {
        for form in [0, 1, 3] {
            assert!(sent_on(path, &forms[form].1).is_some(), "{} hinders {path}", forms[form].0);
        }
    }
    assert!(sent_on("/x/y.css", &forms[5].1).is_some());
}

/// How a server picks and reads the host of a request.
#[derive(Clone, Copy, Debug)]
enum Picks {
    First,
    Last,
    Target,
}

fn reads_host(picks: Picks, target: Option<&str>, hosts: &[&str]) -> String {
    let raw = match picks {
        Picks::First => hosts.first().copied().or(target),
        Picks::Last => hosts.last().copied().or(target),
        Picks::Target => target.or(hosts.first().copied()),
    };
    let text = undo(raw.unwrap_or_default()).to_lowercase();
    let text = text.rsplit('@').next().unwrap_or_default();
    let text = text.split(['/', '\\', '?', '#', ',', ' ', '\t']).find(|t| !t.is_empty()).unwrap_or_default();
    let name = text.split(':').next().unwrap_or_default();
    name.trim_end_matches('.').to_owned()
}

const ADMIN: &[&str] = &[
    "admin.example.com",
    "ADMIN.example.com",
    "Admin.Example.Com",
    "admin.example.com.",
    "admin.example.com..",
    "admin.example.com:80",
    "admin.example.com:0080",
    "admin.example.com:443",
    "admin.example.com.:80",
    "admin.example.com:",
    "user@admin.example.com",
    "public.example.com@admin.example.com",
    "public.example.com:80@admin.example.com",
    "admin.example.com/",
    "admin.example.com/public",
    "admin.example.com?public.example.com",
    "admin.example.com#public.example.com",
    "admin.example.com,public.example.com",
    "admin.example.com public.example.com",
    " admin.example.com",
    "admin.example.com ",
    "\tadmin.example.com",
    "admin%2eexample%2ecom",
    "%61dmin.example.com",
    "admin\u{ff0e}example\u{ff0e}com",
    "admin.example.com\\public",
    "admin.example.com:80:80",
    "admin.example.com:99999",
    "admin.example.com:x",
    "[admin.example.com]",
    "http://admin.example.com",
    "admin..example.com",
    ".admin.example.com",
    "admin.example.com%00",
    "admin.example.com%2fpublic",
    "ADMIN.EXAMPLE.COM:080.",
];

const PUBLIC: &[&str] = &["public.example.com", "public.example.com:80", "PUBLIC.example.com."];

fn host_vectors() -> Vec<(Option<String>, Vec<String>)> {
    let mut all = Vec::new();
    for admin in ADMIN {
        let a = (*admin).to_owned();
        all.push((None, vec![a.clone()]));
        all.push((Some(a.clone()), vec![]));
        all.push((Some(a.clone()), vec![a.clone()]));
        for public in PUBLIC {
            let p = (*public).to_owned();
            all.push((None, vec![p.clone(), a.clone()]));
            all.push((None, vec![a.clone(), p.clone()]));
            all.push((Some(p.clone()), vec![a.clone()]));
            all.push((Some(a.clone()), vec![p.clone()]));
            all.push((Some(p.clone()), vec![p.clone(), a.clone()]));
        }
    }
    all
}

#[test]
fn no_spelling_of_a_host_gets_through() {
    let hosts = |h: &[&str]| to(Operation { hosts: texts(h), ..Operation::default() });
    let not_hosts = |h: &[&str]| to(Operation { not_hosts: texts(h), ..Operation::default() });
    let admin = ["admin.example.com"];
    let forms = [
        ("DENY", compiled(vec![deny(vec![hosts(&admin)])])),
        ("DENY with the port", compiled(vec![deny(vec![hosts(&["admin.example.com", "admin.example.com:*"])])])),
        ("DENY by header", compiled(vec![deny(vec![when("request.headers[host]", &admin, &[])])])),
        ("DENY but the public", compiled(vec![deny(vec![not_hosts(&["public.example.com"])])])),
        ("ALLOW but it", compiled(vec![allow(vec![not_hosts(&admin)])])),
        ("ALLOW what is public", compiled(vec![allow(vec![hosts(&["public.*"])])])),
        ("ALLOW by header", compiled(vec![allow(vec![when("request.headers[:authority]", &["public.*"], &[])])])),
    ];
    let vectors = host_vectors();
    let (mut genuine, mut through) = (0, Vec::new());
    for (target, lines) in &vectors {
        let plain: Vec<&str> = lines.iter().map(String::as_str).collect();
        let picks = [Picks::First, Picks::Last, Picks::Target];
        genuine += usize::from(picks.iter().any(|p| reads_host(*p, target.as_deref(), &plain) == admin[0]));
        let headers = lines.iter().map(|l| ("host".to_owned(), l.clone())).collect();
        let ask = Ask { target: target.clone(), headers, ..Ask::default() };
        for (form, policies) in &forms {
            // One host is sent on, in its canonical form.
            let sent = ask.with(policies, |r| r.http.map(|h| h.authority.to_string()).unwrap_or_default());
            if ask.passes(policies) && sent.is_ok_and(|s| reads_host(Picks::First, Some(&s), &[]) == admin[0]) {
                through.push(format!("{form}: {target:?} {lines:?}"));
            }
        }
    }
    assert!(genuine >= 200, "only {genuine} of {} vectors mean anything to any server", vectors.len());
    assert!(through.is_empty(), "{} got through:\n{}", through.len(), through.join("\n"));
    println!("{} host vectors, {genuine} of them genuine, in 7 forms: 0 got through", vectors.len());
}

#[test]
fn no_spelling_of_a_header_gets_through() {
    let key = "request.headers[x-role]";
    let forms = [
        ("DENY", compiled(vec![deny(vec![when(key, &["admin"], &[])])])),
        ("DENY by prefix", compiled(vec![deny(vec![when(key, &["adm*"], &[])])])),
        ("DENY by suffix", compiled(vec![deny(vec![when(key, &["*min"], &[])])])),
        ("DENY but users", compiled(vec![deny(vec![when(key, &[], &["user"])])])),
        ("ALLOW but it", compiled(vec![allow(vec![when(key, &[], &["admin"])])])),
        ("ALLOW users", compiled(vec![allow(vec![when(key, &["user"], &[])])])),
    ];
    let admins =
        ["admin", " admin", "admin ", "\tadmin", "admin,user", "user,admin", "user, admin", "user ,admin, x", ",admin"];
    let others = [None, Some("user"), Some(""), Some("user,x")];
    let names = ["x-role", "X-Role", "X-ROLE", "x_role", "X_Role"];
    let (mut genuine, mut through) = (0, Vec::new());
    for (admin, admin_name) in admins.iter().flat_map(|a| names.map(|n| (*a, n))) {
        for (other, other_name) in others.iter().flat_map(|o| names.map(|n| (*o, n))) {
            for order in 0..2 {
                let mut lines: Vec<(String, String)> = vec![(admin_name.into(), admin.into())];
                lines.extend(other.map(|o| (other_name.to_owned(), o.to_owned())));
                if order == 1 {
                    lines.reverse();
                }
                // Some server splits lists and takes any line of any such name.
                let items = lines.iter().flat_map(|(_, v)| v.split(',')).map(str::trim);
                genuine += usize::from(items.into_iter().any(|i| i == "admin"));
                let ask = Ask { headers: lines.clone(), ..Ask::default() };
                for (form, policies) in &forms {
                    if ask.passes(policies) {
                        through.push(format!("{form}: {lines:?}"));
                    }
                }
            }
        }
    }
    assert!(genuine >= 200, "only {genuine} vectors");
    assert!(through.is_empty(), "{} got through:\n{}", through.len(), through.join("\n"));
    let honest = Ask::header("X-Role", &["user"]);
    assert!(forms.iter().all(|(_, policies)| honest.passes(policies)));
    println!("{genuine} header vectors in 6 forms: 0 got through");
}
