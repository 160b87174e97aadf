//! Killed at each moment of a deploy, of a good release and of a bad one, and whatever of Hale is killed: it goes on or back by
//! itself, the service has one process, of what `current` leads to, and store and ledger are whole.

use crate::deploying::{self, LIVES, PASSES, SERVICE, begin, deploy, order, release, runs};
use crate::harness::{Hale, PATIENCE, Place, send};
use rustix::process::Signal;
use std::fs;
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// What the runtime journal has when a deploy is at a moment: a text of its record, and the how-many-eth since the order.
pub type Moment = (&'static str, usize);

const UNTIL_IT_RUNS: [Moment; 9] = [
    ("\"kind\":\"ordered\"", 1),
    ("\"kind\":\"carried_out\"", 1),
    ("\"move\":\"intended\"", 1),
    ("\"move\":\"begun\"", 1),
    ("\"move\":\"switched\"", 1),
    ("\"kind\":\"exited\"", 1),
    ("\"kind\":\"spawn_intended\"", 1),
    ("\"kind\":\"spawned\"", 1),
    ("\"kind\":\"became_ready\"", 1),
];

/// Of one that works.
const UNTIL_IT_IS_KNOWN_TO_BE_GOOD: [Moment; 5] = [
    ("\"kind\":\"became_healthy\"", 1),
    ("\"move\":\"marked\"", 1),
    ("\"move\":\"proved\"", 1),
    ("\"move\":\"promoting\"", 1),
    ("\"move\":\"ended\"", 1),
];

/// Of one that works, between its switch and its end.
pub const SINCE_IT_IS_SWITCHED: [Moment; 5] = [
    ("\"move\":\"switched\"", 1),
    ("\"kind\":\"spawned\"", 1),
    ("\"kind\":\"became_healthy\"", 1),
    ("\"move\":\"proved\"", 1),
    ("\"move\":\"promoting\"", 1),
];

/// Of one that ends at once.
const UNTIL_THE_OLD_ONE_IS_BACK: [Moment; 10] = [
    ("\"kind\":\"exited\"", 2),
    ("\"kind\":\"detected\"", 1),
    ("\"move\":\"goes_back\"", 1),
    ("\"move\":\"switched\"", 2),
    ("\"kind\":\"spawn_intended\"", 2),
    ("\"kind\":\"spawned\"", 2),
    ("\"kind\":\"became_ready\"", 1),
    ("\"kind\":\"became_healthy\"", 1),
    ("\"move\":\"ended\"", 1),
    ("\"move\":\"quarantined\"", 1),
];

/// Of one that says something of the service's data.
const UNTIL_ITS_DATA_ARE_ON_RECORD: [Moment; 3] =
    [("\"move\":\"prepared\"", 1), ("\"move\":\"begun\"", 2), ("\"move\":\"switched\"", 1)];

/// Of one that ends at once, and has changed the data before.
const UNTIL_ITS_DATA_ARE_BACK: [Moment; 6] = [
    ("\"kind\":\"spawned\"", 1),
    ("\"move\":\"goes_back\"", 1),
    ("\"move\":\"switched\"", 2),
    ("\"move\":\"undone\"", 1),
    ("\"kind\":\"spawned\"", 2),
    ("\"move\":\"ended\"", 1),
];

/// What is killed at once.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Who {
    Supervisor,
    Keeper,
    Guardian,
    All,
}

/// The runtime journal, from where it ends now.
struct Journal<'a> {
    place: &'a Place,
    from: u64,
}

impl<'a> Journal<'a> {
    fn follow(place: &'a Place) -> Self {
        Self { place, from: fs::metadata(place.path("run/journal")).unwrap().len() }
    }

    #[track_caller]
    fn until(&self, (what, times): Moment) {
        let mut file = fs::File::open(self.place.path("run/journal")).unwrap();
        let begin = Instant::now();
        loop {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(self.from)).unwrap();
            file.read_to_end(&mut bytes).unwrap();
            if String::from_utf8_lossy(&bytes).matches(what).count() >= times {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "no {what} in {}", String::from_utf8_lossy(&bytes));
        }
    }
}

fn service() -> String {
    SERVICE.replace("800ms", "160ms").replace("every = \"100ms\"", "every = \"50ms\"")
}

/// A service that runs one good release, and has another, and a bad one that was never deployed.
fn prepare(place: &Place) -> Hale<'_> {
    let hale = begin(place, &service());
    for good in ["one", "two"] {
        release(place, good, LIVES, PASSES);
        deploy(place, good, 0);
    }
    release(place, "bad", "exit 3", PASSES);
    hale
}

/// The same with data of format 1, which the bad one makes data of format 2, that the good ones cannot read. What it brings for that
/// puts back the copy whose name it is told.
fn prepare_with_data(place: &Place) -> Hale<'_> {
    let hale = begin(place, &service());
    place.write("data", "1\n");
    for good in ["one", "two"] {
        release(place, good, &place.text("grep -q 1 @D/data || exit 9\nexec sleep 1000"), PASSES);
        place.write(&format!("{good}/hale-release.toml"), "data_format = 1\nmin_rollback = 1\n");
        deploy(place, good, 0);
    }
    release(place, "bad", &place.text("echo 2 > @D/data; exit 3"), PASSES);
    let before = "cp @D/data @D/copy.new && mv @D/copy.new @D/copy && echo @D/copy";
    let after = "cp $HALE_SNAPSHOT @D/data.new && mv @D/data.new @D/data";
    let hooks = [("before_switch", before), ("after_rollback", after)];
    let hooks = hooks.map(|(key, script)| format!("{key} = [\"sh\", \"-c\", \"{script}\"]\n")).concat();
    place.write("bad/hale-release.toml", &format!("data_format = 2\nmin_rollback = 2\n{hooks}"));
    hale
}

/// Holds a supervisor back for a moment after each record, before anything follows from it: whoever kills it at a record does so
/// before its effects.
struct Brake(Child);

impl Brake {
    fn on(hale: &Hale<'_>) -> Self {
        const MICROSECONDS: u32 = 20_000;
        // In a session of its own: without one it stops all of us where there is a terminal.
        let mut strace = Command::new("setsid");
        strace.args(["strace", "-f", "-o", "/dev/null", "-e", "trace=write"]);
        strace.args(["-e", &format!("inject=write:delay_exit={MICROSECONDS}")]);
        strace.arg("-P").arg(hale.place.path("run/journal")).args(["-p", &hale.supervisor().to_string()]);
        let mut strace = strace.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(strace.stderr.take().unwrap());
        let mut line = String::new();
        said.read_line(&mut line).unwrap();
        assert!(line.contains("attached"), "{line}");
        Self(strace)
    }
}

impl Drop for Brake {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Begins to deploy, and kills at that moment.
fn kill<'a>(mut hale: Hale<'a>, name: &str, moment: Moment, who: Who, at_once: bool) -> (Hale<'a>, Child) {
    let place = hale.place;
    let _brake = at_once.then(|| Brake::on(&hale));
    let victim = match who {
        Who::Supervisor | Who::All => hale.supervisor(),
        Who::Keeper => hale.keeper(),
        Who::Guardian => hale.guardian(),
    };
    let journal = Journal::follow(place);
    let path = place.path(name);
    let mut client = place.command();
    client.args(["deploy", "--force", "app"]).arg(&path).stdout(Stdio::piped()).stderr(Stdio::piped());
    let client = client.spawn().unwrap();
    journal.until(moment);
    send(victim, Signal::STOP);
    match who {
        Who::Supervisor | Who::Keeper => send(victim, Signal::KILL),
        Who::Guardian => {
            let own = [hale.supervisor(), hale.keeper()];
            send(victim, Signal::KILL);
            hale.wait();
            own.into_iter().for_each(crate::harness::await_end);
            hale = place.hale_again();
        }
        Who::All => {
            hale.kill_all();
            hale = place.hale_again();
        }
    }
    (hale, client)
}

/// Begins to deploy, kills all of Hale at that moment, and starts it again.
pub fn kill_all<'a>(hale: Hale<'a>, generation: &str, moment: Moment, meanwhile: impl FnOnce()) -> Hale<'a> {
    let place = hale.place;
    let journal = Journal::follow(place);
    order(place, generation);
    journal.until(moment);
    hale.kill_all();
    meanwhile();
    place.hale_again()
}

/// Waits until it is over, and gives what it runs then.
fn over(place: &Place, what: &str) -> String {
    let link = place.path("state/releases/app/current");
    deploying::over(place, what, || fs::read_link(&link).unwrap().display().to_string())
}

fn run(who: Who, moments: &[Moment], bad: bool, at_once: bool) {
    let place = Place::new();
    let hale = prepare(&place);
    run_with(hale, who, moments, bad, at_once);
}

fn run_with_data(who: Who, at_once: bool) {
    let moments = [&UNTIL_ITS_DATA_ARE_ON_RECORD[..], &UNTIL_ITS_DATA_ARE_BACK].concat();
    for (moments, bad) in [(&UNTIL_ITS_DATA_ARE_ON_RECORD[..], false), (&moments, true)] {
        let place = Place::new();
        let hale = prepare_with_data(&place);
        run_with(hale, who, moments, bad, at_once);
        assert_eq!(fs::read_to_string(place.path("data")).unwrap(), "1\n");
    }
}

fn run_with(mut hale: Hale<'_>, who: Who, moments: &[Moment], bad: bool, at_once: bool) {
    let place = hale.place;
    let mut names = ["one", "two"];
    let from_when_it_runs_on = UNTIL_IT_RUNS.iter().position(|moment| moment.0.contains("switched")).unwrap();
    for (index, &moment) in moments.iter().enumerate() {
        let what = format!("{who:?} at {moment:?}");
        let before = runs(place);
        let name = if bad { "bad" } else { names[0] };
        let (next, mut client) = kill(hale, name, moment, who, at_once);
        hale = next;
        match who {
            // What was ordered of it is carried out, and whoever waits hears of it.
            Who::Supervisor | Who::Keeper => {
                let output = client.wait_with_output().unwrap();
                assert_eq!(output.status.code(), Some(if bad { 4 } else { 0 }), "{what}: {output:?}");
                assert_eq!(over(place, &what) == before, bad, "{what}");
            }
            // Before it was switched to, it goes on or back; after that it goes on.
            Who::Guardian | Who::All => {
                let _ = client.kill();
                client.wait().unwrap();
                let is_same = over(place, &what) == before;
                assert!(is_same || !bad, "{what}");
                assert!(!is_same || bad || index < from_when_it_runs_on, "{what}");
            }
        }
        let is_same = runs(place) == before;
        if !is_same {
            names.reverse();
        }
    }
    hale.stop();
}

fn good() -> Vec<Moment> {
    [&UNTIL_IT_RUNS[..], &UNTIL_IT_IS_KNOWN_TO_BE_GOOD].concat()
}

fn bad() -> Vec<Moment> {
    [&UNTIL_IT_RUNS[..8], &UNTIL_THE_OLD_ONE_IS_BACK].concat()
}

#[test]
fn the_supervisor_is_killed_during_a_deploy_of_a_good_release() {
    run(Who::Supervisor, &good(), false, false);
}

#[test]
fn the_supervisor_is_killed_during_a_deploy_of_a_bad_release() {
    run(Who::Supervisor, &bad(), true, false);
}

#[test]
fn the_keeper_is_killed_during_a_deploy_of_a_good_release() {
    run(Who::Keeper, &good(), false, false);
}

#[test]
fn the_keeper_is_killed_during_a_deploy_of_a_bad_release() {
    run(Who::Keeper, &bad(), true, false);
}

#[test]
fn the_guardian_is_killed_during_a_deploy_of_a_good_release() {
    run(Who::Guardian, &good(), false, false);
}

#[test]
fn the_guardian_is_killed_during_a_deploy_of_a_bad_release() {
    run(Who::Guardian, &bad(), true, false);
}

#[test]
fn all_is_killed_during_a_deploy_of_a_good_release() {
    run(Who::All, &good(), false, false);
}

#[test]
fn all_is_killed_during_a_deploy_of_a_bad_release() {
    run(Who::All, &bad(), true, false);
}

#[test]
fn the_supervisor_is_killed_while_data_move_and_while_they_are_put_back() {
    run_with_data(Who::Supervisor, false);
}

#[test]
fn all_is_killed_while_data_move_and_while_they_are_put_back() {
    run_with_data(Who::All, false);
}

/// The same, exactly at the record.
mod needs_strace {
    use super::*;

    #[test]
    fn the_supervisor_is_killed_between_a_record_and_what_follows_from_it() {
        run(Who::Supervisor, &good(), false, true);
        run(Who::Supervisor, &bad(), true, true);
    }

    #[test]
    fn all_is_killed_between_a_record_and_what_follows_from_it() {
        run(Who::All, &good(), false, true);
        run(Who::All, &bad(), true, true);
    }

    #[test]
    fn data_move_and_are_put_back_whoever_is_killed_at_the_record() {
        run_with_data(Who::Supervisor, true);
        run_with_data(Who::All, true);
    }
}
