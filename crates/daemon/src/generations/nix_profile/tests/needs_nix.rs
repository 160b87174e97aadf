//! The store `nix-profile` with a real Nix, whose store is in a directory of its own and whose network is a socket of the test's.

use crate::generations::nix_profile::NixProfile;
use crate::generations::{Generations, StoreError, Towards};
use hale_core::ids::{GenerationId, Name};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A Nix with a store of its own.
struct Private {
    dir: tempfile::TempDir,
    network: TcpListener,
    /// Programs that are found before those of Nix.
    stubs: PathBuf,
}

impl Private {
    fn new() -> Self {
        Self::within(tempfile::tempdir().unwrap())
    }

    fn within(dir: tempfile::TempDir) -> Self {
        let network = TcpListener::bind("127.0.0.1:0").unwrap();
        for name in ["conf", "home", "hale", "stubs", "state/profiles"] {
            fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        // Substituters are on, so that it is Hale that turns them off.
        let substituter = format!("http://{}", network.local_addr().unwrap());
        let conf = format!("build-users-group =\nsubstitute = true\nsubstituters = {substituter}\n");
        fs::write(dir.path().join("conf/nix.conf"), conf).unwrap();
        let stubs = dir.path().join("stubs");
        let private = Self { dir, network, stubs };
        private.add("first", "makes the directories");
        private
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn variable(&self, name: &str) -> Option<OsString> {
        let path = match name {
            "NIX_STORE_DIR" => self.at("store"),
            "NIX_STATE_DIR" => self.at("state"),
            "NIX_LOG_DIR" => self.at("log"),
            "NIX_CONF_DIR" => self.at("conf"),
            "PATH" => {
                let rest = std::env::var_os("PATH").unwrap();
                let all = std::iter::once(self.stubs.clone()).chain(std::env::split_paths(&rest));
                return Some(std::env::join_paths(all).unwrap());
            }
            "USER" => return Some("bot".into()),
            _ => return None,
        };
        Some(path.into())
    }

    /// As an operator runs it.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env_clear().env("HOME", self.at("home")).env("PATH", std::env::var_os("PATH").unwrap());
        for name in ["NIX_STORE_DIR", "NIX_STATE_DIR", "NIX_LOG_DIR", "NIX_CONF_DIR", "USER"] {
            command.env(name, self.variable(name).unwrap());
        }
        command.stdin(Stdio::null()).stderr(Stdio::null());
        command
    }

    fn run(&self, program: &str, words: &[&str], last: &Path) -> String {
        let output = self.command(program).args(words).arg(last).output().unwrap();
        assert!(output.status.success(), "{program} {words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    fn add(&self, name: &str, content: &str) -> GenerationId {
        let sources = tempfile::tempdir().unwrap();
        let source = sources.path().join(name);
        fs::create_dir(&source).unwrap();
        fs::write(source.join("bot"), content).unwrap();
        let path = self.run("nix-store", &["--add"], &source);
        GenerationId::try_from(path).unwrap()
    }

    fn profile(&self) -> PathBuf {
        self.at("state/profiles/bot")
    }

    fn set(&self, id: &GenerationId) -> Command {
        let mut command = self.command("nix-env");
        command.arg("--profile").arg(self.profile()).args(["--set", id.as_str()]);
        command
    }

    fn collect_garbage(&self) {
        let collected = self.command("nix-collect-garbage").arg("-d").status().unwrap();
        assert!(collected.success());
    }

    fn open(&self) -> NixProfile {
        self.open_as("bot").unwrap()
    }

    fn open_as(&self, service: &str) -> Result<NixProfile, StoreError> {
        let service = Name::try_from(service).unwrap();
        NixProfile::open(&self.profile(), &self.at("hale"), &service, |name| self.variable(name))
    }

    fn stub(&self, program: &str, script: &str) {
        let path = self.stubs.join(program);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// The numbers of the profile's links.
    fn numbers(&self) -> Vec<u64> {
        let names = fs::read_dir(self.at("state/profiles")).unwrap().map(|entry| entry.unwrap().file_name());
        let number = |name: OsString| name.to_str()?.strip_prefix("bot-")?.strip_suffix("-link")?.parse().ok();
        let mut numbers: Vec<u64> = names.filter_map(number).collect();
        numbers.sort();
        numbers
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // Paths are read-only, and so could not be removed by an ordinary user.
        let _stays = Command::new("chmod").args(["-R", "u+w"]).arg(self.dir.path()).status();
    }
}

fn is_there(id: &GenerationId) -> bool {
    Path::new(id.as_str()).exists()
}

fn set_of<'a>(ids: impl IntoIterator<Item = &'a GenerationId>) -> BTreeSet<GenerationId> {
    ids.into_iter().cloned().collect()
}

#[test]
fn a_profile_is_switched_and_switched_back_by_path() {
    let nix = Private::new();
    let mut store = nix.open();
    assert_eq!((store.current().unwrap(), store.list().unwrap()), (None, vec![]));
    let (one, two) = (nix.add("bot", "1"), nix.add("bot", "2"));
    for (id, towards) in [(&one, Towards::New), (&two, Towards::New), (&one, Towards::Back)] {
        store.prepare(id).unwrap();
        for _twice in 0..2 {
            store.activate(id, towards).unwrap();
            assert_eq!(store.current().unwrap().as_ref(), Some(id));
        }
        let selected = fs::canonicalize(nix.profile()).unwrap();
        assert_eq!(selected, std::path::Path::new(id.as_str()));
    }
    assert_eq!(nix.numbers(), [1, 2, 3]);
    let listed = store.list().unwrap();
    assert_eq!(listed.iter().map(|kept| &kept.id).collect::<Vec<_>>(), [&one, &two]);
    assert!(listed.iter().all(|kept| kept.came.is_some()));
    store.verify(&one).unwrap();
    assert_eq!(store.watched(), Some((nix.at("state/profiles"), "bot".into())));
    // What nix-env leaves in its home is in Hale's own.
    assert!(!nix.at("home/.nix-defexpr").exists());
}

#[test]
fn what_a_path_says_of_the_data_is_read_also_where_it_is_a_link_to_another_path() {
    let nix = Private::new();
    let mut store = nix.open();
    let silent = nix.add("bot", "1");
    assert_eq!(store.notes(&silent).unwrap(), hale_config::ReleaseFile::default());
    let sources = tempfile::tempdir().unwrap();
    let add = |name: &str, link: &Path| {
        let source = sources.path().join(name);
        fs::create_dir(&source).unwrap();
        symlink(link, source.join("hale-release.toml")).unwrap();
        GenerationId::try_from(nix.run("nix-store", &["--add"], &source)).unwrap()
    };
    let own = sources.path().join("notes");
    fs::write(&own, "data_format = 3\n").unwrap();
    let notes = nix.run("nix-store", &["--add"], &own);
    assert_eq!(store.notes(&add("linked", Path::new(&notes))).unwrap().data_format, 3);
    let out = store.notes(&add("out", &own)).unwrap_err();
    assert!(matches!(&out, StoreError::Notes(why) if why.contains("is a symbolic link out of")), "{out:?}");
    // A path that is one file.
    let file = GenerationId::try_from(notes).unwrap();
    assert_eq!(store.notes(&file).unwrap(), hale_config::ReleaseFile::default());
}

#[test]
fn a_garbage_collection_takes_nothing_that_is_pinned() {
    let nix = Private::new();
    let mut store = nix.open();
    let [good, bad, foreign] = ["good", "bad", "foreign"].map(|name| nix.add("bot", name));
    store.prepare(&good).unwrap();
    store.activate(&good, Towards::New).unwrap();
    assert!(nix.set(&foreign).status().unwrap().success());
    store.prepare(&bad).unwrap();
    store.activate(&bad, Towards::New).unwrap();
    nix.collect_garbage();
    // The way back has no link any more, and is there.
    assert_eq!((nix.numbers(), is_there(&good), is_there(&foreign)), (vec![3], true, false));
    assert_eq!(store.list().unwrap().iter().map(|kept| &kept.id).collect::<Vec<_>>(), [&bad, &good]);
    store.activate(&good, Towards::Back).unwrap();
    assert_eq!(store.current().unwrap(), Some(good.clone()));
    nix.collect_garbage();
    assert!(is_there(&good) && is_there(&bad), "evidence stays as long as it is pinned");
    // Another Hale finds what the one before has pinned.
    drop(store);
    let mut store = nix.open();
    assert!(store.pin(&set_of([&good]), &|| true).unwrap().is_empty());
    nix.collect_garbage();
    assert!(is_there(&good) && !is_there(&bad));
    // One that is gone cannot be pinned, and the others are all the same, whatever their order.
    let other = nix.add("bot", "other");
    let more: Vec<GenerationId> = (0..4).map(|version| nix.add("more", &version.to_string())).collect();
    let unprotected = store.pin(&set_of([&bad, &good].into_iter().chain(&more)), &|| true).unwrap();
    assert!(matches!(&unprotected[..], [(id, StoreError::NotThere { .. })] if *id == bad), "{unprotected:?}");
    // Something more urgent ends it, and nothing is let go.
    assert!(matches!(store.pin(&set_of([&good]), &|| false), Err(StoreError::Stopped)));
    store.activate(&other, Towards::New).unwrap();
    nix.collect_garbage();
    assert!(is_there(&good) && is_there(&other) && more.iter().all(is_there));
}

#[test]
fn a_storm_of_switches_by_others_loses_nothing_and_is_reported() {
    let nix = Private::new();
    let mut store = nix.open();
    let (one, two) = (nix.add("bot", "1"), nix.add("bot", "2"));
    let others: Vec<GenerationId> = (0..4).map(|version| nix.add("other", &version.to_string())).collect();
    for (n, other) in others.iter().enumerate() {
        let root = nix.at("state/gcroots").join(n.to_string());
        nix.run("nix-store", &["--realise", other.as_str(), "--add-root"], &root);
    }
    assert!(store.pin(&set_of([&one, &two]), &|| true).unwrap().is_empty());
    for _round in 0..3 {
        let storm: Vec<_> = (0..40).map(|n| nix.set(&others[n % others.len()]).spawn().unwrap()).collect();
        for (id, towards) in [(&one, Towards::New), (&two, Towards::New), (&one, Towards::Back)] {
            match store.activate(id, towards) {
                Ok(()) => {}
                Err(StoreError::NotSwitched { id: asked, found, .. }) => {
                    assert_eq!(&asked, id);
                    assert_ne!(found.as_ref(), Some(id));
                }
                Err(other) => panic!("{other}"),
            }
        }
        for mut other in storm {
            other.wait().unwrap();
        }
        store.activate(&one, Towards::Back).unwrap();
        assert_eq!(store.current().unwrap().as_ref(), Some(&one));
        nix.collect_garbage();
        assert!(is_there(&one) && is_there(&two));
    }
}

#[test]
fn what_is_no_valid_path_is_refused_without_a_network() {
    let nix = Private::new();
    let mut store = nix.open();
    let one = nix.add("bot", "1");
    store.activate(&one, Towards::New).unwrap();
    nix.network.set_nonblocking(true).unwrap();
    let id = |path: String| GenerationId::try_from(path).unwrap();
    let store_dir = nix.at("store").display().to_string();
    let absent = id(format!("{store_dir}/00000000000000000000000000000000-bot"));
    for refused in [store.prepare(&absent), store.verify(&absent), store.activate(&absent, Towards::New)] {
        assert!(matches!(refused, Err(StoreError::NotThere { .. })), "{refused:?}");
    }
    for foreign in [
        format!("{one}/bot"),
        format!("{one}/../../etc"),
        "/nix/store/00000000000000000000000000000000-bot".to_owned(),
        "/etc".to_owned(),
        "7".to_owned(),
        "--rollback".to_owned(),
    ] {
        let foreign = id(foreign);
        for refused in [store.prepare(&foreign), store.verify(&foreign), store.activate(&foreign, Towards::Back)] {
            assert!(matches!(refused, Err(StoreError::NotAnId { .. })), "{refused:?}");
        }
    }
    assert_eq!(store.current().unwrap(), Some(one));
    assert_eq!(nix.network.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
    // Nix alone would have asked there.
    nix.network.set_nonblocking(false).unwrap();
    let mut alone = nix.set(&absent).spawn().unwrap();
    nix.network.accept().unwrap();
    alone.kill().unwrap();
    alone.wait().unwrap();
}

#[test]
fn how_nix_env_ends_says_nothing() {
    let nix = Private::new();
    let mut store = nix.open();
    let (one, two) = (nix.add("bot", "1"), nix.add("bot", "2"));
    store.activate(&one, Towards::New).unwrap();
    let not_switched = |store: &mut NixProfile| match store.activate(&two, Towards::New) {
        Err(StoreError::NotSwitched { found, why, .. }) => {
            assert_eq!(found.as_ref(), Some(&one));
            why
        }
        other => panic!("{other:?}"),
    };
    nix.stub("nix-env", "exit 0");
    assert_eq!(not_switched(&mut store), "nix-env exited with 0, so somebody else switches this profile too");
    nix.stub("nix-env", "echo 'error: no luck' >&2; exit 1");
    let why = not_switched(&mut store);
    assert!(why.ends_with("nix-env failed (exit status: 1): error: no luck"), "{why}");
    // One that hangs before it does anything.
    nix.stub("nix-env", "exec sleep 1000");
    store.nix.within = Duration::from_secs(2);
    let why = not_switched(&mut store);
    assert!(why.ends_with("nix-env did not end within 2 s and was killed"), "{why}");
    // And after it.
    let path = std::env::var_os("PATH").unwrap();
    let real = std::env::split_paths(&path).map(|dir| dir.join("nix-env")).find(|file| file.exists()).unwrap();
    nix.stub("nix-env", &format!("{} \"$@\"; exec sleep 1000", real.display()));
    store.activate(&two, Towards::New).unwrap();
    nix.stub("nix-store", "exec sleep 1000");
    let hung = store.activate(&one, Towards::Back);
    assert!(matches!(hung, Err(StoreError::Program { .. })), "{hung:?}");
    assert_eq!(store.current().unwrap(), Some(two));
}

#[test]
fn damage_is_found_by_reading() {
    let nix = Private::new();
    let mut store = nix.open();
    let one = nix.add("bot", "1");
    store.verify(&one).unwrap();
    let file = Path::new(one.as_str()).join("bot");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(file, "2").unwrap();
    let altered = store.verify(&one).unwrap_err();
    assert!(matches!(altered, StoreError::Altered { ref id, .. } if *id == one), "{altered}");
    assert!(altered.to_string().contains("was modified"), "{altered}");
    // In Nix's database and not on the disk.
    let two = nix.add("bot", "2");
    fs::set_permissions(two.as_str(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::remove_dir_all(two.as_str()).unwrap();
    assert!(matches!(store.prepare(&two), Err(StoreError::NotThere { .. })));
}

#[test]
fn what_nix_did_not_make_is_told_and_left() {
    let nix = Private::new();
    let mut store = nix.open();
    let one = nix.add("bot", "1");
    let foreign = |store: &mut NixProfile| {
        let text = store.current().unwrap_err().to_string();
        assert!(matches!(store.activate(&one, Towards::New), Err(StoreError::Foreign { .. })));
        text
    };
    fs::write(nix.profile(), "mine").unwrap();
    assert!(foreign(&mut store).contains("is no symbolic link"));
    assert_eq!(fs::read_to_string(nix.profile()).unwrap(), "mine");
    for target in ["/etc", "../bot-1-link", "bot-x-link", one.as_str()] {
        fs::remove_file(nix.profile()).unwrap();
        symlink(target, nix.profile()).unwrap();
        assert!(foreign(&mut store).contains(&format!("leads to {target}")));
    }
    // Its link was removed by hand: that is a profile of Nix, with nothing selected.
    fs::remove_file(nix.profile()).unwrap();
    symlink("bot-7-link", nix.profile()).unwrap();
    assert_eq!(store.current().unwrap(), None);
    store.activate(&one, Towards::New).unwrap();
    assert_eq!(store.current().unwrap(), Some(one));
}

#[test]
fn old_links_go_and_what_is_needed_stays() {
    let nix = Private::new();
    let mut store = nix.open();
    let all: Vec<GenerationId> = (0..6).map(|version| nix.add("bot", &version.to_string())).collect();
    for id in &all {
        assert!(nix.set(id).status().unwrap().success());
    }
    store.activate(&all[1], Towards::Back).unwrap();
    assert_eq!(nix.numbers(), [1, 2, 3, 4, 5, 6, 7]);
    let pinned = set_of([&all[2]]);
    let removed = store.retain(2, &pinned, &|| true).unwrap();
    assert_eq!(removed.into_iter().collect::<BTreeSet<_>>(), set_of([&all[0], &all[3], &all[4]]));
    assert_eq!(nix.numbers(), [2, 3, 6, 7]);
    assert_eq!(store.current().unwrap().as_ref(), Some(&all[1]));
    assert_eq!(store.retain(2, &pinned, &|| true).unwrap(), []);
}

#[test]
fn a_profile_is_of_one_service() {
    let nix = Private::new();
    let store = nix.open();
    let error = nix.open_as("other").unwrap_err();
    assert!(matches!(error, StoreError::ProfileBusy(_)), "{error}");
    drop(store);
    nix.open_as("other").unwrap();
}

mod needs_root {
    use super::*;

    /// Whoever may not write among Nix's own roots pins by links in Hale's directory.
    #[test]
    fn an_ordinary_user_pins_too() {
        const INSIDE: &str = "HALE_TEST_INSIDE";
        if std::env::var_os(INSIDE).is_none() {
            let test = "generations::nix_profile::tests::needs_nix::needs_root::an_ordinary_user_pins_too";
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "54321", "--regid", "54321", "--clear-groups", "--no-new-privs"]);
            command.arg(std::env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
            let output = command.env(INSIDE, "1").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
            return;
        }
        let nix = Private::new();
        let [one, two, other] = ["1", "2", "other"].map(|content| nix.add("bot", content));
        assert!(nix.set(&other).status().unwrap().success());
        let roots = nix.at("state/gcroots");
        assert!(roots.join("auto").exists());
        fs::set_permissions(&roots, fs::Permissions::from_mode(0o555)).unwrap();
        let mut store = nix.open();
        assert!(nix.at("hale/nix/roots/bot").exists() && !roots.join("hale").exists());
        for (id, towards) in [(&one, Towards::New), (&two, Towards::New)] {
            store.activate(id, towards).unwrap();
        }
        nix.collect_garbage();
        assert!(is_there(&one) && !is_there(&other));
        store.activate(&one, Towards::Back).unwrap();
        assert!(store.pin(&set_of([&one]), &|| true).unwrap().is_empty());
        nix.collect_garbage();
        assert!(!is_there(&two));
    }

    mod needs_loop {
        mod needs_python {
            use super::super::super::*;
            use crate::generations::testing::{Disk, OWN_MOUNTS, inside};

            /// Nix syncs nothing by itself: without Hale's syncs the link is gone, or what it leads to is empty.
            #[test]
            fn a_loss_of_power_after_a_switch_leaves_a_whole_path() {
                let test = "generations::nix_profile::tests::needs_nix::needs_root::needs_loop::needs_python::\
                            a_loss_of_power_after_a_switch_leaves_a_whole_path";
                if !inside(test, OWN_MOUNTS) {
                    return;
                }
                let dir = tempfile::tempdir().unwrap();
                let disk = Disk::new(dir.path(), 64 << 20);
                let nix = Private::within(dir);
                let mut before = None;
                for version in ["1", "2", "3"] {
                    let mut store = nix.open();
                    let id = nix.add("bot", &version.repeat(100_000));
                    store.prepare(&id).unwrap();
                    store.activate(&id, Towards::New).unwrap();
                    disk.lose_power();
                    drop(store);
                    disk.come_back();
                    let mut store = nix.open();
                    assert_eq!(store.current().unwrap().as_ref(), Some(&id));
                    store.verify(&id).unwrap();
                    if let Some(before) = before.replace(id) {
                        store.verify(&before).unwrap();
                        store.activate(&before, Towards::Back).unwrap();
                    }
                }
            }
        }
    }
}
