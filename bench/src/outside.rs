//! How soon Hale knows what somebody else has changed: a link that was set by hand, and a file that was edited.

use crate::figures::{RESTS_FROM, ROUNDS, SELDOM, Spread, figure, milliseconds, watched};
use crate::ledger::Ledger;
use crate::numbers::Numbers;
use crate::recovery::{Check, deploy_first, order, rounds, service, write_release};
use crate::report::{Figure, Goal};
use crate::starts::now_ns;
use crate::supervisors::{Kind, Tools, fresh_folder, start_hale};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use std::fs;
use std::mem::MaybeUninit;
use std::path::Path;
use std::time::Duration;

/// "Noticed within a second", in milliseconds.
const WITHIN: Goal = Goal::P99(1_000.0);
/// What every row of the floor is.
const HEARD: &str = "inotify(7) in the same process, from before the change to its event";

/// Both.
pub fn outside(tools: &Tools) -> Result<Vec<Figure>, String> {
    let mut all = link(tools)?;
    all.extend(file(tools)?);
    Ok(all)
}

/// `current` of a release store, set to the other of two releases again and again.
fn link(tools: &Tools) -> Result<Vec<Figure>, String> {
    watched(figure("link that somebody sets by hand, to its record", "ms", WITHIN), |figure| {
        let sources = fresh_folder(&tools.disk, "outside-sources")?;
        let (running, configuration) = start_hale(tools, "outside-link", 0, |_| service(Check::Http, ""))?;
        let ledger = Ledger { hale: &tools.hale, configuration: &configuration };
        let mut ids = Vec::new();
        let dir = configuration.with_file_name("state").join("releases/app");
        for name in ["one", "two"] {
            let release = write_release(&sources, name, tools, "")?;
            deploy_first(tools, &running, &configuration, &release)?;
            ids.push(fs::read_link(dir.join("current")).map_err(|e| format!("{}: {e}", dir.display()))?);
        }
        let set = |dir: &Path, number: usize| {
            let new = dir.join("theirs");
            std::os::unix::fs::symlink(&ids[number % 2], &new).and_then(|()| fs::rename(new, dir.join("current")))
        };
        let (mut seen, mut spread) = (2, Spread::new(10));
        for number in 0..rounds(ROUNDS) {
            rest(&mut spread);
            figure.add(Kind::Floor, Numbers(vec![heard(&sources, |dir| set(dir, number))?]), HEARD);
            let begin = now_ns();
            set(&dir, number).map_err(|e| format!("{}: {e}", dir.display()))?;
            let at = ledger.next(&mut seen, |record| record.moved("generation", "switched"), "the link")?;
            figure.add(Kind::Hale, Numbers(vec![milliseconds(begin, at * 1_000)]), "");
        }
        running.stop()
    })
}

/// A file of the service, written anew again and again.
fn file(tools: &Tools) -> Result<Vec<Figure>, String> {
    watched(figure("file of a service that somebody edits, to its record", "ms", WITHIN), |figure| {
        let sources = fresh_folder(&tools.disk, "outside-sources")?;
        let path = sources.join("app.conf");
        let write = |number: usize| move |dir: &Path| fs::write(dir.join("app.conf"), format!("good {number}\n"));
        write(0)(&sources).map_err(|e| format!("{}: {e}", path.display()))?;
        let more = format!("files = [{path:?}]\n");
        let (running, configuration) = start_hale(tools, "outside-file", 0, |_| service(Check::Http, &more))?;
        let ledger = Ledger { hale: &tools.hale, configuration: &configuration };
        deploy_first(tools, &running, &configuration, &write_release(&sources, "app", tools, "")?)?;
        let floor = fresh_folder(&tools.disk, "outside-floor")?;
        let (mut seen, mut spread) = (0, Spread::new(11));
        for number in 1..=rounds(ROUNDS) {
            std::thread::sleep(SELDOM);
            rest(&mut spread);
            figure.add(Kind::Floor, Numbers(vec![heard(&floor, write(number))?]), HEARD);
            let begin = now_ns();
            write(number)(&sources).map_err(|e| format!("{}: {e}", path.display()))?;
            let at = ledger.next(&mut seen, |record| record.moved("files", "switched"), "the file")?;
            figure.add(Kind::Hale, Numbers(vec![milliseconds(begin, at * 1_000)]), "");
        }
        order(tools, &configuration, &["status"], Some(0))?;
        running.stop()
    })
}

fn rest(spread: &mut Spread) {
    std::thread::sleep(Duration::from_secs_f64(RESTS_FROM + spread.next()));
}

/// Milliseconds until the kernel has told of a change in a directory.
fn heard(dir: &Path, change: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<f64, String> {
    let failed = |e: std::io::Error| format!("cannot watch {}: {e}", dir.display());
    let kernel = inotify::init(CreateFlags::CLOEXEC).map_err(|e| failed(e.into()))?;
    let events = WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
    inotify::add_watch(&kernel, dir, events).map_err(|e| failed(e.into()))?;
    let begin = now_ns();
    change(dir).map_err(failed)?;
    let mut buffer = [const { MaybeUninit::uninit() }; 4096];
    inotify::Reader::new(&kernel, &mut buffer).next().map_err(|e| failed(e.into()))?;
    Ok(milliseconds(begin, now_ns()))
}
