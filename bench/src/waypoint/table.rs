//! One table of both proxies, and the same as JSON.

use std::fmt::Write;

use serde::Serialize;

use super::Settings;
use super::envoy::VERSION;
use super::place::Proxy;
use crate::report::{Figure, digits, spread};
use crate::usage::cpus;

/// All rounds of a figure, in the order of the rounds.
#[derive(Debug, Serialize)]
struct Row {
    key: String,
    unit: &'static str,
    culvert: Vec<f64>,
    envoy: Vec<f64>,
}

impl Row {
    /// Ours to Envoy's, of each round.
    fn ratios(&self) -> Vec<f64> {
        self.culvert.iter().zip(&self.envoy).map(|(ours, theirs)| ours / theirs).collect()
    }
}

/// Everything that was measured.
#[derive(Debug, Default, Serialize)]
pub(super) struct Table {
    /// Share of the machine that others had, for each run.
    others: Vec<f64>,
    figures: Vec<Row>,
}

impl Table {
    pub(super) fn add(&mut self, proxy: Proxy, figures: Vec<Figure>, others: Option<f64>) {
        self.others.extend(others);
        for Figure { key, unit, value } in figures {
            let at = self.figures.iter().position(|row| row.key == key).unwrap_or_else(|| {
                self.figures.push(Row { key, unit, culvert: Vec::new(), envoy: Vec::new() });
                self.figures.len() - 1
            });
            let row = &mut self.figures[at];
            match proxy {
                Proxy::Culvert => row.culvert.push(value),
                Proxy::Envoy => row.envoy.push(value),
            }
        }
    }

    pub(super) fn print(&self, settings: &Settings) {
        println!(
            "{} CPUs; Envoy {VERSION}; {} worker(s) each; {} round(s) of {} s, in turns; access log {}",
            cpus(),
            settings.workers,
            settings.rounds,
            settings.seconds,
            if settings.no_log { "off" } else { "on" }
        );
        if let Some([least, middle, most]) = spread(&self.others) {
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            println!("others' share of the CPUs: {} ({}..{})", percent(middle), percent(least), percent(most));
        }
        println!(
            "\n| figure | unit | Culvert: middle (least..most) | Envoy: middle (least..most) | ratio of each round |"
        );
        println!("|---|---|---|---|---|");
        for row in &self.figures {
            let cells = [&row.culvert, &row.envoy, &row.ratios()].map(|values| cell(values));
            println!("| {} | {} | {} |", row.key, row.unit, cells.join(" | "));
        }
    }

    pub(super) fn json(&self) -> String {
        // Numbers and texts only: cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

fn cell(values: &[f64]) -> String {
    let Some([least, middle, most]) = spread(values) else { return String::new() };
    let mut text = digits(middle);
    if values.len() > 1 {
        // Writing to a String cannot fail.
        write!(text, " ({}..{})", digits(least), digits(most)).ok();
    }
    text
}
