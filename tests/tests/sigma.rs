//! The Sigma rules of `dist/sigma`, converted by pySigma for two engines, and run on events: each rule
//! matches what is open or updated of its kind, and nothing else.

#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use portwatch_tests::{finish, skip};
use serde_json::{Value, json};

/// What converts the rules, at versions that were tried.
const PACKAGES: [&str; 3] =
    ["pySigma==1.5.1", "pySigma-backend-elasticsearch==2.1.1", "pySigma-backend-sqlite==2.0.0"];

#[test]
fn each_rule_matches_the_open_and_updated_findings_of_its_kind_and_no_others() {
    let Some(python) = python() else { return };
    let rules = root().join("dist/sigma");
    let kinds = kinds(&rules);
    let events = tempfile::NamedTempFile::new().expect("make a file");
    fs::write(events.path(), of_every_kind(&kinds)).expect("write events");

    let mut script = Command::new(python);
    script.arg(root().join("tests/data/sigma_rules.py")).args([&rules, events.path()]);
    let told = finish(&mut script);

    assert_eq!(told.code, Some(0), "{}", told.stderr);
    let told: BTreeMap<String, Value> =
        serde_json::from_str(&told.stdout).unwrap_or_else(|error| panic!("{error}: {told:?}"));
    assert_eq!(told.keys().collect::<Vec<_>>(), kinds.iter().collect::<Vec<_>>());
    for (kind, told) in told {
        assert_eq!(told["matches"], json!([[kind, "open"], [kind, "updated"]]), "{kind}");
        let lucene = told["lucene"].as_str().expect("a query");
        let escaped = kind.replace('-', "\\-");
        assert!(lucene.contains(&format!("portwatch.finding.kind:{escaped}")), "{lucene}");
    }
}

/// A Python that has pySigma; `None`, noted as skipped, where that cannot be had.
fn python() -> Option<PathBuf> {
    let venv = Path::new(env!("CARGO_TARGET_TMPDIR")).join("sigma");
    let python = venv.join("bin/python3");
    let has_it = |python: &Path| {
        let import = "import sigma.backends.elasticsearch, sigma.backends.sqlite";
        python.exists() && finish(Command::new(python).args(["-c", import])).code == Some(0)
    };
    if has_it(&python) {
        return Some(python);
    }
    let make = finish(Command::new("python3").args(["-m", "venv"]).arg(&venv));
    if make.code != Some(0) {
        skip(&format!("python3 makes no environment: {}", make.stderr.trim()));
        return None;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]);
    let installed = finish(pip.args(PACKAGES));
    if installed.code != Some(0) {
        let last = installed.stderr.lines().last().unwrap_or_default().to_owned();
        skip(&format!("PyPI gives no pySigma: {last}"));
        return None;
    }
    Some(python)
}

/// The kinds that have a rule.
fn kinds(rules: &Path) -> Vec<String> {
    let files = fs::read_dir(rules).expect("list the rules");
    let names = files.map(|file| file.expect("list the rules").path());
    let mut kinds: Vec<String> = names
        .filter(|path| path.extension().is_some_and(|extension| extension == "yml"))
        .map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned())
        .collect();
    kinds.sort();
    assert!(!kinds.is_empty());
    kinds
}

/// The documents of the examples that are no findings, and one of their findings in every kind and state.
fn of_every_kind(kinds: &[String]) -> String {
    let golden = root().join("monitor/src/output/golden/run.jsonl");
    let documents = fs::read_to_string(golden).expect("read the examples");
    let documents: Vec<Value> = documents
        .lines()
        .map(|line| serde_json::from_str(line).expect("read an example"))
        .collect();
    let (findings, mut events): (Vec<Value>, Vec<Value>) =
        documents.into_iter().partition(|it| it["event"]["dataset"] == "portwatch.finding");
    let finding = findings.first().expect("a finding among the examples");
    for kind in kinds {
        for state in ["open", "updated", "closed"] {
            let mut finding = finding.clone();
            finding["portwatch"]["finding"]["kind"] = json!(kind);
            finding["portwatch"]["finding"]["state"] = json!(state);
            events.push(finding);
        }
    }
    events.iter().map(Value::to_string).collect::<Vec<_>>().join("\n")
}

fn root() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().expect("the workspace").to_path_buf()
}
