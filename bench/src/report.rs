//! One table, and the same as JSON.

use serde::Serialize;

use crate::Settings;
use crate::site::Form;
use crate::usage;

/// One number.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    /// As in `bulk.far.1.throughput`.
    pub(crate) key: String,
    pub(crate) unit: &'static str,
    pub(crate) value: f64,
}

/// All rounds of a figure, in the order of the rounds.
#[derive(Clone, Debug, Serialize)]
struct Row {
    key: String,
    unit: &'static str,
    direct: Vec<f64>,
    meshed: Vec<f64>,
    /// Middle of the rounds' own ratios, meshed to direct.
    ratio: Option<f64>,
}

/// Everything that was measured.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Report {
    cpus: usize,
    kernel: String,
    workers: usize,
    rounds: u32,
    seconds: u64,
    /// Share of the machine that others had, for each run.
    others: Vec<f64>,
    figures: Vec<Row>,
}

impl Report {
    pub(crate) fn new(settings: &Settings) -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        // The numbers only: what follows names a build.
        let kernel = kernel.split(['-', '+', '\n']).next().unwrap_or_default().to_owned();
        let Settings { workers, rounds, seconds, .. } = *settings;
        Self { cpus: usage::cpus(), kernel, workers, rounds, seconds, others: Vec::new(), figures: Vec::new() }
    }

    pub(crate) fn add(&mut self, form: Form, figures: Vec<Figure>, others: Option<f64>) {
        self.others.extend(others);
        for figure in figures {
            let at = self.figures.iter().position(|r| r.key == figure.key).unwrap_or_else(|| {
                let Figure { key, unit, .. } = figure;
                self.figures.push(Row { key, unit, direct: Vec::new(), meshed: Vec::new(), ratio: None });
                self.figures.len() - 1
            });
            let row = &mut self.figures[at];
            match form {
                Form::Direct => row.direct.push(figure.value),
                Form::Meshed => row.meshed.push(figure.value),
            }
            let ratios: Vec<f64> = row.direct.iter().zip(&row.meshed).map(|(d, m)| m / d).collect();
            row.ratio = spread(&ratios).map(|s| s[1]);
        }
    }

    pub(crate) fn print(&self) {
        println!(
            "{} CPUs, kernel {}; {} worker(s) a ztunnel; {} round(s) of {} s, direct and meshed in turns",
            self.cpus, self.kernel, self.workers, self.rounds, self.seconds
        );
        if let Some([least, middle, most]) = spread(&self.others) {
            let percent = |share: f64| format!("{:.0} %", share * 100.0);
            println!("others' share of the CPUs: {} ({}..{})", percent(middle), percent(least), percent(most));
        }
        println!();
        println!("| figure | unit | direct: middle (least..most) | meshed: middle (least..most) | meshed / direct |");
        println!("|---|---|---|---|---|");
        for row in &self.figures {
            let ratio = row.ratio.map_or(String::new(), |r| format!("{r:.2}"));
            println!("| {} | {} | {} | {} | {ratio} |", row.key, row.unit, cell(&row.direct), cell(&row.meshed));
        }
    }

    pub(crate) fn json(&self) -> String {
        // Numbers and texts only: cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

fn cell(values: &[f64]) -> String {
    match spread(values) {
        None => String::new(),
        Some([_, middle, _]) if values.len() == 1 => digits(middle),
        Some([least, middle, most]) => format!("{} ({}..{})", digits(middle), digits(least), digits(most)),
    }
}

/// Least, middle, most.
pub(crate) fn spread(values: &[f64]) -> Option<[f64; 3]> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let (least, most) = (*sorted.first()?, *sorted.last()?);
    let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
    Some([least, f64::midpoint(low, high), most])
}

/// Three digits that mean something.
pub(crate) fn digits(value: f64) -> String {
    let places = match value.abs() {
        v if v >= 100.0 => 0,
        v if v >= 10.0 => 1,
        v if v >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.places$}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_the_middle() {
        assert_eq!(spread(&[3.0, 1.0, 2.0]), Some([1.0, 2.0, 3.0]));
        assert_eq!(spread(&[4.0, 1.0, 2.0, 3.0]), Some([1.0, 2.5, 4.0]));
        assert_eq!(spread(&[]), None);
        assert_eq!((digits(12345.6), digits(12.34), digits(0.01234)), ("12346".into(), "12.3".into(), "0.012".into()));
    }
}
