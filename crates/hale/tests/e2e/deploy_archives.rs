//! Releases as archives: each form of the same content is the same release, and what is cut off is none.

use crate::deploying::{LIVES, PASSES, SERVICE, begin, deploy, release, runs, text};
use crate::harness::Place;
use std::fs::{self, File};
use std::process::{Command, Output};

/// `hale deploy` of an archive on standard input.
fn from_stdin(place: &Place, file: &str) -> Output {
    let file = File::open(place.path(file)).unwrap();
    place.command().args(["deploy", "app", "-"]).stdin(file).output().unwrap()
}

mod needs_gnu_tar {
    mod needs_zstd {
        use super::super::*;

        const ARCHIVES: [&str; 3] = ["v.tar", "v.tar.gz", "v.tar.zst"];

        /// The archives that an operator would make of a release.
        fn pack(place: &Place, name: &str) {
            let line = "tar -C @D/@N -cf @D/v.tar . && gzip -kf @D/v.tar && zstd -qf @D/v.tar";
            let line = place.text(line).replace("@N", name);
            assert!(Command::new("sh").args(["-c", &line]).status().unwrap().success());
        }

        #[test]
        fn a_directory_and_each_archive_of_it_are_one_release() {
            let place = Place::new();
            let hale = begin(&place, SERVICE);
            release(&place, "good", LIVES, PASSES);
            deploy(&place, "good", 0);
            pack(&place, "good");
            let (good, pid) = (runs(&place), place.status("app")["pid"].clone());
            for archive in ARCHIVES {
                for output in [deploy(&place, archive, 0), from_stdin(&place, archive)] {
                    let said = text(&output);
                    assert!(output.status.success() && said.contains("is there already"), "{archive}: {said}");
                    assert_eq!((runs(&place), &place.status("app")["pid"]), (good.clone(), &pid), "{archive}");
                }
            }
            // And each is enough where nothing is there.
            for (at, archive) in (0..).zip(ARCHIVES) {
                let name = format!("next-{at}");
                release(&place, &name, LIVES, PASSES);
                pack(&place, &name);
                let said = text(&deploy(&place, archive, 0));
                assert!(said.contains("is imported"), "{archive}: {said}");
                let there = text(&deploy(&place, &name, 0));
                assert!(there.contains("is there already"), "{archive}: {there}");
            }
            hale.stop();
        }

        #[test]
        fn an_archive_that_is_cut_off_anywhere_is_refused_and_changes_nothing() {
            let place = Place::new();
            let hale = begin(&place, SERVICE);
            release(&place, "good", LIVES, PASSES);
            deploy(&place, "good", 0);
            release(&place, "new", LIVES, PASSES);
            pack(&place, "new");
            let known = || {
                let names = fs::read_dir(place.path("state/releases/app")).unwrap();
                let names: std::collections::BTreeSet<_> = names.map(|entry| entry.unwrap().file_name()).collect();
                (place.json(&["generations", "app"])["generations"].clone(), names, place.status("app")["pid"].clone())
            };
            let before = known();
            for archive in ARCHIVES {
                let whole = fs::read(place.path(archive)).unwrap();
                // Of a tar, up to the zeros at its end: between two entries as well as within one.
                let content = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
                let lengths = [0, 100, 512, 1_024, 2_048, content / 2, content.next_multiple_of(512), content - 1];
                for length in lengths.into_iter().filter(|&length| length < whole.len()) {
                    fs::write(place.path("cut"), &whole[..length]).unwrap();
                    for output in
                        [place.run(&["deploy", "app", place.path("cut").to_str().unwrap()]), from_stdin(&place, "cut")]
                    {
                        assert_eq!(output.status.code(), Some(6), "{archive} of {length} bytes: {output:?}");
                    }
                    assert_eq!(known(), before, "{archive} of {length} bytes");
                }
            }
            deploy(&place, "v.tar.zst", 0);
            assert_ne!(known(), before);
            hale.stop();
        }
    }
}
