//! One request through a waypoint, and what has to come of it.

use std::fmt;

use anyhow::{Context, Result, ensure};
use e2e_cluster::Cluster;

/// A request as a user's pod makes it, with curl.
pub(crate) struct Ask {
    /// "namespace/pod".
    pub(crate) from: &'static str,
    pub(crate) method: &'static str,
    /// Port of the Service.
    pub(crate) port: u16,
    /// With its query.
    pub(crate) path: &'static str,
    /// `Name: value`; `Host` too.
    pub(crate) headers: &'static [&'static str],
    /// A call of gRPC with an empty message, by HTTP/2 with prior knowledge.
    pub(crate) grpc: bool,
    /// All of them have to hold. `{host}` in a text is the name that was called.
    pub(crate) wants: &'static [Want],
}

/// What most requests are.
pub(crate) const ASK: Ask =
    Ask { from: "routes/client", method: "GET", port: 80, path: "/", headers: &[], grpc: false, wants: &[] };

/// What has to hold of an answer.
pub(crate) enum Want {
    /// One of these.
    Status(&'static [u16]),
    /// A header of the answer; several of a name are joined by a comma.
    Header(&'static str, &'static str),
    /// No such header in the answer.
    NoHeader(&'static str),
    /// A field of what the server saw: `URL`, `Host`, `Method`, `IP`.
    Saw(&'static str, &'static str),
    /// A header that the server saw.
    SawHeader(&'static str, &'static str),
    /// The server saw no such header.
    SawNoHeader(&'static str),
    /// The server saw this text nowhere.
    SawNot(&'static str),
    /// Which server answered, by the beginning of its pod's name.
    By(&'static str),
    /// No server was asked.
    ByNobody,
    /// The status of gRPC, in headers or trailers.
    Grpc(u8),
}

/// What came.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Ask {
    /// Makes the request, and says what is wrong with its answer.
    pub(crate) fn check(&self, cluster: &Cluster, host: &str) -> Result<()> {
        let answer = self.make(cluster, host)?;
        for want in self.wants {
            want.check(&answer, host).with_context(|| format!("{self}: {}", answer.brief()))?;
        }
        Ok(())
    }

    /// Makes it.
    pub(crate) fn make(&self, cluster: &Cluster, host: &str) -> Result<Answer> {
        let url = format!("http://{host}:{}{}", self.port, self.path);
        let mut line = format!("curl -sS -i -m 10 --path-as-is -X {} ", self.method);
        self.headers.iter().for_each(|h| line.push_str(&format!("-H '{h}' ")));
        if self.grpc {
            // A message of five bytes: not compressed, nothing in it.
            line.insert_str(0, r"printf '\0\0\0\0\0' | ");
            line.push_str(
                "--http2-prior-knowledge -H 'content-type: application/grpc' -H 'te: trailers' --data-binary @- ",
            );
        }
        let said = sh(cluster, self.from, &format!("{line}'{url}'")).with_context(|| self.to_string())?;
        Answer::parse(&said).with_context(|| format!("{self}: {said:?}"))
    }
}

impl fmt::Display for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} on {} from {} with {:?}", self.method, self.path, self.port, self.from, self.headers)
    }
}

impl Want {
    fn check(&self, answer: &Answer, host: &str) -> Result<()> {
        let text = |wanted: &str| wanted.replace("{host}", host);
        match self {
            Self::Status(all) => ensure!(all.contains(&answer.status), "wanted status {all:?}"),
            Self::Header(name, value) => {
                let found = answer.header(name);
                ensure!(found.as_deref() == Some(&text(value)), "wanted {name}: {}, not {found:?}", text(value));
            }
            Self::NoHeader(name) => {
                let found = answer.header(name);
                ensure!(found.is_none(), "wanted no {name}, not {found:?}");
            }
            Self::Saw(field, value) => {
                let found = answer.field(field);
                ensure!(found == Some(&text(value)), "the server was to see {field} {}, not {found:?}", text(value));
            }
            Self::SawHeader(name, value) => {
                let found = answer.seen_header(name);
                ensure!(
                    found.as_deref() == Some(&text(value)),
                    "the server was to see {name}: {}, not {found:?}",
                    text(value)
                );
            }
            Self::SawNoHeader(name) => {
                let found = answer.seen_header(name);
                ensure!(found.is_none(), "the server was to see no {name}, not {found:?}");
            }
            Self::SawNot(text) => ensure!(!answer.body.contains(text), "the server saw {text}:\n{}", answer.body),
            Self::By(name) => {
                let found = answer.field("Hostname");
                ensure!(found.is_some_and(|f| f.starts_with(name)), "wanted an answer of {name}, not of {found:?}");
            }
            Self::ByNobody => {
                let found = answer.field("Hostname");
                ensure!(found.is_none(), "no server was to be asked; {found:?} was");
            }
            Self::Grpc(status) => {
                let found = answer.header("grpc-status").or_else(|| answer.trailer("grpc-status"));
                ensure!(found.as_deref() == Some(&status.to_string()), "wanted status {status} of gRPC, not {found:?}");
            }
        }
        Ok(())
    }
}

impl Answer {
    fn parse(said: &str) -> Result<Self> {
        let said = said.replace("\r\n", "\n");
        // One that says 100 first is followed by the answer itself.
        let mut rest = said.as_str();
        let (head, body) = loop {
            let (head, body) = rest.split_once("\n\n").unwrap_or((rest, ""));
            if !head.starts_with("HTTP/1.1 100") {
                break (head, body);
            }
            rest = body;
        };
        let mut lines = head.lines();
        let status = lines.next().and_then(|l| l.split_whitespace().nth(1)).context("no answer")?.parse()?;
        let header = |l: &str| l.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned()));
        Ok(Self { status, headers: lines.filter_map(header).collect(), body: body.to_owned() })
    }

    fn header(&self, name: &str) -> Option<String> {
        joined(self.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str()))
    }

    // curl writes trailers after the body.
    fn trailer(&self, name: &str) -> Option<String> {
        let line = |l: &str| l.to_ascii_lowercase().split_once(&format!("{name}:")).map(|(_, v)| v.trim().to_owned());
        self.body.lines().filter_map(line).next_back()
    }

    // A line `Field=value` of the server's answer.
    fn field(&self, name: &str) -> Option<&str> {
        self.body.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix('='))
    }

    fn seen_header(&self, name: &str) -> Option<String> {
        let header = |l: &'_ str| -> Option<(String, String)> {
            let (n, v) = l.strip_prefix("RequestHeader=")?.split_once(':')?;
            Some((n.to_owned(), v.to_owned()))
        };
        let all: Vec<_> = self.body.lines().filter_map(header).filter(|(n, _)| n.eq_ignore_ascii_case(name)).collect();
        joined(all.iter().map(|(_, v)| v.as_str()))
    }

    fn brief(&self) -> String {
        let body: String = self.body.chars().take(600).collect();
        format!("{} {:?}\n{body}", self.status, self.headers)
    }
}

fn joined<'a>(values: impl Iterator<Item = &'a str>) -> Option<String> {
    let all: Vec<_> = values.collect();
    (!all.is_empty()).then(|| all.join(","))
}

/// Runs a shell line in a pod ("namespace/pod").
pub(crate) fn sh(cluster: &Cluster, pod: &str, line: &str) -> Result<String> {
    let (namespace, pod) = pod.split_once('/').with_context(|| format!("{pod} names no namespace"))?;
    Ok(cluster.kubectl(&["exec", "-n", namespace, pod, "--", "sh", "-c", line])?)
}
