//! Files under 400 lines and functions under 60, tests not counted; exemptions are written with their reason.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Lines of a file before its tests. A screenful times ten: what a reader can hold.
const FILE_LINES: usize = 400;
/// Lines of a function, signature to closing brace.
const FUNCTION_LINES: usize = 60;
/// `path[:function] reason…`, one a line.
const EXEMPTIONS: &str = include_str!("../exemptions.txt");

/// Files and functions that are too long and not exempted, and exemptions that nothing needs any more.
pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for top in [
        "crates",
        "redirect-ebpf",
        "ztunnel",
        "waypoint",
        "ca",
        "control",
        "node",
        "cli",
        "proto",
        "xtask",
        "bench",
        "e2e",
    ] {
        collect(&root.join(top), &mut files)?;
    }
    let mut used = Vec::new();
    let mut faults = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let name = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        for (place, what) in too_long(&name, &text) {
            match EXEMPTIONS.lines().find(|l| l.split_whitespace().next() == Some(place.as_str())) {
                Some(line) => used.push(line),
                None => faults.push(what),
            }
        }
    }
    for line in EXEMPTIONS.lines().filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if !used.contains(&line) {
            faults.push(format!("xtask/exemptions.txt: nothing needs {line:?} any more; delete it"));
        }
        if line.split_whitespace().nth(1).is_none() {
            faults.push(format!("xtask/exemptions.txt: {line:?} gives no reason"));
        }
    }
    Ok(faults)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(()) };
    for entry in entries {
        let path = entry.with_context(|| format!("cannot list {}", folder.display()))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() {
            if !matches!(name.as_str(), "target" | "tests" | "benches" | "examples") {
                collect(&path, files)?;
            }
        } else if name.ends_with(".rs") && !name.ends_with("_tests.rs") && name != "tests.rs" {
            files.push(path);
        }
    }
    Ok(())
}

/// Places in one file that are too long, each with a sentence. Relies on rustfmt: a function ends at the first line
/// that is a closing brace at the function's own indentation.
fn too_long(name: &str, text: &str) -> Vec<(String, String)> {
    let lines: Vec<&str> = text.lines().take_while(|l| l.trim() != "#[cfg(test)]").collect();
    let mut found = Vec::new();
    if lines.len() > FILE_LINES {
        let what = format!("{name}: {} lines (limit {FILE_LINES}); split it by meaning", lines.len());
        found.push((name.to_owned(), what));
    }
    for (start, line) in lines.iter().enumerate() {
        let Some(function) = function_name(line) else { continue };
        let indent = &line[..line.len() - line.trim_start().len()];
        let close = format!("{indent}}}");
        let length = lines[start..].iter().position(|l| *l == close).map_or(0, |n| n + 1);
        let one_line = line.ends_with('}') || line.ends_with(';');
        if !one_line && length > FUNCTION_LINES {
            let what = format!("{name}:{}: fn {function} has {length} lines (limit {FUNCTION_LINES})", start + 1);
            found.push((format!("{name}:{function}"), what));
        }
    }
    found
}

fn function_name(line: &str) -> Option<&str> {
    let mut rest = line.trim_start();
    for word in ["pub(crate) ", "pub(super) ", "pub ", "const ", "async ", "unsafe ", "extern \"C\" "] {
        rest = rest.strip_prefix(word).unwrap_or(rest);
    }
    let rest = rest.strip_prefix("fn ")?;
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_function_and_a_long_file_are_found_and_tests_are_not_counted() {
        let body = "    let x = 1;\n".repeat(FUNCTION_LINES);
        let text = format!(
            "pub async fn long() {{\n{body}}}\n\nfn short() {{\n    1\n}}\n#[cfg(test)]\nfn t() {{\n{body}}}\n"
        );
        let found = too_long("a.rs", &text);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].0, "a.rs:long");
        let file = "// line\n".repeat(FILE_LINES + 1);
        assert_eq!(too_long("b.rs", &file)[0].0, "b.rs");
    }
}
