//! Changes that nobody ordered: `current` moved by hand, releases damaged, files edited, removed and swapped for links. They are
//! noticed, never fought, and what does not work is taken back.

use crate::deploying::{
    CONFIGURED, LIVES, PASSES, SERVICE, begin, begin_to_deploy, crash, deploy, release, runs, text,
};
use crate::harness::{Hale, Place, send, words};
use rustix::process::Signal;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;

/// Moves `current`, as an operator or a script does.
fn flip(place: &Place, to: &str) {
    let dir = place.path("state/releases/app");
    symlink(to, dir.join("theirs")).unwrap();
    fs::rename(dir.join("theirs"), dir.join("current")).unwrap();
}

/// Two good releases, of which the second runs, and a third that is in the store and crashes.
fn prepare(place: &Place) -> (Hale<'_>, [String; 3]) {
    let hale = begin(place, SERVICE);
    let mut ids = ["one", "two"]
        .map(|name| {
            release(place, name, LIVES, PASSES);
            deploy(place, name, 0);
            runs(place)
        })
        .to_vec();
    release(place, "bad", "exit 3", PASSES);
    deploy(place, "bad", 4);
    hale.event("app", "what was good works again: rolled back");
    ids.push(bad_id(place, &ids));
    (hale, ids.try_into().unwrap())
}

fn bad_id(place: &Place, others: &[String]) -> String {
    let known = place.json(&["generations", "app"]);
    let mut ids = known["generations"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned());
    ids.find(|id| !others.contains(id)).unwrap()
}

fn healthy(place: &Place, id: &str) {
    place.until(|| {
        let status = place.status("app");
        let is_so = status["state"] == "healthy" && status["generation"] == *id && status["switch"].is_null();
        is_so.then_some(()).ok_or(status.to_string())
    });
    assert_eq!(runs(place), id);
}

/// What somebody does to the link.
type Loss<'a> = Box<dyn Fn() + 'a>;

#[test]
fn a_link_that_somebody_moved_is_noticed_and_proves_itself_from_the_next_process_on() {
    let place = Place::new();
    let (hale, [one, _, bad]) = prepare(&place);
    let before = place.status("app")["pid"].as_i64().unwrap();
    flip(&place, &one);
    hale.event("app", "switched to");
    assert_eq!(place.status("app")["pid"], before, "nothing is done to what runs");
    place.done(&["restart", "app"]);
    hale.event("app", "committed");
    healthy(&place, &one);
    flip(&place, &bad);
    hale.event("app", "switched to");
    crash(place.status("app")["pid"].as_i64().unwrap());
    hale.event("app", "what was good works again: rolled back");
    healthy(&place, &one);
    // To something that is not there: it is told, and gone back from when it is needed.
    flip(&place, &"0".repeat(64));
    hale.event("app", "switched to");
    crash(place.status("app")["pid"].as_i64().unwrap());
    hale.event("app", "what was good works again: rolled back");
    healthy(&place, &one);
    assert_eq!(fs::read_link(place.path("state/releases/app/current")).unwrap(), PathBuf::from(&one));
    hale.stop();
}

#[test]
fn a_link_that_somebody_moved_while_hale_was_not_there_proves_itself() {
    let place = Place::new();
    let (hale, [one, _, bad]) = prepare(&place);
    hale.stop();
    flip(&place, &one);
    let hale = place.hale_again();
    hale.event("app", "committed");
    healthy(&place, &one);
    hale.stop();
    flip(&place, &bad);
    let hale = place.hale_again();
    hale.event("app", "what was good works again: rolled back");
    healthy(&place, &one);
    hale.stop();
}

/// It may be what helps.
#[test]
fn a_link_that_somebody_moved_is_tried_at_once_when_what_ran_before_is_given_up() {
    let place = Place::new();
    let (hale, [one, _, _]) = prepare(&place);
    for _ in 0..2 {
        crash(place.status("app")["pid"].as_i64().unwrap());
        hale.event("app", "recovered in");
    }
    flip(&place, &one);
    hale.event("app", "switched to");
    crash(place.status("app")["pid"].as_i64().unwrap());
    hale.event("app", "held: quick restarts are given up");
    hale.event("app", "committed");
    healthy(&place, &one);
    hale.stop();
}

/// What is no release is not run, and what leads nowhere does not end a service.
#[test]
fn a_link_that_leads_elsewhere_or_is_gone_takes_nothing_down() {
    let place = Place::new();
    let (hale, [_, two, _]) = prepare(&place);
    let current = place.path("state/releases/app/current");
    let lose: [(&str, Loss<'_>); 3] = [
        ("elsewhere", Box::new(|| flip(&place, "/etc"))),
        ("gone", Box::new(|| fs::remove_file(&current).unwrap())),
        (
            "a directory",
            Box::new(|| {
                let _ = fs::remove_file(&current);
                fs::create_dir(&current).unwrap();
            }),
        ),
    ];
    for (what, lose) in lose {
        lose();
        crash(place.status("app")["pid"].as_i64().unwrap());
        hale.event("app", "recovered in");
        assert_eq!(runs(&place), two, "{what}");
    }
    hale.stop();
    let hale = place.hale_again();
    hale.event("app", "ready");
    assert_eq!(runs(&place), two);
    hale.stop();
}

fn damage(place: &Place, id: &str) {
    let file = place.path("state/releases/app").join(id).join("bin/app");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&file, "#!/bin/sh\nexec sleep 2000\n").unwrap();
}

#[test]
fn nothing_is_switched_where_the_way_back_is_damaged() {
    let place = Place::new();
    let (hale, [_, two, _]) = prepare(&place);
    damage(&place, &two);
    let verified = place.run(&["generations", "app", "--verify"]);
    assert!(
        verified.status.code() == Some(1) && text(&verified).contains("bin/app has another content"),
        "{verified:?}"
    );
    release(&place, "third", LIVES, PASSES);
    let before = place.status("app")["pid"].clone();
    let refused = deploy(&place, "third", 6);
    assert!(text(&refused).contains("bin/app has another content"), "{}", text(&refused));
    assert_eq!((&place.status("app")["pid"], runs(&place)), (&before, two));
    hale.stop();
}

/// What a supervisor has not read itself it reads by itself: damage is told long before it is met, and repaired by nobody but its operator.
#[test]
fn damage_is_found_by_the_next_supervisor_and_a_repair_is_told() {
    let place = Place::new();
    let (hale, [one, two, _]) = prepare(&place);
    damage(&place, &one);
    send(hale.supervisor(), Signal::KILL);
    let told = hale.event("app", "is no way back");
    assert!(told.contains(&one[..12]) && told.contains("bin/app has another content"), "{told}");
    let of = |id: &str| {
        let known = place.json(&["generations", "app"]);
        let all = known["generations"].as_array().unwrap();
        all.iter().find(|generation| generation["id"] == id).unwrap().clone()
    };
    assert_eq!((&of(&one)["verified"], &of(&two)["verified"]), (&json!(false), &json!(true)));
    let records = place.done(&["ledger", "show", "--json"]);
    let is_told = |line: &str| line.contains("\"files_changed\"") && line.contains(&one);
    assert_eq!(records.lines().filter(|line| is_told(line)).count(), 1);
    // The ladder does not go there; it is quarantined, and stays so.
    for _ in 0..3 {
        crash(place.status("app")["pid"].as_i64().unwrap());
        hale.event("app", "the process ");
        place.until(|| {
            let status = place.status("app");
            let goes_on = status["state"] == "healthy" || status["state"] == "held";
            goes_on.then_some(()).ok_or(status.to_string())
        });
    }
    hale.event("app", "is quarantined: not switched to by itself again");
    let bad = of(&one);
    assert_eq!(bad["quarantined"]["damaged"], true, "{bad}");
    // Repaired by hand, it is whole, and how it comes back is said.
    let dir = place.path("state/releases/app").join(&one);
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    fs::rename(&dir, place.path("away")).unwrap();
    let refused = deploy(&place, "one", 6);
    assert!(text(&refused).contains("hale quarantine clear"), "{}", text(&refused));
    let known = place.done(&["generations", "app", "--verify"]);
    assert!(known.contains(&format!("it is whole now: `hale quarantine clear {one}`")), "{known}");
    place.done(&["quarantine", "clear", &one]);
    deploy(&place, "one", 0);
    healthy(&place, &one);
    hale.stop();
}

/// It was whole when it was looked at, and is not when it is needed.
#[test]
fn instead_of_a_way_back_that_is_damaged_meanwhile_the_next_older_one_is_taken() {
    let place = Place::new();
    let (hale, [one, two, _]) = prepare(&place);
    place.configure("", &SERVICE.replace("800ms", "1h"));
    place.done(&["reload"]);
    let poisoned = |name: &str| {
        let app = place.text("test -e @D/poison && exit 9; exec sleep 1000");
        release(&place, name, &app, PASSES);
        begin_to_deploy(&place, name);
    };
    poisoned("third");
    damage(&place, &two);
    place.write("poison", "");
    crash(place.status("app")["pid"].as_i64().unwrap());
    hale.event("app", "what was good works again: rolled back");
    healthy(&place, &one);
    let known = place.done(&["generations", "app"]);
    assert!(known.contains("bin/app has another content"), "{known}");
    // Where there is none any more, it is held, and says why.
    fs::remove_file(place.path("poison")).unwrap();
    poisoned("fourth");
    damage(&place, &one);
    place.write("poison", "");
    crash(place.status("app")["pid"].as_i64().unwrap());
    let told = hale.event("app", "stays, and is not known to be good");
    assert!(told.contains("bin/app has another content"), "{told}");
    hale.event("app", "held: quick restarts are given up");
    assert_eq!(place.status("app")["state"], json!("held"));
    hale.stop();
}

/// Files of a service whose start reads them.
fn configured(place: &Place) -> Hale<'_> {
    fs::create_dir(place.path("etc")).unwrap();
    place.write("etc/app.conf", "good 1\n");
    let hale = place.hale(CONFIGURED);
    has_read(&hale);
    hale
}

/// Waits until it runs by what was in its files.
fn has_read(hale: &Hale<'_>) {
    is_past_reading(hale.place, hale.ready("app"));
}

fn is_past_reading(place: &Place, pid: i32) {
    place.until(|| (words(pid)[0] == "sleep").then_some(()).ok_or(words(pid).join(" ")));
}

#[track_caller]
fn put_back(hale: &Hale<'_>, text: &str) {
    let place = hale.place;
    crash(place.status("app")["pid"].as_i64().unwrap());
    hale.event("app", "what was good works again: rolled back");
    let file = place.path("etc/app.conf");
    assert!(!file.is_symlink());
    assert_eq!(fs::read_to_string(file).unwrap(), text);
}

#[test]
fn copies_of_files_that_are_damaged_are_found_before_they_are_needed() {
    let place = Place::new();
    let hale = configured(&place);
    let verify = || {
        let output = place.command().args(["generations", "app", "--verify", "--json"]).output().unwrap();
        let found: Value = serde_json::from_slice(&output.stdout).unwrap();
        let of_files = found["generations"].as_array().unwrap().iter().find(|one| one["part"] == "files").cloned();
        (output.status.code(), of_files.unwrap_or_default())
    };
    place.until(|| match verify() {
        (Some(0), found) if found["verified"] == json!(true) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    for content in fs::read_dir(place.path("state/files/app/contents")).unwrap() {
        let content = content.unwrap().path();
        fs::set_permissions(&content, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&content, "rotten").unwrap();
    }
    let (code, found) = verify();
    assert_eq!((code, &found["verified"]), (Some(1), &json!(false)), "{found}");
    assert!(found["fault"].as_str().unwrap().contains("is another one"), "{found}");
    hale.stop();
}

/// What is secret by its name, and what is by its value: it stands in a file of the environment.
#[test]
fn how_a_file_was_edited_stands_in_the_ledger_without_its_secrets() {
    let place = Place::new();
    fs::create_dir(place.path("etc")).unwrap();
    place.write("etc/app.conf", "good 1\npassword = old-hunter2\ncolour = red\nkept\n");
    place.write("etc/env", "TOKEN=bright-moon-77\n");
    let hale = place.hale(
        &CONFIGURED
            .replace("directory = \"/\"", &place.text("directory = \"/\"\nenvironment_files = [\"@D/etc/env\"]")),
    );
    has_read(&hale);
    place.write("etc/app.conf", "good 1\npassword = new-hunter2\ncolour = blue\nurl = /x?bright-moon-77&y\nkept\n");
    hale.event("app", "its files were changed: ");
    hale.event("app", "its files: switched to");
    hale.stop();
    let records = place.records("app", "files_changed");
    let lines: Vec<&str> = records[0]["lines"].as_array().unwrap().iter().map(|line| line.as_str().unwrap()).collect();
    assert!(
        lines[0].contains("etc/app.conf has another content (") && lines[1].starts_with("@@ -1,4 +1,5 @@"),
        "{lines:?}"
    );
    let expected = [
        " good 1",
        "-password = [redacted]",
        "-colour = red",
        "+password = [redacted]",
        "+colour = blue",
        "+url = /x?[redacted]&y",
        " kept",
    ];
    assert_eq!(lines[2..], expected);
    let shown = place.done(&["ledger", "show"]);
    assert!(shown.contains(&expected.join(" | ")), "{shown}");
    let arguments = ["-rlaE", "hunter2|bright-moon"];
    let found = std::process::Command::new("grep").args(arguments).arg(place.path("state/ledger")).output().unwrap();
    assert_eq!(text(&found), "");
}

#[test]
fn a_file_that_is_removed_is_put_back() {
    let place = Place::new();
    let hale = configured(&place);
    fs::remove_file(place.path("etc/app.conf")).unwrap();
    hale.event("app", "its files: switched to");
    put_back(&hale, "good 1\n");
    hale.stop();
}

#[test]
fn of_two_edits_in_a_row_neither_is_gone_back_to() {
    let place = Place::new();
    let hale = configured(&place);
    for bad in ["bad 1\n", "bad 2\n"] {
        place.write("etc/app.conf", bad);
        hale.event("app", "its files: switched to");
    }
    put_back(&hale, "good 1\n");
    hale.stop();
}

mod needs_root {
    use super::*;
    use std::os::unix::fs::chown;

    /// What the service can replace, it replaces by a link to what only root may read.
    #[test]
    fn a_link_to_what_is_secret_is_neither_read_nor_written_to() {
        let place = Place::new();
        const NOBODY: u32 = 65_534;
        fs::create_dir(place.path("etc")).unwrap();
        place.write("etc/app.conf", "good 1\n");
        place.write("secret", "root:hunter2-is-secret\n");
        fs::set_permissions(place.path("secret"), fs::Permissions::from_mode(0o600)).unwrap();
        for own in ["etc", "etc/app.conf"] {
            chown(place.path(own), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let hale = place.hale(&CONFIGURED.replace("directory = \"/\"", "directory = \"/\"\nuser = \"nobody\""));
        has_read(&hale);
        let link = place.path("etc/link");
        symlink(place.path("secret"), &link).unwrap();
        fs::rename(&link, place.path("etc/app.conf")).unwrap();
        hale.event("app", "its files: switched to");
        put_back(&hale, "good 1\n");
        assert_eq!(fs::read_to_string(place.path("secret")).unwrap(), "root:hunter2-is-secret\n");
        hale.stop();
        let found =
            std::process::Command::new("grep").args(["-rla", "hunter2"]).arg(place.path("state")).output().unwrap();
        assert_eq!(text(&found), "");
    }
}

/// A release and its files are switched each by itself.
#[test]
fn a_file_that_is_edited_amidst_a_probation_goes_back_by_itself() {
    let place = Place::new();
    fs::create_dir(place.path("etc")).unwrap();
    place.write("etc/app.conf", "good 1\n");
    let service = place.text(&format!("{SERVICE}files = [\"@D/etc/app.conf\"]\n"));
    let hale = begin(&place, &service);
    let app = place.text("grep -q '^good' @D/etc/app.conf || exit 5; exec sleep 1000");
    release(&place, "good", &app, PASSES);
    deploy(&place, "good", 0);
    let good = runs(&place);
    place.configure("", &service.replace("800ms", "1h"));
    place.done(&["reload"]);
    release(&place, "new", &app, PASSES);
    begin_to_deploy(&place, "new");
    let pid = place.status("app")["pid"].as_i64().unwrap();
    // A process that had not read them yet would fail by what they are now.
    is_past_reading(&place, i32::try_from(pid).unwrap());
    place.write("etc/app.conf", "bad\n");
    hale.event("app", "its files: switched to");
    crash(pid);
    // The program is up for a moment before it has read them.
    hale.event("app", "its files: rolled back, and healthy");
    assert_eq!(fs::read_to_string(place.path("etc/app.conf")).unwrap(), "good 1\n");
    assert_eq!((&place.status("app")["state"], runs(&place)), (&json!("healthy"), good));
    hale.stop();
}
