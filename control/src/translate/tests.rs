//! Runs the tables in `tests/translate/*.yaml`: manifests in, resources out, one line each.
//!
//! Every case is run three times: all objects at once, one at a time with a `take` after each, and the same backwards.
//! The outcome must be the same, also that of [`translate_all`].

pub(crate) mod lines;

use std::fs;
use std::path::Path;

use document::Check;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::translate_all;
use crate::arrival;
use crate::object::{Input, Kind};
use crate::world::{Settings, World};
use lines::Picture;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Table {
    cases: Vec<Case>,
}

impl Check for Table {}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Case {
    /// What it shows.
    name: String,
    #[serde(default)]
    settings: Told,
    /// Objects.
    given: Vec<Value>,
    /// Lines. One that ends in `...` stands for all that begin like it.
    want: Vec<String>,
}

#[derive(Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "camelCase", default)]
struct Told {
    network: Option<String>,
    trust_domain: Option<String>,
    cluster: Option<String>,
}

impl Told {
    fn settings(&self) -> Settings {
        let mut settings = Settings { pod_cidrs_from_nodes: true, ..Settings::default() };
        let set = |place: &mut std::sync::Arc<str>, value: &Option<String>| {
            if let Some(value) = value {
                *place = value.as_str().into();
            }
        };
        set(&mut settings.network, &self.network);
        set(&mut settings.trust_domain, &self.trust_domain);
        set(&mut settings.cluster_id, &self.cluster);
        settings
    }
}

fn read(object: &Value) -> Input {
    let word = object["kind"].as_str().unwrap();
    let kind = Kind::ALL.into_iter().find(|k| k.as_str() == word).unwrap_or_else(|| panic!("kind {word:?}"));
    arrival::read(kind, object).unwrap().unwrap()
}

impl Case {
    fn outcome(&self, at: &str) -> Vec<String> {
        let inputs: Vec<Input> = self.given.iter().map(read).collect();
        let mut world = World::new(self.settings.settings());
        let mut picture = Picture::default();
        inputs.iter().for_each(|i| world.upsert(i.clone()));
        picture.apply(world.take());
        let at_once = picture.lines();
        for backwards in [false, true] {
            let mut world = World::new(self.settings.settings());
            let mut picture = Picture::default();
            let order: Box<dyn Iterator<Item = &Input>> =
                if backwards { Box::new(inputs.iter().rev()) } else { Box::new(inputs.iter()) };
            for input in order {
                world.upsert(input.clone());
                picture.apply(world.take());
            }
            assert_eq!(picture.lines(), at_once, "{at}: one at a time, backwards: {backwards}");
            assert_eq!(Picture::of(translate_all(&world)).lines(), at_once, "{at}: all anew");
        }
        at_once
    }
}

fn fits(want: &str, line: &str) -> bool {
    match want.strip_suffix("...") {
        Some(beginning) => line.starts_with(beginning),
        None => want == line,
    }
}

fn run(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).unwrap();
    let short = file.file_name().unwrap().to_string_lossy().into_owned();
    let table: Table = document::parse(&short, &text).unwrap_or_else(|e| panic!("{e}"));
    let mut wrong = Vec::new();
    for case in table.cases {
        let at = format!("{short}, {:?}", case.name);
        let lines = case.outcome(&at);
        let same = lines.len() == case.want.len() && case.want.iter().zip(&lines).all(|(w, l)| fits(w, l));
        if !same {
            wrong.push(format!("{at}\n  want\n    {}\n  got\n    {}", case.want.join("\n    "), lines.join("\n    ")));
        }
    }
    wrong
}

#[test]
fn the_tables_hold() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/translate");
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|f| f.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 10, "where are the tables?");
    let wrong: Vec<String> = files.iter().flat_map(|f| run(f)).collect();
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
}
