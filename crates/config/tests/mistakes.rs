//! Every file of `tests/mistakes` has a mistake, and beside it the exact text that the operator is shown.

use hale_config::{Diagnostic, HostDefaults, Severity, Source, parse};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// A line that starts so begins a further file, whose name follows.
const NEXT_FILE: &str = "#--- ";

fn files_with(extension: &str) -> BTreeSet<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/mistakes");
    let all = std::fs::read_dir(folder).expect("the folder is part of the crate").flatten().map(|entry| entry.path());
    all.filter(|path| path.extension().is_some_and(|other| other == extension)).collect()
}

fn sources(text: &str) -> Vec<Source> {
    let mut all = vec![Source { name: "hale.toml".into(), text: String::new() }];
    for line in text.split_inclusive('\n') {
        match line.strip_prefix(NEXT_FILE) {
            Some(name) => all.push(Source { name: name.trim().into(), text: String::new() }),
            None => all.last_mut().expect("there is a first file").text.push_str(line),
        }
    }
    all
}

fn diagnose(text: &str) -> Vec<Diagnostic> {
    let defaults = HostDefaults {
        state_dir: "/var/lib/hale".into(),
        runtime_dir: "/run/hale".into(),
        log_dir: "/var/log/hale".into(),
    };
    match parse(&sources(text), &defaults, "/etc/hale") {
        Ok(validated) => validated.warnings,
        Err(all) => all,
    }
}

#[test]
fn every_mistake_has_its_message() {
    let cases = files_with("toml");
    assert!(cases.len() >= 40, "only {} cases", cases.len());
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("mistakes");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    for case in cases {
        let text = std::fs::read_to_string(&case).unwrap();
        let found = diagnose(&text);
        assert!(!found.is_empty(), "{} has no mistake", case.display());
        for one in &found {
            let source = sources(&text).into_iter().find(|source| source.name == one.file).unwrap();
            assert!(one.span.start <= one.span.end && one.span.end <= source.text.len(), "{one}");
            assert!(one.line >= 1 && one.column >= 1, "{one}");
        }
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        let stem = case.file_stem().unwrap().to_str().unwrap();
        settings.bind(|| insta::assert_snapshot!(stem, shown.join("\n")));
    }
}

/// A case says in its first line how many errors and warnings it has, so that a snapshot taken in a hurry cannot
/// hide a mistake that is told twice or not at all.
#[test]
fn each_mistake_is_told_once() {
    for case in files_with("toml") {
        let text = std::fs::read_to_string(&case).unwrap();
        let found = diagnose(&text);
        let errors = found.iter().filter(|one| one.severity == Severity::Error).count();
        let announced = format!("# {errors} errors, {} warnings", found.len() - errors);
        assert_eq!(text.lines().next().unwrap_or_default(), announced, "{}", case.display());
    }
}

#[test]
fn no_snapshot_is_left_over() {
    let cases: BTreeSet<_> = files_with("toml").into_iter().map(|path| path.with_extension("")).collect();
    for snapshot in files_with("snap") {
        assert!(cases.contains(&snapshot.with_extension("")), "{} has no case", snapshot.display());
    }
}
