//! Requests whose ends two readers might see at different places. A waypoint either refuses one, or passes it on so that its
//! server sees exactly the requests that the waypoint saw.

use anyhow::{Result, ensure};
use e2e_cluster::{Cluster, eventually};

use super::ask::sh;
use super::case::HOME;
use super::suite::Suite;
use crate::common::SOON;

/// What may come of one.
#[derive(Clone, Copy, PartialEq)]
enum Wanted {
    /// 400 or another 4xx, 501, or the connection's end; no server sees a byte of it.
    Refused,
    /// So many requests reach the server, none of them the hidden one.
    Passed(usize),
    /// Either is sane; the hidden request must not arrive.
    Either,
}
use Wanted::{Either, Passed, Refused};

/// (what is wrong with it, its bytes, what may come of it). `@` stands for the path of the visible request, `#` for that of the
/// hidden one, `^` for the host; lines end as they are written.
const VECTORS: &[(&str, &str, Wanted)] = &[
    ("nothing", "GET @ HTTP/1.1\r\nHost: ^\r\nConnection: close\r\n\r\n", Passed(1)),
    (
        "nothing, with a body",
        "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc",
        Passed(1),
    ),
    (
        "nothing, chunked",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        Passed(1),
    ),
    (
        "both lengths, chunks end first",
        "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: 48\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Either,
    ),
    (
        "both lengths, length ends first",
        "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n2c\r\nGET # HTTP/1.1\r\nHost: x\r\nX: 1234567890123456\r\n0\r\n\r\n",
        Either,
    ),
    (
        "two lengths that differ",
        "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: 0\r\nContent-Length: 30\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    (
        "a list of lengths that differ",
        "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: 0, 30\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    ("a length with a sign", "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: +3\r\n\r\nabc", Refused),
    ("a negative length", "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: -1\r\n\r\nabc", Refused),
    ("a hexadecimal length", "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: 0x3\r\n\r\nabc", Refused),
    ("a length in two parts", "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: 1 3\r\n\r\nabc", Refused),
    (
        "a length too large for a number",
        "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: 99999999999999999999999\r\n\r\nabc",
        Refused,
    ),
    (
        "an empty length",
        "POST @ HTTP/1.1\r\nHost: ^\r\nContent-Length: \r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    (
        "a coding that nobody knows",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    (
        "chunked is not the last coding",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    (
        "a coding in two fields",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n\r\n0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    (
        "a space before the colon",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding : chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    (
        "a vertical tab in the coding",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: \u{b}chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    (
        "a folded line",
        "POST @ HTTP/1.1\r\nHost: ^\r\nX: a\r\n Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    (
        "a folded coding",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Refused,
    ),
    (
        "chunked in HTTP/1.0",
        "POST @ HTTP/1.0\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET # HTTP/1.0\r\nHost: ^\r\n\r\n",
        Either,
    ),
    (
        "a chunk of no size",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Either,
    ),
    (
        "a chunk size with a prefix",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n",
        Either,
    ),
    (
        "a negative chunk size",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
        Either,
    ),
    (
        "a chunk size that wraps",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Either,
    ),
    (
        "a line's end within an extension",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n3;a\nGET # HTTP/1.1\r\nabc\r\n0\r\n\r\n",
        Either,
    ),
    (
        "a chunk without its end",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcXX0\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Either,
    ),
    (
        "a length among trailers",
        "POST @ HTTP/1.1\r\nHost: ^\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n0\r\nContent-Length: 40\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Either,
    ),
    ("a carriage return in a value", "GET @ HTTP/1.1\r\nHost: ^\r\nX: a\rGET # HTTP/1.1\r\n\r\n", Refused),
    ("a zero in a value", "GET @ HTTP/1.1\r\nHost: ^\r\nX: a\0b\r\n\r\n", Refused),
    ("a name with a space", "GET @ HTTP/1.1\r\nHost: ^\r\nX Y: a\r\n\r\n", Refused),
    ("a line without a colon", "GET @ HTTP/1.1\r\nHost: ^\r\nXY\r\n\r\n", Refused),
    ("a nameless field", "GET @ HTTP/1.1\r\nHost: ^\r\n: a\r\n\r\n", Refused),
    ("no host", "GET @ HTTP/1.1\r\n\r\n", Refused),
    ("two hosts", "GET @ HTTP/1.1\r\nHost: ^\r\nHost: other.example\r\n\r\n", Refused),
    ("a host with a space", "GET @ HTTP/1.1\r\nHost: a b\r\n\r\n", Refused),
    ("a host with a path", "GET @ HTTP/1.1\r\nHost: ^/#\r\n\r\n", Refused),
    ("a host with somebody before it", "GET @ HTTP/1.1\r\nHost: user%40^\r\n\r\n", Either),
    ("a space in the target", "GET @ # HTTP/1.1\r\nHost: ^\r\n\r\n", Refused),
    ("a control character in the target", "GET @\u{1} HTTP/1.1\r\nHost: ^\r\n\r\n", Refused),
    ("a method that is none", "G\u{7f}ET @ HTTP/1.1\r\nHost: ^\r\n\r\n", Refused),
    ("a version that is none", "GET @ HTTP/9.9\r\nHost: ^\r\n\r\n", Refused),
    ("no version", "GET @\r\n\r\n", Refused),
    (
        "an upgrade to cleartext HTTP/2",
        "GET @ HTTP/1.1\r\nHost: ^\r\nConnection: close, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n\r\n",
        Either,
    ),
    (
        "a request behind one that closes",
        "GET @ HTTP/1.1\r\nHost: ^\r\nConnection: close\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n",
        Passed(1),
    ),
    ("CONNECT", "CONNECT ^:80 HTTP/1.1\r\nHost: ^:80\r\n\r\nGET # HTTP/1.1\r\nHost: ^\r\n\r\n", Refused),
];

const HOST: &str = "hygiene";

/// All of them, over one connection each.
pub(crate) fn run(cluster: &Cluster, _: &Suite) -> Result<()> {
    let said = send_all(cluster)?;
    // The server's log is behind by a moment: the last marker is there when the others are.
    let marker = "/marker-of-the-end";
    sh(cluster, "routes/client", &format!("curl -sS -m 5 http://{HOST}.{HOME}{marker}"))?;
    let log = eventually("the server's log", SOON, || {
        let logs = ["one", "two"].map(|pod| cluster.kubectl(&["logs", "-n", HOME, pod, "--since=10m"]));
        let log = logs.into_iter().collect::<Result<String, _>>()?;
        ensure!(log.contains(marker), "the last request is not in the log");
        anyhow::Ok(log)
    })?;
    let requests: Vec<&str> = log.lines().filter(|l| l.contains(" Request")).collect();
    let mut wrong = Vec::new();
    for (at, (name, _, wanted)) in VECTORS.iter().enumerate() {
        let arrived = requests.iter().filter(|l| l.contains(&visible(at))).count();
        let leaked = requests.iter().filter(|l| l.contains(&hidden(at))).count();
        let status = if said[at].trim().is_empty() { "no answer" } else { said[at].trim() };
        let fine = match wanted {
            Refused => arrived == 0 && !status.contains(" 200"),
            Passed(times) => arrived == *times && status.contains(" 200"),
            Either => arrived <= 1,
        };
        if !fine || leaked > 0 {
            wrong.push(format!("{name}: {status}; {arrived} arrived, {leaked} hidden ones"));
        }
    }
    ensure!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), VECTORS.len(), wrong.join("\n"));
    println!("      {} requests", VECTORS.len());
    Ok(())
}

// No number of one is the beginning of another's.
fn visible(at: usize) -> String {
    format!("/visible-{at:03}")
}

fn hidden(at: usize) -> String {
    format!("/hidden-{at:03}")
}

/// Seconds for which a connection's end is not told to the server: some give up when the client has said all it wants to say.
const OPEN: u32 = 3;

// All at once, in the client's pod; gives back the beginning of what came to each.
fn send_all(cluster: &Cluster) -> Result<Vec<String>> {
    let host = format!("{HOST}.{HOME}");
    let mut script = String::from("cd /tmp\n");
    for (at, (_, bytes, _)) in VECTORS.iter().enumerate() {
        let bytes = bytes.replace('@', &visible(at)).replace('#', &hidden(at)).replace('^', &host);
        let octal: String = bytes.bytes().map(|b| format!("\\0{b:03o}")).collect();
        script.push_str(&format!(
            "(printf '%b' '{octal}'; sleep {OPEN}) | timeout 10 nc {host} 80 | head -c 200 >answer-{at} &\n"
        ));
    }
    script.push_str("wait\n");
    for at in 0..VECTORS.len() {
        script.push_str(&format!("echo '=== {at}'; head -n 1 answer-{at}; echo\n"));
    }
    let said = cluster.kubectl_with(&["exec", "-i", "-n", HOME, "client", "--", "sh"], &script)?;
    let said: Vec<String> =
        said.split("=== ").skip(1).map(|part| part.lines().nth(1).unwrap_or_default().to_owned()).collect();
    ensure!(said.len() == VECTORS.len(), "{} answers to {} requests", said.len(), VECTORS.len());
    Ok(said)
}
