//! Fuzz targets: each is a function that gets bytes, gives them to what reads them in Hale, and asserts what must hold.
//!
//! A target is one file in `targets/`. `cargo xtask fuzz` builds this program with libFuzzer as its `main`;
//! `HALE_FUZZ_TARGET` names the target then. Inputs that are worth keeping are in `corpus/TARGET/`. Any other build has a
//! `main` that runs a target on files, and a test that does so with all kept ones.
#![cfg_attr(hale_fuzzing, no_main)]

mod answer;
mod targets;

use targets::{TARGETS, Target};

fn target(name: &str) -> Option<Target> {
    TARGETS.iter().find(|(known, _)| *known == name).map(|(_, run)| *run)
}

#[cfg(hale_fuzzing)]
mod entrance {
    use crate::targets::Target;
    use std::sync::LazyLock;

    static CHOSEN: LazyLock<Target> = LazyLock::new(|| {
        let name = std::env::var("HALE_FUZZ_TARGET").unwrap_or_default();
        super::target(&name).unwrap_or_else(|| panic!("HALE_FUZZ_TARGET={name:?} is not a target"))
    });

    libfuzzer_sys::fuzz_target!(|input: &[u8]| CHOSEN(input));
}

#[cfg(not(hale_fuzzing))]
fn main() -> std::process::ExitCode {
    let mut words = std::env::args().skip(1);
    let Some(run) = words.next().as_deref().and_then(target) else {
        let names: Vec<&str> = TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: hale-fuzz TARGET FILE...\ntargets: {}", names.join(", "));
        return std::process::ExitCode::from(2);
    };
    for file in words {
        match std::fs::read(&file) {
            Ok(input) => run(&input),
            Err(error) => {
                eprintln!("cannot read {file}: {error}");
                return std::process::ExitCode::FAILURE;
            }
        }
    }
    std::process::ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::path::{Path, PathBuf};

    fn entries(folder: &Path) -> impl Iterator<Item = PathBuf> {
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path())
    }

    #[test]
    fn every_target_has_kept_inputs_and_passes_them() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
        let folders: BTreeSet<_> = entries(&corpus).map(|folder| folder.file_name().unwrap().to_owned()).collect();
        assert_eq!(folders, TARGETS.iter().map(|(name, _)| (*name).into()).collect());
        for (name, run) in TARGETS {
            let mut count = 0;
            for file in entries(&corpus.join(name)) {
                // Shown only if it fails.
                println!("{}", file.display());
                run(&std::fs::read(file).unwrap());
                count += 1;
            }
            assert!(count > 0, "{name} has no kept inputs");
        }
    }
}
