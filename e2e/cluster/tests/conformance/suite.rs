//! The suite as a program: which flags it gets, how far it is, and whether what it says is enough.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use e2e_cluster::Cluster;

use super::world::LABELS;
use crate::common::workspace;

/// What is declared: both profiles' core, all extended features of a mesh, and those of gateways that tests of a mesh want too,
/// without which these would be passed over in silence.
const FEATURES: &[&str] = &[
    "Mesh",
    "HTTPRoute",
    "GRPCRoute",
    "MeshClusterIPMatching",
    "MeshConsumerRoute",
    "MeshHTTPRouteBackendRequestHeaderModification",
    "MeshHTTPRouteNamedRouteRule",
    "MeshHTTPRouteQueryParamMatching",
    "MeshHTTPRouteRedirectPath",
    "MeshHTTPRouteRedirectPort",
    "MeshHTTPRouteRewritePath",
    "MeshHTTPRouteSchemeRedirect",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteParentRefPort",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
];

/// The suite and what it needs.
pub(crate) struct Suite {
    program: PathBuf,
    /// Definitions of the API, of the suite's version, standard channel.
    pub(crate) definitions: PathBuf,
    /// Archives of the image that its manifests name, and of that of other judges.
    pub(crate) images: [PathBuf; 2],
    /// Where report and log go.
    out: PathBuf,
}

impl Suite {
    /// Builds what is not in the cache.
    pub(crate) fn find() -> Result<Self> {
        let output =
            Command::new(workspace().join("hack/tools.sh")).arg("conformance").stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "hack/tools.sh conformance failed; the lines above say why");
        let told = String::from_utf8(output.stdout)?;
        let folder =
            told.lines().find_map(|l| l.strip_prefix("conformance=")).context("hack/tools.sh names no folder")?;
        let (folder, out) = (Path::new(folder), workspace().join("target/conformance"));
        fs::create_dir_all(&out)?;
        Ok(Self {
            program: folder.join("conformance.test"),
            definitions: folder.join("definitions.yaml"),
            images: ["echo-advanced", "peers"].map(|name| out.join(format!("{name}.tar"))),
            out,
        })
    }

    /// Name of the image of its servers.
    pub(crate) fn server_image(&self) -> Result<String> {
        let names = fs::read_to_string(self.definitions.with_file_name("images"))?;
        Ok(names.trim().to_owned())
    }

    fn command(&self, cluster: &Cluster, test: &str) -> Command {
        let mut command = cluster.command(&self.program.display().to_string());
        command.args([&format!("-test.run=^{test}$"), "-test.v=test2json"]);
        command.arg(format!("-supported-features={}", FEATURES.join(",")));
        command
    }
}

/// Every test of a mesh, as the suite names them; fails when a feature that one wants is not declared.
pub(crate) fn nothing_undeclared(cluster: &Cluster, suite: &Suite) -> Result<()> {
    tests(cluster, suite).map(drop)
}

fn tests(cluster: &Cluster, suite: &Suite) -> Result<BTreeSet<String>> {
    let output = suite.command(cluster, "TestDeclared").output().context("the suite does not start")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    let names: BTreeSet<_> = said.lines().filter_map(|l| Some(l.split_once("mesh test ")?.1.to_owned())).collect();
    ensure!(!names.is_empty(), "the suite names no test of a mesh:\n{said}");
    Ok(names)
}

/// Runs it whole and with its own timeouts. It has to pass, and every test of a mesh has to have run.
pub(crate) fn run(cluster: &Cluster, suite: &Suite) -> Result<()> {
    let wanted = tests(cluster, suite)?;
    let report = suite.out.join("report.yaml");
    let mut command = suite.command(cluster, "TestConformance");
    // By labels alone: no class, since nothing here is a gateway's.
    let labels: Vec<_> = LABELS.iter().map(|(name, value)| format!("{name}={value}")).collect();
    command.args(["-gateway-class=", "-conformance-profiles=MESH-HTTP,MESH-GRPC"]);
    command.args([format!("-namespace-labels={}", labels.join(",")), format!("-report-output={}", report.display())]);
    command.args([
        "-organization=culvert",
        "-project=culvert",
        "-url=https://culvert.dev",
        "-contact=https://culvert.dev",
    ]);
    command.arg(concat!("-version=v", env!("CARGO_PKG_VERSION")));
    let one = std::env::var("RUN").ok();
    if let Some(test) = &one {
        command.arg(format!("-run-test={test}"));
    }
    let log = suite.out.join("suite.log");
    let told = follow(&mut command, &log)?;
    let of = |verdict: &str| {
        told.tests.iter().filter(|(v, _)| v == verdict).map(|(_, n)| n.clone()).collect::<BTreeSet<_>>()
    };
    let (passed, failed) = (of("PASS"), of("FAIL"));
    if one.is_none() {
        ensure!(failed.is_empty(), "failed: {failed:?}; what they said is in {}", log.display());
        let missing: Vec<_> = wanted.difference(&passed).collect();
        ensure!(missing.is_empty(), "did not run: {missing:?}; see {}", log.display());
        judge(&fs::read_to_string(&report).context("there is no report")?)?;
        println!(
            "      {} of {} tests of a mesh passed; the report is {}",
            passed.len(),
            wanted.len(),
            report.display()
        );
    }
    ensure!(told.success, "the suite failed: see {}", log.display());
    Ok(())
}

/// What a run told.
struct Told {
    /// (PASS, FAIL or SKIP; name), tests of the first level.
    tests: Vec<(String, String)>,
    success: bool,
}

// Writes all that it says into the log, and tells of each test of a mesh as it ends.
fn follow(command: &mut Command, log: &Path) -> Result<Told> {
    let mut file = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    let mut child =
        command.stdout(Stdio::piped()).stderr(file.try_clone()?).spawn().context("the suite does not start")?;
    let stdout = child.stdout.take().context("no stdout")?;
    let mut tests = Vec::new();
    // Since the last test began.
    let mut recent = Vec::new();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        writeln!(file, "{line}")?;
        let line = line.trim_start_matches('\u{16}');
        match verdict(line) {
            Some((verdict, name, took)) => {
                if verdict != "SKIP" {
                    println!("      {verdict}  {name} {took}");
                }
                if verdict == "FAIL" {
                    tail(&recent).iter().for_each(|line| println!("          {line}"));
                }
                recent.clear();
                tests.push((verdict.to_owned(), name.to_owned()));
            }
            None => recent.push(line.to_owned()),
        }
    }
    let success = child.wait()?.success();
    if tests.is_empty() {
        bail!("the suite ran nothing:\n{}", tail(&recent).join("\n"));
    }
    Ok(Told { tests, success })
}

/// The verdict over a test of the first level: `--- PASS: TestConformance/MeshBasic (0.27s)`.
fn verdict(line: &str) -> Option<(&str, &str, &str)> {
    let (verdict, rest) = line.strip_prefix("--- ")?.split_once(": TestConformance/")?;
    let (name, took) = rest.split_once(' ')?;
    (!name.contains('/')).then_some((verdict, name, took))
}

// Enough to see what was expected and what came.
fn tail(lines: &[String]) -> &[String] {
    &lines[lines.len().saturating_sub(30)..]
}

/// The report has to say that everything was tried and nothing failed, and that all extended features are supported.
fn judge(report: &str) -> Result<()> {
    let lines = || report.lines().map(str::trim);
    for count in ["Failed:", "Skipped:"] {
        let numbers: Vec<_> = lines().filter_map(|l| l.strip_prefix(count)).map(str::trim).collect();
        ensure!(
            !numbers.is_empty() && numbers.iter().all(|n| *n == "0"),
            "{count} {numbers:?} in the report:\n{report}"
        );
    }
    for profile in ["MESH-HTTP", "MESH-GRPC"] {
        ensure!(lines().any(|l| l == format!("name: {profile}")), "the report says nothing of {profile}:\n{report}");
    }
    ensure!(!report.contains("unsupportedFeatures"), "the report names unsupported features:\n{report}");
    Ok(())
}
