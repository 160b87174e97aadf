//! `hale.toml`: each mistake points into its file and can be shown on a terminal, and what is accepted means the same
//! whenever it is read.
//!
//! An input is a file, or two with a line `####` between them.

use hale_config::{Diagnostic, HostDefaults, Severity, Source, Validated, directories, parse, parse_duration};
use hale_core::policy::Policy;
use hale_core::text::is_harmless;

/// Where the first file is.
const BASE: &str = "/etc/hale";

pub fn run(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let _words_of_a_refusal = parse_duration(text);
    let (first, second) = text.split_once("\n####\n").map_or((text, None), |(first, second)| (first, Some(second)));
    let texts = std::iter::once(first).chain(second);
    let files: Vec<Source> = texts
        .zip(["hale.toml", "b.toml"])
        .map(|(text, name)| Source { name: name.into(), text: text.into() })
        .collect();
    let host = HostDefaults {
        state_dir: "/var/lib/hale".into(),
        runtime_dir: "/run/hale".into(),
        log_dir: "/var/log/hale".into(),
    };
    let found = parse(&files, &host, BASE);
    assert_eq!(found, parse(&files, &host, BASE));
    let all = match &found {
        Ok(validated) => {
            accepted(validated, &files, &host);
            &validated.warnings
        }
        Err(mistakes) => mistakes,
    };
    assert_eq!(found.is_err(), all.iter().any(|one| one.severity == Severity::Error), "{all:?}");
    all.iter().for_each(|one| mistake(one, &files));
}

fn accepted(validated: &Validated, files: &[Source], host: &HostDefaults) {
    let Validated { policy, hash, warnings: _ } = validated;
    let json = serde_json::to_string(policy).expect("a policy has a JSON form");
    let again: Policy = serde_json::from_str(&json).expect("it is read from it");
    assert_eq!((again == *policy, serde_json::to_string(&again).ok()), (true, Some(json)));
    let told = directories(files, host, BASE).expect("what is accepted has directories");
    assert_eq!(told.state_dir, policy.host.state_dir);
    // What says nothing changes nothing; a byte order mark can only stand first.
    let commented = |file: &Source| {
        let text = format!("# é\n{}\n# [host", file.text.trim_start_matches('\u{feff}'));
        Source { text, ..file.clone() }
    };
    let commented: Vec<Source> = files.iter().map(commented).collect();
    assert_eq!(parse(&commented, host, BASE).map(|found| found.hash), Ok(hash.clone()));
}

fn mistake(one: &Diagnostic, files: &[Source]) {
    let file = files.iter().find(|file| file.name == one.file).expect("it is in one of the files");
    let before = file.text.get(..one.span.start).unwrap_or_else(|| panic!("{one:?} begins at no character"));
    assert!(file.text.get(one.span.clone()).is_some(), "{one:?} is beyond the text");
    assert_eq!(one.line, 1 + before.matches('\n').count(), "{one:?}");
    assert_eq!(one.column, 1 + before.chars().rev().take_while(|c| *c != '\n').count(), "{one:?}");
    let shown = one.to_string();
    let harmful = |c: char| !is_harmless(c) && c != '\n';
    assert!(!shown.contains(harmful), "{shown:?}");
    assert!(!one.message.contains('\n') && shown.lines().count() == 5 + usize::from(one.help.is_some()), "{shown:?}");
    serde_json::to_string(one).expect("it has a JSON form");
}
