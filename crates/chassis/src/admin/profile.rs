//! CPU profiles in the format of pprof (google/pprof, `proto/profile.proto`; the messages below are its fields that are
//! used here).

use std::collections::HashMap;
use std::time::{Duration, UNIX_EPOCH};

use http::StatusCode;
use prost::Message;

use super::message::{Reply, Request};

/// Samples a second. Not 100: a timer in step with others' would see their work always or never.
const FREQUENCY: i32 = 99;

/// Seconds without `?seconds=`: Istio's (telemetry.md 6), and enough for about a thousand samples of a busy thread.
const DEFAULT: u64 = 10;

/// Seconds at most: the samples of one profile are kept in memory.
const MOST: u64 = 60;

/// Libraries in which a sample is given up, because unwinding there may wait for a lock that the interrupted thread holds
/// (the profiler's own documentation).
const NO_UNWIND: [&str; 4] = ["libc", "libgcc", "pthread", "vdso"];

/// Takes a profile for as long as the request says.
pub(super) async fn cpu(request: Request) -> Reply {
    let seconds = match request.query.get("seconds").filter(|text| !text.is_empty()) {
        None => DEFAULT,
        Some(text) => match text.parse() {
            Ok(seconds) if (1..=MOST).contains(&seconds) => seconds,
            _ => {
                let what = format!("seconds={text} cannot be used; use a number from 1 to {MOST}");
                return Reply::error(StatusCode::BAD_REQUEST, what);
            }
        },
    };
    // The profiler stays on one thread, and making names of addresses takes some seconds of CPU.
    let taken = tokio::task::spawn_blocking(move || take(Duration::from_secs(seconds))).await;
    match taken {
        Ok(Ok(bytes)) => Reply::with(StatusCode::OK, "application/octet-stream", bytes),
        Ok(Err(pprof::Error::Running)) => {
            Reply::error(StatusCode::CONFLICT, "another profile is being taken; try again when it is done")
        }
        Ok(Err(error)) => Reply::error(StatusCode::INTERNAL_SERVER_ERROR, format!("no profile: {error}")),
        Err(error) => Reply::error(StatusCode::INTERNAL_SERVER_ERROR, format!("no profile: {error}")),
    }
}

fn take(length: Duration) -> Result<Vec<u8>, pprof::Error> {
    let guard = pprof::ProfilerGuardBuilder::default().frequency(FREQUENCY).blocklist(&NO_UNWIND).build()?;
    // The timer runs in the kernel; this thread has nothing else to do.
    std::thread::sleep(length);
    let report = guard.report().build()?;
    drop(guard);
    Ok(encode(&report).encode_to_vec())
}

/// Texts, functions and places by number, each once.
struct Tables {
    profile: Profile,
    strings: HashMap<String, i64>,
    functions: HashMap<(i64, i64), u64>,
    locations: HashMap<(u64, i64), u64>,
}

impl Tables {
    fn new() -> Self {
        let mut tables = Self {
            profile: Profile::default(),
            strings: HashMap::new(),
            functions: HashMap::new(),
            locations: HashMap::new(),
        };
        // The first text must be empty.
        tables.string("");
        tables
    }

    fn string(&mut self, text: &str) -> i64 {
        if let Some(known) = self.strings.get(text) {
            return *known;
        }
        let number = self.profile.string_table.len() as i64;
        self.profile.string_table.push(text.to_owned());
        self.strings.insert(text.to_owned(), number);
        number
    }

    fn function(&mut self, name: &str, system_name: &str, file: &str) -> u64 {
        let (name, system_name, filename) = (self.string(name), self.string(system_name), self.string(file));
        let next = self.profile.function.len() as u64 + 1;
        *self.functions.entry((system_name, filename)).or_insert_with(|| {
            self.profile.function.push(Function { id: next, name, system_name, filename });
            next
        })
    }

    fn location(&mut self, symbol: &pprof::Symbol) -> u64 {
        let function_id = self.function(&symbol.name(), &symbol.sys_name(), &symbol.filename());
        let line = i64::from(symbol.lineno());
        let next = self.profile.location.len() as u64 + 1;
        *self.locations.entry((function_id, line)).or_insert_with(|| {
            self.profile.location.push(Location { id: next, line: vec![Line { function_id, line }] });
            next
        })
    }
}

fn encode(report: &pprof::Report) -> Profile {
    let mut tables = Tables::new();
    let [samples, count, cpu, nanoseconds, thread] =
        ["samples", "count", "cpu", "nanoseconds", "thread"].map(|text| tables.string(text));
    let period = 1_000_000_000 / i64::from(report.timing.frequency.max(1));
    for (frames, hits) in &report.data {
        // Innermost first on both sides; a place with inlined calls is several symbols here.
        let location_id = frames.frames.iter().flatten().map(|symbol| tables.location(symbol)).collect();
        let name = tables.string(&frames.thread_name_or_id());
        let hits = *hits as i64;
        tables.profile.sample.push(Sample {
            location_id,
            value: vec![hits, hits.saturating_mul(period)],
            label: vec![Label { key: thread, str: name }],
        });
    }
    let since_epoch = report.timing.start_time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Profile {
        sample_type: vec![ValueType { r#type: samples, unit: count }, ValueType { r#type: cpu, unit: nanoseconds }],
        time_nanos: i64::try_from(since_epoch.as_nanos()).unwrap_or(i64::MAX),
        duration_nanos: i64::try_from(report.timing.duration.as_nanos()).unwrap_or(i64::MAX),
        period_type: Some(ValueType { r#type: cpu, unit: nanoseconds }),
        period,
        ..tables.profile
    }
}

#[derive(Clone, PartialEq, Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_type: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    sample: Vec<Sample>,
    #[prost(message, repeated, tag = "4")]
    location: Vec<Location>,
    #[prost(message, repeated, tag = "5")]
    function: Vec<Function>,
    #[prost(string, repeated, tag = "6")]
    string_table: Vec<String>,
    #[prost(int64, tag = "9")]
    time_nanos: i64,
    #[prost(int64, tag = "10")]
    duration_nanos: i64,
    #[prost(message, optional, tag = "11")]
    period_type: Option<ValueType>,
    #[prost(int64, tag = "12")]
    period: i64,
}

#[derive(Clone, PartialEq, Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    r#type: i64,
    #[prost(int64, tag = "2")]
    unit: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Sample {
    #[prost(uint64, repeated, tag = "1")]
    location_id: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    value: Vec<i64>,
    #[prost(message, repeated, tag = "3")]
    label: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(int64, tag = "1")]
    key: i64,
    #[prost(int64, tag = "2")]
    str: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(message, repeated, tag = "4")]
    line: Vec<Line>,
}

#[derive(Clone, PartialEq, Message)]
struct Line {
    #[prost(uint64, tag = "1")]
    function_id: u64,
    #[prost(int64, tag = "2")]
    line: i64,
}

#[derive(Clone, PartialEq, Message)]
struct Function {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(int64, tag = "2")]
    name: i64,
    #[prost(int64, tag = "3")]
    system_name: i64,
    #[prost(int64, tag = "4")]
    filename: i64,
}

#[cfg(test)]
mod tests {
    use std::hint::black_box;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use http::{HeaderMap, Method};

    use super::super::message::{Body, Query};
    use super::*;

    fn ask(query: &str) -> Request {
        Request {
            method: Method::GET,
            path: "/debug/pprof/profile".to_owned(),
            query: Query::parse(query),
            headers: HeaderMap::new(),
            body: bytes::Bytes::new(),
        }
    }

    #[inline(never)]
    fn culvert_burns_cpu(stop: &AtomicBool) -> u64 {
        let mut sum = 0_u64;
        while !stop.load(Ordering::Relaxed) {
            sum = black_box(sum.wrapping_mul(31).wrapping_add(7));
        }
        sum
    }

    #[tokio::test]
    async fn a_busy_function_is_found_by_its_name_and_thread() {
        let stop = Arc::new(AtomicBool::new(false));
        let until = stop.clone();
        let busy = std::thread::Builder::new().name("burner".to_owned());
        let busy = busy.spawn(move || culvert_burns_cpu(&until)).unwrap();
        let reply = cpu(ask("seconds=1")).await;
        stop.store(true, Ordering::Relaxed);
        black_box(busy.join().unwrap());
        assert_eq!(reply.status, StatusCode::OK);
        let Body::Whole(Some(bytes)) = reply.body else { panic!("no body") };
        let profile = Profile::decode(bytes).unwrap();
        let text = |number: i64| profile.string_table[number as usize].as_str();
        assert_eq!(text(0), "");
        let of = |location: u64| profile.location.iter().find(|l| l.id == location).unwrap().line[0].function_id;
        let name = |function: u64| text(profile.function.iter().find(|f| f.id == function).unwrap().name);
        let hit = profile.sample.iter().filter(|s| {
            s.location_id.iter().any(|l| name(of(*l)).contains("culvert_burns_cpu"))
                && s.label.iter().any(|l| text(l.key) == "thread" && text(l.str) == "burner")
        });
        let hits: i64 = hit.map(|s| s.value[0]).sum();
        assert!(hits > 0, "{} samples, none of the busy function", profile.sample.len());
        assert!(profile.duration_nanos >= 1_000_000_000 && profile.period > 0);
    }

    #[tokio::test]
    async fn nonsense_is_refused() {
        for query in ["seconds=0", "seconds=61", "seconds=x", "seconds=-1"] {
            assert_eq!(cpu(ask(query)).await.status, StatusCode::BAD_REQUEST, "{query}");
        }
    }
}
