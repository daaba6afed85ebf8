//! `bench routes`: what routes cost. One request among 10 000 routes of a Service, a change of 1 of 10 000 Services, memory.
//!
//! Neither lab nor root: the router is a library, and what is measured is one thread of this process.
//! `docs/performance.md`, "Routes", says how each number is made.

mod tables;

use std::hint::black_box;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use http::request::Parts;
use routing::model::Table;
use routing::{Decision, HttpRouter, RequestView, Router, Routes, Services};

use crate::report::{digits, spread};
use crate::usage::resident;
use tables::{KINDS, Kind};

/// How many, how often.
#[derive(Args, Clone, Debug)]
pub(crate) struct Settings {
    /// Routes of one Service, each a rule with one match.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..))]
    routes: u32,
    /// Services, each with 10 rules, of which one changes.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    services: u32,
    /// Batches of requests, and changes, that are measured.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    samples: u32,
}

/// Requests that are measured together: one alone takes hardly longer than reading the clock twice.
const BATCH: usize = 256;

/// Rules of each of many Services.
const RULES: u32 = 10;

/// Measures, and prints the table.
pub(crate) fn run(settings: &Settings) -> Result<()> {
    println!("{} routes of one Service; {} Services of {RULES} rules; one thread", settings.routes, settings.services);
    println!();
    println!("| figure | unit | least | middle | most |");
    println!("|---|---|---|---|---|");
    // All of it stays until the end: what is freed would be used again, and not show as growth.
    let mut kept = Vec::new();
    for kind in KINDS {
        kept.push(matches(settings, kind)?);
    }
    services(settings)
}

fn line(key: &str, unit: &str, values: &[f64]) {
    if let Some([least, middle, most]) = spread(values) {
        println!("| {key} | {unit} | {} | {} | {} |", digits(least), digits(middle), digits(most));
    }
}

/// What was measured.
type Measured = (Table, Router, Vec<(Parts, Option<String>)>);

/// One Service whose routes are of one kind.
fn matches(settings: &Settings, kind: Kind) -> Result<Measured> {
    let table = tables::one(kind, settings.routes);
    let rules = match &table.kind {
        routing::model::Kind::Http(http) => http.rules.len(),
        _ => bail!("there are no rules"),
    };
    let (before, began) = (own_memory()?, Instant::now());
    let router = compiled(std::slice::from_ref(&table))?;
    let (took, after) = (began.elapsed(), own_memory()?);
    let Some(Routes::Http(routes)) = router.routes(tables::PORT, None) else { bail!("there are no routes") };
    let requests = tables::requests(kind, settings.routes)?;
    for (request, wanted) in &requests {
        let got = met(routes, request);
        ensure!(got == *wanted, "{} meets {got:?}, not {wanted:?}", request.uri);
    }
    let mut values = Vec::new();
    let mut all = requests.iter().map(|(parts, _)| parts).cycle();
    for _ in 0..settings.samples {
        let began = Instant::now();
        for parts in all.by_ref().take(BATCH) {
            black_box(routes.route(&RequestView::from(parts)));
        }
        values.push(began.elapsed().as_secs_f64() * 1e9 / BATCH as f64);
    }
    let name = kind.name();
    line(&format!("match.{name}"), "ns", &values);
    line(&format!("compile.{name}"), "ms", &[took.as_secs_f64() * 1e3]);
    line(&format!("memory.{name}"), "bytes a rule", &[(after - before) / rules as f64]);
    Ok((table, router, requests))
}

/// Many Services of which one changes, as a waypoint does it: the snapshot that requests read stays as it is, and its
/// successor takes its place.
fn services(settings: &Settings) -> Result<()> {
    let key = |i: u32| format!("shop/s{i}.shop.svc.cluster.local");
    let table = || [tables::one(Kind::Prefix, RULES)];
    let mut current: Services = Services::default();
    let tables: Vec<[Table; 1]> = (0..settings.services).map(|_| table()).collect();
    let before = own_memory()?;
    for (i, table) in (0..).zip(&tables) {
        current.insert(key(i), compiled(table)?);
    }
    let each = (own_memory()? - before) / f64::from(settings.services);
    let mut values = Vec::new();
    for i in 0..settings.samples {
        // Another one each time.
        let (key, table) = (key(i.wrapping_mul(7919) % settings.services), table());
        let began = Instant::now();
        let mut next = current.clone();
        next.insert(key, compiled(&table)?);
        current = next;
        values.push(began.elapsed().as_secs_f64() * 1e6);
    }
    ensure!(current.len() == settings.services as usize, "{} services are left", current.len());
    line("replace.one-of-all", "us", &values);
    line("memory.service", "bytes a Service", &[each]);
    Ok(())
}

fn compiled(tables: &[Table]) -> Result<Router> {
    let (router, mistakes) = Router::new(tables);
    ensure!(mistakes.is_empty(), "{}", mistakes.first().map(ToString::to_string).unwrap_or_default());
    Ok(router)
}

/// Name of the rule that a request meets.
fn met(routes: &HttpRouter, parts: &Parts) -> Option<String> {
    match routes.route(&RequestView::from(parts)) {
        Decision::Follow(passage) => Some(passage.route().name.rule.to_string()),
        Decision::Answer(_) => None,
    }
}

fn own_memory() -> Result<f64> {
    resident(i32::try_from(std::process::id()).context("our number")?)
}
