//! How long bad changes keep a service down: releases that crash, at once and later, profiles of Nix, and broken files.

use crate::figures::{RESTS_FROM, ROUNDS, SELDOM, Spread, figure, milliseconds, watched};
use crate::ledger::{Ledger, Record};
use crate::nix::Nix;
use crate::numbers::{Numbers, shown};
use crate::report::{Figure, Goal};
use crate::starts::now_ns;
use crate::supervisors::{Kind, Running, Tools, fresh_folder, start_hale, start_hale_in};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// As many bad releases.
const BAD_RELEASES: usize = 50;
/// As many crash loops in one run of Hale: it takes at most 24 changes back in a day (`rollbacks_per_day`).
const LOOPS: usize = 20;
/// As many bad paths of Nix.
const PATHS: usize = 40;
/// Of the demo service, and of the one that is started without Hale.
const PORT: u16 = 18_721;
const FLOOR_PORT: u16 = 18_722;
/// Between two tries of the floor to reach its service.
const TRY_EVERY: Duration = Duration::from_micros(500);
/// Longest time for a service without Hale to come up.
const UP_WITHIN: Duration = Duration::from_secs(10);

/// `HALE_BENCH_ROUNDS`, to try a figure out; or as many as belong to it.
pub fn rounds(full: usize) -> usize {
    std::env::var("HALE_BENCH_ROUNDS").ok().and_then(|text| text.parse().ok()).unwrap_or(full)
}

/// By what a service shows that it works.
#[derive(Clone, Copy)]
pub enum Check {
    /// A request.
    Http,
    /// A program.
    Exec,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Exec => "exec",
        }
    }

    fn toml(self) -> String {
        match self {
            Self::Http => format!("kind = \"http\"\nurl = \"http://127.0.0.1:{PORT}/health\"\n"),
            Self::Exec => "kind = \"exec\"\ncommand = [\"bin/check\"]\n".to_owned(),
        }
    }
}

/// A directory with the program `bin/app` and the check `bin/check`, like no other: `name` is in it.
pub fn write_release(folder: &Path, name: &str, tools: &Tools, before: &str) -> Result<PathBuf, String> {
    let release = folder.join(name);
    let port = format!("${{BENCH_PORT:-{PORT}}}");
    let hale = tools.hale.display();
    let app = format!("#!/bin/sh\n# {name}\n{before}\nexec {hale} demo-service web --port {port}\n");
    let check = format!("#!/bin/sh\nexec {hale} demo-service ask http://127.0.0.1:{port}/health\n");
    let write = || -> std::io::Result<()> {
        fs::create_dir_all(release.join("bin"))?;
        for (file, text) in [("app", app), ("check", check)] {
            let path = release.join("bin").join(file);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    };
    write().map_err(|e| format!("cannot write {}: {e}", release.display()))?;
    Ok(release)
}

/// The configuration of `app`, with `more` in its table of generations.
pub fn service(check: Check, more: &str) -> String {
    format!(
        "[service.app]\ncommand = [\"bin/app\"]\n\
         restart = {{ first_delay = \"5ms\", delay = \"5ms\", crash_loop = {{ failures = 5, within = \"60s\" }} }}\n\
         [[service.app.check]]\n{}every = \"200ms\"\ntimeout = \"200ms\"\n\
         [service.app.generations]\nprobation = \"200ms\"\nrollbacks_per_day = 24\n{more}",
        check.toml()
    )
}

/// Runs `hale` with these words; what it said, if it did not end with `code`.
pub fn order(tools: &Tools, configuration: &Path, words: &[&str], code: Option<i32>) -> Result<(), String> {
    let mut command = Command::new(&tools.hale);
    let output = command.args(words).arg("-c").arg(configuration).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("cannot run {}: {e}", tools.hale.display()))?;
    if code.is_none() || output.status.code() == code {
        return Ok(());
    }
    Err(format!("hale {words:?}: {}: {}", output.status, String::from_utf8_lossy(&output.stderr)))
}

fn deploy(tools: &Tools, configuration: &Path, path: &Path, code: i32) -> Result<(), String> {
    order(tools, configuration, &["deploy", "app", &path.to_string_lossy()], Some(code))
}

/// One way back, in microseconds of `CLOCK_MONOTONIC`: the failure that it followed, the switch, the process, and its end.
struct Recovery {
    detected: u64,
    switched: u64,
    spawned: u64,
    closed: u64,
}

/// All ways back, from the last failure before each. In each run there is one service.
fn recoveries(records: &[Record]) -> Vec<Recovery> {
    let (mut found, mut detected, mut switched, mut spawned) = (Vec::new(), None, None, None);
    for record in records {
        let at = record.at_us();
        if record.is("detected") {
            (detected, switched) = (at, None);
        } else if record.moved("generation", "switched") || record.moved("files", "switched") {
            switched = at;
        } else if record.is("spawned") {
            spawned = at;
        } else if record.closed("rolled_back")
            && let (Some(detected), Some(switched), Some(spawned), Some(closed)) = (detected, switched, spawned, at)
        {
            found.push(Recovery { detected, switched, spawned, closed });
        }
    }
    found
}

/// Adds as many ways back as there must be, and of what they consist.
fn add_recoveries(figure: &mut Figure, ledger: Ledger<'_>, count: usize) -> Result<(), String> {
    let found = recoveries(&ledger.records()?);
    if found.len() != count {
        return Err(format!("{} ways back are in the ledger, and not {count}", found.len()));
    }
    let times = |from: fn(&Recovery) -> u64, to: fn(&Recovery) -> u64| {
        Numbers(found.iter().map(|one| milliseconds(from(one) * 1_000, to(one) * 1_000)).collect())
    };
    let switch = times(|one| one.detected, |one| one.switched);
    let spawn = times(|one| one.switched, |one| one.spawned);
    let check = times(|one| one.spawned, |one| one.closed);
    let [switch, spawn, check] = [switch, spawn, check].map(|numbers| shown(numbers.p50()));
    let note = format!("p50 of its parts: to the switch {switch}, to the process {spawn}, to its checks {check}");
    figure.add(Kind::Hale, times(|one| one.detected, |one| one.closed), &note);
    Ok(())
}

/// Starts the program without Hale; milliseconds from then to its check's success.
fn start_alone(release: &Path, check: Check) -> Result<f64, String> {
    let begin = now_ns();
    let mut app = Command::new(release.join("bin/app"));
    let failed = |e: std::io::Error| format!("cannot start {}: {e}", release.display());
    let mut child = app.env("BENCH_PORT", FLOOR_PORT.to_string()).stdout(Stdio::null()).spawn().map_err(failed)?;
    let ms = loop {
        let passes = match check {
            Check::Http => ask(FLOOR_PORT),
            Check::Exec => {
                let mut check = Command::new(release.join("bin/check"));
                check.env("BENCH_PORT", FLOOR_PORT.to_string()).stdout(Stdio::null()).stderr(Stdio::null());
                check.status().is_ok_and(|status| status.success())
            }
        };
        let now = now_ns();
        if passes {
            break Ok(milliseconds(begin, now));
        }
        if now - begin > UP_WITHIN.as_nanos() as u64 {
            break Err(format!("{} does not come up", release.display()));
        }
        std::thread::sleep(TRY_EVERY);
    };
    child.kill().and_then(|()| child.wait()).map_err(failed)?;
    ms
}

/// Whether the demo service answers that it is well.
fn ask(port: u16) -> bool {
    use std::io::{Read, Write};
    let Ok(mut stream) = std::net::TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = String::new();
    let asked = stream.write_all(b"GET /health HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n");
    asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.starts_with("HTTP/1.1 200 ")
}

fn rest(spread: &mut Spread) {
    std::thread::sleep(Duration::from_secs_f64(RESTS_FROM + spread.next()));
}

/// What every row of a floor is.
const STARTED: &str = "the same program started without Hale, to its check's first success";

/// Releases that exit with 3 at once, by `hale deploy`.
pub fn bad_release(tools: &Tools) -> Result<Vec<Figure>, String> {
    let mut all = Vec::new();
    for check in [Check::Http, Check::Exec] {
        let name = check.name();
        let title = format!("release that crashes at start, check {name}: its failure to the old one validated");
        all.extend(watched(figure(&title, "ms", Goal::Median(150.0)), |figure| {
            let sources = fresh_folder(&tools.disk, "bad-release-sources")?;
            let (running, configuration) =
                start_hale(tools, &format!("bad-release-{name}"), 0, |_| service(check, ""))?;
            let good = write_release(&sources, "good", tools, "")?;
            deploy_first(tools, &running, &configuration, &good)?;
            let mut spread = Spread::new(5);
            for number in 0..rounds(BAD_RELEASES) {
                figure.add(Kind::Floor, Numbers(vec![start_alone(&good, check)?]), STARTED);
                rest(&mut spread);
                let bad = write_release(&sources, &format!("bad-{number}"), tools, "exit 3")?;
                deploy(tools, &configuration, &bad, 4)?;
            }
            add_recoveries(figure, Ledger { hale: &tools.hale, configuration: &configuration }, rounds(BAD_RELEASES))?;
            running.stop()
        })?);
    }
    Ok(all)
}

/// Deploys the first one, once Hale answers.
pub fn deploy_first(tools: &Tools, running: &Running, configuration: &Path, path: &Path) -> Result<(), String> {
    let begin = now_ns();
    while order(tools, configuration, &["generations", "app"], Some(0)).is_err() {
        if now_ns() - begin > UP_WITHIN.as_nanos() as u64 {
            return Err(format!("{} does not answer", running.kind.name()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    deploy(tools, configuration, path, 0)
}

/// Releases that are committed, and crash at each start from a moment after that on.
pub fn crash_loop(tools: &Tools) -> Result<Vec<Figure>, String> {
    let title = "crash loop of 5 after the commit, delays of 5 ms: its last crash to the old one validated";
    watched(figure(title, "ms", Goal::MedianPlusFloor(150.0)), |figure| {
        let mut spread = Spread::new(6);
        for run in 0..2 {
            let sources = fresh_folder(&tools.disk, "crash-loop-sources")?;
            let (running, configuration) =
                start_hale(tools, &format!("crash-loop-{run}"), 0, |_| service(Check::Http, ""))?;
            let ledger = Ledger { hale: &tools.hale, configuration: &configuration };
            let good = write_release(&sources, "good", tools, "")?;
            deploy_first(tools, &running, &configuration, &good)?;
            let mut back = 0;
            for number in 0..rounds(LOOPS) {
                figure.add(Kind::Floor, Numbers(vec![start_alone(&good, Check::Http)?]), STARTED);
                rest(&mut spread);
                let poison = sources.join(format!("poison-{number}"));
                let test = format!("test -e {} && exit 9", poison.display());
                let later_bad = write_release(&sources, &format!("bad-{number}"), tools, &test)?;
                deploy(tools, &configuration, &later_bad, 0)?;
                fs::write(&poison, "").map_err(|e| format!("{}: {e}", poison.display()))?;
                // Its first failure; four more follow.
                order(tools, &configuration, &["restart", "app"], None)?;
                ledger.next(&mut back, |record| record.closed("rolled_back"), "the end of a crash loop")?;
            }
            add_recoveries(figure, ledger, rounds(LOOPS))?;
            running.stop()?;
        }
        Ok(())
    })
}

/// Paths of Nix whose program exits with 3 at once, and beside them `nix-env --set` alone.
pub fn nix(tools: &Tools) -> Result<Vec<Figure>, String> {
    if !Nix::is_installed() {
        println!("- nix-env is not installed (Debian has it in nix-bin)");
        return Ok(Vec::new());
    }
    let title = "path of a Nix profile that crashes at start: its failure to the old one validated";
    watched(figure(title, "ms", Goal::Median(500.0)), |figure| {
        let sources = fresh_folder(&tools.disk, "nix-sources")?;
        let nix = Nix::new(&tools.disk)?;
        let good = nix.add(&write_release(&sources, "good", tools, "")?)?;
        let more = format!("store = \"nix-profile\"\nprofile = {:?}\n", nix.profile("app"));
        let toml = |_: &Path| service(Check::Http, &more);
        let (running, configuration) = start_hale_in(&nix.environment(), tools, "nix", 0, toml)?;
        deploy_first(tools, &running, &configuration, &good)?;
        let other = nix.add(&write_release(&sources, "other", tools, "")?)?;
        let note = "`nix-env --set` of another profile alone, from fork to exit";
        let mut spread = Spread::new(7);
        for number in 0..rounds(PATHS) {
            let to = if number % 2 == 0 { &other } else { &good };
            figure.add(Kind::Floor, Numbers(vec![nix.set("floor", to)?]), note);
            rest(&mut spread);
            let bad = nix.add(&write_release(&sources, &format!("bad-{number}"), tools, "exit 3")?)?;
            deploy(tools, &configuration, &bad, 4)?;
        }
        add_recoveries(figure, Ledger { hale: &tools.hale, configuration: &configuration }, rounds(PATHS))?;
        running.stop()
    })
}

/// A configuration file that somebody breaks; the next start fails by it.
pub fn file(tools: &Tools) -> Result<Vec<Figure>, String> {
    let title = "configuration file that breaks the service: the failure to the old file put back and validated";
    watched(figure(title, "ms", Goal::None), |figure| {
        let sources = fresh_folder(&tools.disk, "file-sources")?;
        let path = sources.join("app.conf");
        let write = |text: &str| fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()));
        write("good\n")?;
        let test = format!("grep -q '^good' {} || exit 5", path.display());
        let release = write_release(&sources, "app", tools, &test)?;
        let stores = ["list", "current", "stage", "activate", "revert"].map(|key| format!("{key} = [\"/bin/true\"]\n"));
        let more = format!("store = \"command\"\n{}files = [{path:?}]\n", stores.concat());
        let toml =
            |_: &Path| service(Check::Http, &more).replace("\"bin/app\"", &format!("{:?}", release.join("bin/app")));
        let (running, configuration) = start_hale(tools, "file", 0, toml)?;
        let ledger = Ledger { hale: &tools.hale, configuration: &configuration };
        ledger.next(&mut 0, |record| record.is("became_healthy"), "a healthy service")?;
        let (mut spread, mut switches, mut back) = (Spread::new(8), 0, 0);
        for number in 0..rounds(ROUNDS) {
            figure.add(Kind::Floor, Numbers(vec![start_alone(&release, Check::Http)?]), STARTED);
            // Two changes each: the file is put back, too.
            std::thread::sleep(SELDOM * 2);
            rest(&mut spread);
            write(&format!("bad {number}\n"))?;
            ledger.next(&mut switches, |record| record.moved("files", "switched"), "the changed file")?;
            order(tools, &configuration, &["restart", "app"], None)?;
            ledger.next(&mut back, |record| record.closed("rolled_back"), "the file that was put back")?;
            // The way back is a switch, too.
            switches += 1;
        }
        add_recoveries(figure, ledger, rounds(ROUNDS))?;
        running.stop()
    })
}
