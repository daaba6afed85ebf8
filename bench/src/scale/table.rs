//! What was measured: a row a figure, least, middle and most of the rounds.

use serde::Serialize;

use super::Settings;
use crate::report::{digits, spread};
use crate::usage::{cpus, machine_seconds, own_seconds};
use std::time::Instant;

#[derive(Debug, Serialize)]
struct Row {
    key: String,
    unit: &'static str,
    values: Vec<f64>,
}

/// All figures, in the order in which they came.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Table {
    /// Share of the CPUs that others had, for each step.
    others: Vec<f64>,
    figures: Vec<Row>,
}

/// CPU seconds at a moment, for the share of others.
pub(crate) struct Quiet {
    at: Instant,
    machine: f64,
    own: f64,
}

impl Quiet {
    pub(crate) fn now(ours: f64) -> anyhow::Result<Self> {
        Ok(Self { at: Instant::now(), machine: machine_seconds()?, own: own_seconds()? + ours })
    }

    /// The share of the machine that others had since then; `ours` = CPU seconds of the measured programs.
    pub(crate) fn others(&self, ours: f64) -> anyhow::Result<f64> {
        let now = Self::now(ours)?;
        let others = (now.machine - self.machine) - (now.own - self.own);
        Ok((others / (self.at.elapsed().as_secs_f64() * cpus() as f64)).clamp(0.0, 1.0))
    }
}

impl Table {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    pub(crate) fn add(&mut self, key: &str, unit: &'static str, value: f64) {
        match self.figures.iter_mut().find(|row| row.key == key) {
            Some(row) => row.values.push(value),
            None => self.figures.push(Row { key: key.to_owned(), unit, values: vec![value] }),
        }
    }

    pub(crate) fn others(&mut self, share: f64) {
        self.others.push(share);
    }

    pub(crate) fn print(&self, settings: &Settings) {
        println!(
            "{} CPUs; {} round(s); {} pods, {} services, {} pods replaced a second for {} s; {} pods in the full push; {} nodes and one proxy",
            cpus(),
            settings.rounds,
            settings.pods,
            settings.services,
            settings.rate,
            settings.seconds,
            settings.full,
            settings.nodes
        );
        if let Some([least, middle, most]) = spread(&self.others) {
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            println!("others' share of the CPUs: {} ({}..{})", percent(middle), percent(least), percent(most));
        }
        println!("\n| figure | unit | least | middle | most |\n|---|---|---|---|---|");
        for row in &self.figures {
            if let Some([least, middle, most]) = spread(&row.values) {
                println!("| {} | {} | {} | {} | {} |", row.key, row.unit, digits(least), digits(middle), digits(most));
            }
        }
    }

    pub(crate) fn json(&self) -> String {
        // Numbers and texts only: cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}
