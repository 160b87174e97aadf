//! A service whose versions are kept by somebody's own program: here tags of git, each with a worktree of its own, and a link to one of them.

use crate::deploy_hooks::said;
use crate::deploy_killed::{SINCE_IT_IS_SWITCHED, kill_all};
use crate::deploying::{self, LIVES, PASSES, SERVICE, crash, deploy_named, on_probation, order, release};
use crate::harness::{Hale, Place, is_alive, send};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

/// One program for all five. What a test writes to `@D/fault` runs before what it is asked for.
const VERSIONS: &str = r#"#!/bin/sh
set -e
echo "$HALE_SERVICE: $*" >> @D/asked
test ! -e @D/fault || . @D/fault
cd @D/code
case $1 in
list) git tag --sort=-version:refname ;;
current) test ! -L @D/trees/current || readlink @D/trees/current ;;
stage)
    test ! -e "@D/trees/$2" || exit 0
    rm -rf @D/trees/new
    git worktree prune
    git worktree add --detach @D/trees/new "$2"
    git worktree move @D/trees/new "@D/trees/$2"
    sync -f @D/trees ;;
activate | revert)
    test -d "@D/trees/$2"
    ln -sfn "$2" @D/trees/next
    mv -T @D/trees/next @D/trees/current
    sync @D/trees ;;
esac
"#;

fn service(place: &Place, probation: &str) -> String {
    let directory = "[service.app]\ndirectory = \"@D/trees/current\"\n";
    let programs = ["list", "current", "stage", "activate", "revert"];
    let programs = programs.map(|word| format!("{word} = [\"@D/versions\", \"{word}\"]\n")).concat();
    let service = SERVICE.replace("[service.app]\n", directory).replace("800ms", probation);
    place.text(&format!("{service}store = \"command\"\n{programs}"))
}

#[track_caller]
fn done(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {output:?}");
}

#[track_caller]
fn git(place: &Place, words: &[&str]) {
    let mut git = Command::new("git");
    git.arg("-C").arg(place.path("code")).args(["-c", "user.name=e2e", "-c", "user.email=e2e@localhost"]).args(words);
    git.env("GIT_CONFIG_GLOBAL", "/dev/null").env("GIT_CONFIG_NOSYSTEM", "1");
    done(git);
}

/// A commit with its tag.
fn tag(place: &Place, name: &str, app: &str) {
    release(place, "code", &place.text(&format!("# {name}\n{app}")), PASSES);
    git(place, &["add", "--all"]);
    git(place, &["commit", "--quiet", "--message", name]);
    git(place, &["tag", name]);
}

/// A service that runs `v1`, as somebody has switched it.
fn begin(place: &Place) -> Hale<'_> {
    fs::create_dir(place.path("trees")).unwrap();
    fs::create_dir(place.path("code")).unwrap();
    place.write("versions", VERSIONS);
    fs::set_permissions(place.path("versions"), fs::Permissions::from_mode(0o755)).unwrap();
    git(place, &["init", "--quiet"]);
    tag(place, "v1", LIVES);
    for word in ["stage", "activate"] {
        let mut versions = Command::new(place.path("versions"));
        versions.args([word, "v1"]);
        done(versions);
    }
    let hale = place.hale(&service(place, "800ms"));
    hale.event("app", "ready: ");
    hale
}

fn current(place: &Place) -> String {
    fs::read_link(place.path("trees/current")).unwrap().display().to_string()
}

/// Waits until no switch is under way, and gives what the service runs by then.
fn over(place: &Place, what: &str) -> String {
    deploying::over(place, what, || current(place))
}

fn pid(place: &Place) -> i64 {
    place.status("app")["pid"].as_i64().unwrap()
}

/// How often the programs were asked for this.
fn asked(place: &Place, what: &str) -> usize {
    let asked = fs::read_to_string(place.path("asked")).unwrap();
    asked.lines().filter(|line| *line == format!("app: {what}")).count()
}

#[test]
fn a_good_tag_is_committed_and_a_bad_one_goes_back() {
    let place = Place::new();
    let hale = begin(&place);
    tag(&place, "v2", LIVES);
    deploy_named(&place, "v2", 0);
    hale.event("app", "committed");
    assert_eq!(over(&place, "v2"), "v2");
    tag(&place, "v3", "exit 3");
    said(&deploy_named(&place, "v3", 4), &["exited with status 3"]);
    assert_eq!(over(&place, "v3"), "v2");
    assert_eq!((asked(&place, "activate v3"), asked(&place, "revert v2"), asked(&place, "activate v2")), (1, 1, 1));
    said(&deploy_named(&place, "v3", 6), &["quarantined"]);
    place.done(&["rollback", "app"]);
    assert_eq!((over(&place, "rolled back"), asked(&place, "revert v1")), ("v1".to_owned(), 1));
    hale.stop();
}

#[test]
fn a_program_that_fails_is_told_and_nothing_is_touched() {
    let place = Place::new();
    let hale = begin(&place);
    let pid = pid(&place);
    tag(&place, "v2", LIVES);
    said(&deploy_named(&place, "v9", 1), &["cannot stage v9", "invalid reference: v9"]);
    for (fault, words) in [
        ("test $1 != stage || { echo 'no room' >&2; exit 4; }", ["cannot stage v2", "status: 4): no room"]),
        ("test $1 != activate || { echo 'not today' >&2; exit 5; }", ["cannot switch to v2", "status: 5): not today"]),
        ("test $1 != activate || exit 0", ["v2 did not become current, v1 is", "versions exited with 0 all the same"]),
        ("test $1 != activate || kill -9 $$", ["cannot switch to v2", "signal: 9"]),
        ("test $1 != current || exit 6", ["cannot learn which generation is current", "status: 6"]),
        ("test $1 != current || echo 'a b'", ["cannot learn which generation is current", "wrote what is no answer"]),
    ] {
        place.write("fault", fault);
        said(&deploy_named(&place, "v2", 1), &words);
        fs::remove_file(place.path("fault")).unwrap();
        assert_eq!((over(&place, fault), self::pid(&place)), ("v1".to_owned(), pid), "{fault}");
    }
    // None of that is held against it.
    deploy_named(&place, "v2", 0);
    assert_eq!(over(&place, "v2"), "v2");
    hale.stop();
}

#[test]
fn a_program_that_hangs_keeps_nothing_down() {
    let place = Place::new();
    let hale = begin(&place);
    let pid = pid(&place);
    tag(&place, "v2", LIVES);
    place.write("fault", "test $1 != list || exec sleep 1000");
    for order in [&["generations", "app"][..], &["deploy", "app", "v2"]] {
        let refused = place.run(order);
        assert_eq!(refused.status.code(), Some(7), "{refused:?}");
        said(&refused, &["the store did not answer within 4 s"]);
    }
    assert_eq!((place.status("app")["state"].as_str(), self::pid(&place)), (Some("healthy"), pid));
    hale.stop();
    place.write("fault", "test $1 != current || exec sleep 1000");
    let hale = place.hale_again();
    let pid = hale.ready("app");
    fs::remove_file(place.path("fault")).unwrap();
    assert_eq!((over(&place, "hung"), self::pid(&place)), ("v1".to_owned(), i64::from(pid)));
    hale.stop();
}

#[test]
fn all_is_killed_between_a_switch_and_its_end() {
    let place = Place::new();
    let mut hale = begin(&place);
    for (number, moment) in (2..).zip(SINCE_IT_IS_SWITCHED) {
        let name = format!("v{number}");
        tag(&place, &name, LIVES);
        hale = kill_all(hale, &name, moment, || ());
        assert_eq!(over(&place, moment.0), name, "{moment:?}");
    }
    // And one that fails after that.
    place.configure("", &service(&place, "1h"));
    place.done(&["reload"]);
    tag(&place, "v9", LIVES);
    order(&place, "v9");
    on_probation(&place);
    hale.kill_all();
    let hale = place.hale_again();
    hale.event("app", "ready: ");
    on_probation(&place);
    crash(pid(&place));
    hale.event("app", "what was good works again: rolled back");
    assert_eq!(over(&place, "v9"), "v6");
    hale.stop();
}

#[test]
fn whoever_dies_while_a_program_switches_that_ends_with_hale_and_what_ran_before_runs_on() {
    let place = Place::new();
    let mut hale = begin(&place);
    for name in ["v2", "v3"] {
        tag(&place, name, LIVES);
    }
    let waits = "test -e @D/go || { echo \"$* $$\" > @D/reports; while [ ! -e @D/go ]; do sleep 0.02; done; }";
    let switches = format!("test $1 != activate || {{ ln -sfn $2 @D/trees/current; {waits}; }}");
    let waits = format!("test $1 != activate || {waits}");
    let reported = || place.report("activate v").rsplit(' ').next().unwrap().parse().unwrap();
    for (fault, name, reverts) in [(waits, "v2", 0), (switches, "v3", 1)] {
        place.write("fault", &fault);
        order(&place, name);
        let program = reported();
        hale.kill_all();
        place.until(|| (!is_alive(program)).then_some(()).ok_or_else(|| format!("{program} is there")));
        hale = place.hale_again();
        hale.event("app", "ready: ");
        // Whether it had switched yet or not: nobody knows what else it did not do.
        assert_eq!((over(&place, name), asked(&place, "revert v1")), ("v1".to_owned(), reverts));
    }
    order(&place, "v2");
    let program = reported();
    send(hale.supervisor(), Signal::KILL);
    hale.says("took over");
    assert!(!is_alive(program));
    reported();
    place.write("go", "");
    hale.event("app", "committed");
    assert_eq!(over(&place, "taken over"), "v2");
    hale.stop();
}
