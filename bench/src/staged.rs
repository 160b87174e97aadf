//! Releases of 100 MB: how fast they come in, and how long it takes to switch between them.

use crate::checks::{exchange_with, read_socket};
use crate::figures::{RESTS_FROM, Spread, figure, milliseconds};
use crate::ledger::{Ledger, Record};
use crate::numbers::Numbers;
use crate::proc::{busy_since, machine_ticks};
use crate::recovery::{Check, deploy_first, rounds, service, write_release};
use crate::replaced::supervisor;
use crate::report::{Figure, Goal};
use crate::starts::now_ns;
use crate::supervisors::{Kind, Tools, fresh_folder, start_hale};
use rustix::process::{Signal, kill_process};
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// In how many files the 100 MB are.
const SHAPES: [u32; 2] = [2_000, 10];
/// Files of a directory.
const FILES_IN_DIR: u32 = 50;
const RELEASE_BYTES: u32 = 100_000_000;
/// How many are brought in, and switched to.
const IMPORTS: usize = 20;
/// How often the supervisor is replaced before a switch, for each figure of that.
const REPLACED: usize = 10;
/// How long a supervisor has to read them by itself: 3 s by its bound, and longer where others leave it no processor.
const READ_WITHIN: Duration = Duration::from_secs(120);

/// Both shapes.
pub fn staged(tools: &Tools) -> Result<Vec<Figure>, String> {
    let mut all = Vec::new();
    for files in SHAPES {
        all.extend(of_shape(tools, files)?);
    }
    Ok(all)
}

/// Import, and the switches of releases that were read already or not.
fn of_shape(tools: &Tools, files: u32) -> Result<Vec<Figure>, String> {
    let what = format!("release of 100 MB in {files} files");
    let mut import = figure(&format!("import of a {what}, its sync included"), "MB/s", Goal::None);
    let switch = |when: &str| figure(&format!("switch of a staged {what}, {when}"), "ms", Goal::Median(50.0));
    let mut fresh = switch("just imported");
    let mut replaced = switch("the supervisor was replaced: it and the one before are read");
    let mut back = switch("the supervisor was replaced: the way back by order, it is read");
    let mut cold = switch("the same with nothing of it in memory");
    let mut replaced_read = switch("the supervisor was replaced and has read its releases since");
    let mut back_read = switch("the supervisor was replaced and has read its releases since: the way back by order");
    let mut cold_read = switch("the same with nothing of it in memory any more");

    let sources = fresh_folder(&tools.disk, "staged-sources")?;
    let tree = write_release(&sources, "tree", tools, "")?;
    write_data(&tree, files).map_err(|e| format!("{}: {e}", tree.display()))?;
    let toml = |_: &Path| service(Check::Http, "keep = 2\n");
    let (running, configuration) = start_hale(tools, &format!("staged-{files}"), 0, toml)?;
    let ledger = Ledger { hale: &tools.hale, configuration: &configuration };
    let store = configuration.with_file_name("state").join("releases/app");
    let api = Api(read_socket(&configuration)?.with_file_name("control.sock"));
    deploy_first(tools, &running, &configuration, &tree)?;
    let (mut ids, mut seen) = (Vec::new(), 1);

    let before = machine_ticks();
    for number in 0..rounds(IMPORTS) {
        let tar = packed(&tree, number)?;
        import.add(Kind::Floor, Numbers(vec![unpack_alone(&sources, &tar)?]), "`tar -x` and `sync -f`");
        let (id, speed) = api.import(&tar)?;
        import.add(Kind::Hale, Numbers(vec![speed]), "by the API, from the connection to the answer");
        api.order("deploy", &format!("{{\"generation\":\"{id}\"}}"))?;
        fresh.add(Kind::Hale, Numbers(vec![switched(ledger, &mut seen)?]), "");
        fresh.add(Kind::Floor, Numbers(vec![rename_alone(&sources)?]), RENAMED);
        ids.push(id);
    }
    (import.busy, fresh.busy) = (busy_since(before), busy_since(before));
    let last: Vec<String> = ids.split_off(ids.len() - 2);
    let mut spread = Spread::new(9);
    let (mut lost, mut is_back) = (0, false);
    let mut measure = |figure: &mut Figure, (verb, key): (&str, &str), is_cold, is_read| -> Result<(), String> {
        let before = machine_ticks();
        let target = store.join(&last[0]);
        let unreadable = |e: io::Error| format!("{}: {e}", target.display());
        for _ in 0..rounds(REPLACED) {
            if std::mem::replace(&mut is_back, true) {
                // What a rollback left is not known to be good any more: it shows that again.
                api.order("deploy", &format!("{{\"generation\":\"{}\"}}", last[1]))?;
                switched(ledger, &mut seen)?;
            }
            let error = |e| format!("cannot kill the supervisor: {e}");
            kill_process(supervisor(&running)?, Signal::KILL).map_err(error)?;
            ledger.next(&mut lost, |record| record.is("took_over"), "another supervisor")?;
            if is_read {
                api.await_read(&last)?;
            }
            std::thread::sleep(Duration::from_secs_f64(RESTS_FROM + spread.next()));
            if is_cold {
                forget(&target).map_err(unreadable)?;
            }
            api.order(verb, &format!("{{\"{key}\":\"{}\"}}", last[0]))?;
            figure.add(Kind::Hale, Numbers(vec![switched(ledger, &mut seen)?]), "");
            if is_cold {
                forget(&target).map_err(unreadable)?;
            }
            let begin = now_ns();
            each_file(&target, &mut |file| fs::read(file).map(drop)).map_err(unreadable)?;
            figure.add(Kind::Floor, Numbers(vec![milliseconds(begin, now_ns())]), "reading its files once");
        }
        figure.busy = busy_since(before);
        Ok(())
    };
    let (deploy, rollback) = (("deploy", "generation"), ("rollback", "to"));
    measure(&mut replaced, deploy, false, false)?;
    measure(&mut back, rollback, false, false)?;
    measure(&mut cold, rollback, true, false)?;
    measure(&mut replaced_read, deploy, false, true)?;
    measure(&mut back_read, rollback, false, true)?;
    measure(&mut cold_read, rollback, true, true)?;
    running.stop()?;
    Ok(vec![import, fresh, replaced, back, cold, replaced_read, back_read, cold_read])
}

const RENAMED: &str = "a link that is made, renamed and synced by its directory, and nothing else";

/// What an operator's client does.
struct Api(PathBuf);

impl Api {
    /// The release's id, and MB/s.
    fn import(&self, tar: &[u8]) -> Result<(String, f64), String> {
        let head = format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", tar.len());
        let begin = now_ns();
        let answer = exchange_with(&self.0, "POST /v1/services/app/releases", &head, tar)?;
        let speed = per_second(begin);
        let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
        let body: serde_json::Value = serde_json::from_str(body).map_err(|e| format!("{answer}: {e}"))?;
        let id = body["generation"].as_str().ok_or_else(|| format!("no release: {body}"))?;
        Ok((id.to_owned(), speed))
    }

    /// Waits until the supervisor has read all of these by itself.
    fn await_read(&self, ids: &[String]) -> Result<(), String> {
        let begin = Instant::now();
        while begin.elapsed() < READ_WITHIN {
            let answer = exchange_with(&self.0, "GET /v1/services/app/generations", "", b"")?;
            let body = answer.split_once("\r\n\r\n").map(|(_, body)| body).unwrap_or_default();
            let body: serde_json::Value = serde_json::from_str(body).map_err(|e| format!("{answer}: {e}"))?;
            let all = body["generations"].as_array().map(Vec::as_slice).unwrap_or_default();
            let is_read = |id: &String| all.iter().any(|one| one["id"] == **id && one["verified"] == true);
            if ids.iter().all(is_read) {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Err(format!("the releases were not read within {} s", READ_WITHIN.as_secs()))
    }

    fn order(&self, verb: &str, body: &str) -> Result<(), String> {
        let head = format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        exchange_with(&self.0, &format!("POST /v1/services/app/{verb}"), &head, body.as_bytes()).map(drop)
    }
}

/// Megabytes a second since then.
fn per_second(begin_ns: u64) -> f64 {
    f64::from(RELEASE_BYTES) / 1e6 / (milliseconds(begin_ns, now_ns()) / 1e3)
}

/// Milliseconds from the order of the next switch to the store until it had switched.
fn switched(ledger: Ledger<'_>, seen: &mut usize) -> Result<f64, String> {
    let of = |step: &'static str| move |record: &Record| record.moved("generation", step);
    let begun = ledger.next(&mut seen.clone(), of("begun"), "the begin of a switch")?;
    let switched = ledger.next(seen, of("switched"), "a switch")?;
    Ok(milliseconds(begun * 1_000, switched * 1_000))
}

/// Bytes that cannot be compressed.
fn write_data(tree: &Path, files: u32) -> io::Result<()> {
    let mut random = File::open("/dev/urandom")?;
    let mut bytes = vec![0; (RELEASE_BYTES / files) as usize];
    for number in 0..files {
        let dir = tree.join(format!("data/{:02}", number / FILES_IN_DIR));
        fs::create_dir_all(&dir)?;
        random.read_exact(&mut bytes)?;
        fs::write(dir.join(format!("{number:04}")), &bytes)?;
    }
    Ok(())
}

/// The tree as the release of this number.
fn packed(tree: &Path, number: usize) -> Result<Vec<u8>, String> {
    let failed = |e: io::Error| format!("cannot pack {}: {e}", tree.display());
    fs::write(tree.join("number"), number.to_string()).map_err(failed)?;
    let output = Command::new("tar").arg("-C").arg(tree).args(["-c", "."]).output().map_err(failed)?;
    if output.status.success() { Ok(output.stdout) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
}

/// MB/s of everything that the import does, too, but for its hashes and its mistrust.
fn unpack_alone(sources: &Path, tar: &[u8]) -> Result<f64, String> {
    let to = fresh_folder(sources, "unpacked")?;
    let failed = |e: io::Error| format!("cannot unpack in {}: {e}", to.display());
    let begin = now_ns();
    let mut child = Command::new("tar").arg("-C").arg(&to).arg("-x").stdin(std::process::Stdio::piped()).spawn();
    let child = child.as_mut().map_err(|e| format!("tar: {e}"))?;
    let mut input = child.stdin.take().ok_or("tar has no input")?;
    input.write_all(tar).map_err(failed)?;
    drop(input);
    child.wait().map_err(failed)?;
    Command::new("sync").arg("-f").arg(&to).status().map_err(failed)?;
    let speed = per_second(begin);
    fs::remove_dir_all(&to).map_err(failed)?;
    Ok(speed)
}

/// Milliseconds of the least that a switch of a link on this disk is.
fn rename_alone(sources: &Path) -> Result<f64, String> {
    let dir = fresh_folder(sources, "renamed")?;
    let switch = || -> io::Result<f64> {
        let opened = File::open(&dir)?;
        opened.sync_all()?;
        let begin = now_ns();
        std::os::unix::fs::symlink("elsewhere", dir.join("new"))?;
        fs::rename(dir.join("new"), dir.join("current"))?;
        opened.sync_all()?;
        Ok(milliseconds(begin, now_ns()))
    };
    switch().map_err(|e| format!("{}: {e}", dir.display()))
}

fn each_file(dir: &Path, work: &mut impl FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            each_file(&entry.path(), work)?;
        } else {
            work(&entry.path())?;
        }
    }
    Ok(())
}

/// Has the kernel forget the contents of all files.
fn forget(dir: &Path) -> io::Result<()> {
    each_file(dir, &mut |file| Ok(rustix::fs::fadvise(File::open(file)?, 0, None, rustix::fs::Advice::DontNeed)?))
}
