//! A service of a profile of Nix, whose store is this place's own: what Hale needs outlasts garbage collections and storms of switches,
//! and what people do with `nix-env` is noticed and never fought.

mod needs_nix {
    use crate::deploy_hooks::{app, moves, said, with_notes};
    use crate::deploy_killed::{SINCE_IT_IS_SWITCHED, kill_all};
    use crate::deploying::{self, LIVES, PASSES, SERVICE, begin_to_deploy, crash, deploy_named, release, runs, text};
    use crate::harness::{Hale, Place};
    use serde_json::{Value, json};
    use std::fs;
    use std::ops::Deref;
    use std::path::{Path, PathBuf};
    use std::process::{Command, Stdio};

    const VARIABLES: [(&str, &str); 4] = [
        ("NIX_STORE_DIR", "@D/nix/store"),
        ("NIX_STATE_DIR", "@D/nix/state"),
        ("NIX_LOG_DIR", "@D/nix/log"),
        ("NIX_CONF_DIR", "@D/nix/conf"),
    ];

    /// A place with a Nix whose store is there, and Hale has it, too.
    struct Nix(Place);

    impl Deref for Nix {
        type Target = Place;
        fn deref(&self) -> &Place {
            &self.0
        }
    }

    impl Drop for Nix {
        fn drop(&mut self) {
            // Paths are read-only, and so could not be removed by an ordinary user.
            let _stays = Command::new("chmod").args(["-R", "u+w"]).arg(self.path("nix")).status();
        }
    }

    impl Nix {
        fn new() -> Self {
            let mut place = Place::new();
            for name in ["conf", "state/profiles"] {
                fs::create_dir_all(place.path("nix").join(name)).unwrap();
            }
            place.write("nix/conf/nix.conf", "build-users-group =\nsubstitute = false\n");
            let variables = VARIABLES.map(|(name, value)| format!("{name}={}", place.text(value)));
            place.wrapper = ["env".to_owned()].into_iter().chain(variables).collect();
            Self(place)
        }

        /// As an operator runs it.
        fn program(&self, program: &str, words: &[&str]) -> Command {
            let mut command = Command::new(&self.wrapper[0]);
            command.args(&self.wrapper[1..]).arg(program).args(words).env("HOME", self.path("nix"));
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
            command
        }

        #[track_caller]
        fn tool(&self, program: &str, words: &[&str]) -> String {
            let output = self.program(program, words).output().unwrap();
            assert!(output.status.success(), "{program} {words:?}: {output:?}");
            text(&output).trim().to_owned()
        }

        /// What is in a directory of this place, as a path of the store.
        #[track_caller]
        fn add(&self, name: &str) -> String {
            self.tool("nix-store", &["--add", self.path(name).to_str().unwrap()])
        }

        fn release(&self, name: &str, app: &str) -> String {
            release(self, name, &self.text(app), PASSES);
            self.add(name)
        }

        /// Works until its data are such as it cannot read.
        fn poisoned(&self, name: &str) -> String {
            self.release(name, "test -e @D/poison && exit 9; exec sleep 1000")
        }

        fn profile(&self) -> PathBuf {
            self.path("nix/state/profiles/app")
        }

        fn set(&self, to: &str) -> Command {
            self.program("nix-env", &["--profile", self.profile().to_str().unwrap(), "--set", to])
        }

        #[track_caller]
        fn rollback(&self) {
            self.tool("nix-env", &["--profile", self.profile().to_str().unwrap(), "--rollback"]);
        }

        fn collect_garbage(&self) {
            self.tool("nix-collect-garbage", &["-d"]);
        }

        /// What the profile leads to.
        fn current(&self) -> String {
            fs::canonicalize(self.profile()).unwrap().display().to_string()
        }

        /// What the profile has links to, in the order of their numbers.
        fn linked(&self) -> Vec<String> {
            let names = fs::read_dir(self.path("nix/state/profiles")).unwrap().map(|entry| entry.unwrap().path());
            let number = |path: &Path| {
                let name = path.file_name()?.to_str()?.strip_prefix("app-")?.strip_suffix("-link")?;
                name.parse::<u64>().ok()
            };
            let mut links: Vec<_> = names.filter_map(|path| Some((number(&path)?, path))).collect();
            links.sort();
            links.iter().map(|(_, link)| fs::read_link(link).unwrap().display().to_string()).collect()
        }

        /// What Hale has protected from garbage collections.
        fn protected(&self) -> Vec<String> {
            let roots = fs::read_dir(self.path("nix/state/gcroots/hale/app")).unwrap();
            // Hale lets go of others meanwhile.
            roots.filter_map(|root| Some(fs::read_link(root.ok()?.path()).ok()?.display().to_string())).collect()
        }

        fn service(&self, probation: &str) -> String {
            let directory = "[service.app]\ndirectory = \"@D/nix/state/profiles/app\"\n";
            let store = "store = \"nix-profile\"\nprofile = \"@D/nix/state/profiles/app\"\n";
            let service = SERVICE.replace("[service.app]\n", directory).replace("800ms", probation);
            self.text(&format!("{service}{store}"))
        }

        /// Hale with a service whose profile somebody has made before.
        fn begin(&self) -> (Hale<'_>, String) {
            let first = self.release("first", LIVES);
            assert!(self.set(&first).status().unwrap().success());
            let hale = self.hale(&self.service("800ms"));
            hale.event("app", "ready: ");
            (hale, first)
        }

        /// From now on a release takes that long to prove itself.
        fn prove_within(&self, probation: &str) {
            self.configure("", &self.service(probation));
            self.done(&["reload"]);
        }

        fn pid(&self) -> i64 {
            self.status("app")["pid"].as_i64().unwrap()
        }

        /// Waits until no switch is under way, and gives what the service runs by then.
        fn over(&self, what: &str) -> String {
            deploying::over(self, what, || self.current());
            self.current()
        }

        /// Switches by others, at once.
        fn storm(&self, all: &[String], meanwhile: impl Fn()) {
            let storm: Vec<_> = all.iter().cycle().take(40).map(|to| self.set(to).spawn().unwrap()).collect();
            meanwhile();
            storm.into_iter().for_each(|one| drop(one.wait_with_output().unwrap()));
        }

        /// What the profile shows is what Hale says.
        #[track_caller]
        fn agrees(&self) {
            self.until(|| {
                let (seen, current) = (self.status("app")["generation"].clone(), self.current());
                (seen == json!(current)).then_some(()).ok_or(format!("{seen}, and it is {current}"))
            });
        }

        /// A failure of what is on probation is gone back from.
        #[track_caller]
        fn goes_back(&self, hale: &Hale<'_>, to: &str) {
            crash(self.pid());
            hale.event("app", "what was good works again: rolled back");
            assert_eq!(self.over("went back"), to);
        }
    }

    fn is_there(path: &str) -> bool {
        Path::new(path).exists()
    }

    #[test]
    fn a_good_path_is_committed_and_a_bad_one_goes_back() {
        let nix = Nix::new();
        let (hale, first) = nix.begin();
        assert_eq!(runs(&nix), first.rsplit('/').next().unwrap());
        let good = nix.release("good", LIVES);
        deploy_named(&nix, &good, 0);
        hale.event("app", "committed");
        assert_eq!(nix.over("good"), good);
        let bad = nix.release("bad", "exit 3");
        // As `nix-build` leaves it.
        std::os::unix::fs::symlink(&bad, nix.path("result")).unwrap();
        said(&deploy_named(&nix, nix.path("result").to_str().unwrap(), 4), &["exited with status 3"]);
        assert_eq!(nix.over("bad"), good);
        assert_eq!(nix.linked(), [&*first, &good, &bad, &good]);
        said(&deploy_named(&nix, &bad, 6), &["quarantined"]);
        // What Nix does not have touches nothing.
        let pid = nix.pid();
        let absent = nix.text("@D/nix/store/00000000000000000000000000000000-app");
        said(&deploy_named(&nix, &absent, 1), &["Nix does not have it"]);
        assert_eq!((nix.over("absent"), nix.pid()), (good, pid));
        hale.stop();
    }

    #[test]
    fn a_garbage_collection_during_a_probation_takes_no_way_back() {
        let nix = Nix::new();
        let (hale, _) = nix.begin();
        let good = nix.release("good", LIVES);
        deploy_named(&nix, &good, 0);
        nix.prove_within("1h");
        let [bad, foreign] = [nix.poisoned("bad"), nix.release("foreign", LIVES)];
        begin_to_deploy(&nix, &bad);
        nix.collect_garbage();
        assert_eq!((nix.linked(), is_there(&good), is_there(&foreign)), (vec![bad], true, false));
        nix.write("poison", "");
        nix.goes_back(&hale, &good);
        hale.stop();
    }

    #[test]
    fn a_storm_of_switches_by_others_during_a_probation_loses_nothing() {
        let nix = Nix::new();
        let (hale, _) = nix.begin();
        let good = nix.release("good", LIVES);
        deploy_named(&nix, &good, 0);
        nix.prove_within("1h");
        let new = nix.release("new", LIVES);
        begin_to_deploy(&nix, &new);
        let pid = nix.pid();
        let all = [nix.release("one", LIVES), nix.release("bad", "exit 3"), new, nix.release("two", LIVES)];
        nix.storm(&all, || ());
        // Hale sees the last one of them, and does nothing about it.
        nix.agrees();
        assert_eq!(nix.pid(), pid);
        nix.collect_garbage();
        assert!(is_there(&good) && nix.protected().contains(&good), "{:?}", nix.protected());
        // And while what runs fails.
        nix.storm(&all, || crash(pid));
        nix.agrees();
        nix.prove_within("800ms");
        // Whatever the next process is of, it ends well.
        nix.run(&["restart", "app"]);
        nix.over("the storm");
        nix.collect_garbage();
        assert!(is_there(&good));
        hale.stop();
    }

    #[test]
    fn what_somebody_sets_is_noticed_and_gone_back_from_when_it_fails() {
        let nix = Nix::new();
        let (hale, first) = nix.begin();
        let pid = nix.pid();
        let bad = nix.release("bad", "exit 3");
        assert!(nix.set(&bad).status().unwrap().success());
        hale.event("app", "switched to");
        assert_eq!((nix.pid(), runs(&nix).as_str()), (pid, first.rsplit('/').next().unwrap()));
        assert_eq!(nix.status("app")["generation"], json!(bad));
        nix.goes_back(&hale, &first);
        hale.stop();
    }

    #[test]
    fn what_somebody_rolls_back_is_a_change_like_any_other() {
        let nix = Nix::new();
        let (hale, first) = nix.begin();
        let good = nix.release("good", LIVES);
        deploy_named(&nix, &good, 0);
        hale.event("app", "committed");
        let pid = nix.pid();
        nix.rollback();
        hale.event("app", "switched to");
        assert_eq!((nix.pid(), nix.current()), (pid, first.clone()), "nothing is done to what runs");
        nix.done(&["restart", "app"]);
        hale.event("app", "committed");
        assert_eq!(nix.over("restarted"), first);
        // What Hale has gone back from has a link still, and a person's next rollback leads there.
        let bad = nix.release("bad", "exit 3");
        deploy_named(&nix, &bad, 4);
        hale.event("app", "what was good works again: rolled back");
        nix.rollback();
        hale.event("app", "switched to");
        assert_eq!(nix.current(), bad);
        nix.goes_back(&hale, &first);
        hale.stop();
    }

    #[test]
    fn all_is_killed_between_a_switch_and_its_end_and_garbage_is_collected() {
        let nix = Nix::new();
        let (mut hale, mut before) = nix.begin();
        for (number, moment) in SINCE_IT_IS_SWITCHED.into_iter().enumerate() {
            let new = nix.release(&format!("new-{number}"), LIVES);
            hale = kill_all(hale, &new, moment, || nix.collect_garbage());
            assert!(is_there(&before), "{moment:?}");
            before = nix.over(moment.0);
            assert_eq!(before, new, "{moment:?}");
        }
        // And one that fails after that.
        nix.prove_within("1h");
        let bad = nix.poisoned("bad");
        begin_to_deploy(&nix, &bad);
        hale.kill_all();
        nix.collect_garbage();
        assert_eq!(nix.linked(), [bad]);
        nix.write("poison", "");
        let hale = nix.hale_again();
        hale.event("app", "what was good works again: rolled back");
        assert_eq!(nix.over("poisoned"), before);
        hale.stop();
    }

    #[test]
    fn what_a_path_brings_for_the_data_is_run() {
        let nix = Nix::new();
        let (hale, first) = nix.begin();
        let notes =
            "data_format = 1\nmin_rollback = 1\nbefore_switch = [\"bin/before\"]\nafter_rollback = [\"bin/after\"]\n";
        let before = nix.text("echo \"before $HALE_FROM $HALE_TO $(pwd -P)\" > @D/reports; echo copy-8");
        let after = nix.text("echo \"after $HALE_FROM $HALE_TO $HALE_SNAPSHOT $(pwd -P)\" > @D/reports");
        with_notes(&nix, "bad", &app(&nix, "bad", "exit 3"), PASSES, notes, [&before, &after]);
        let bad = nix.add("bad");
        said(&deploy_named(&nix, &bad, 4), &["exited with status 3"]);
        assert_eq!(nix.over("bad"), first);
        let ran = [
            format!("before {first} {bad} {bad}"),
            "bad starts".to_owned(),
            format!("after {bad} {first} copy-8 {bad}"),
        ];
        assert_eq!(nix.reported(), ran);
        let data: Vec<Value> = moves(&nix, "prepared").into_iter().map(|record| record["data"].clone()).collect();
        assert_eq!(data, [json!({"format": 1, "min_rollback": 1, "undoes": true, "snapshot": "copy-8"})]);
        // One that refuses is not switched to.
        let pid = nix.pid();
        with_notes(&nix, "full", LIVES, PASSES, notes, ["echo 'no room for a copy' >&2; exit 3", "exit 9"]);
        said(&deploy_named(&nix, &nix.add("full"), 6), &["cannot run before_switch of", "no room for a copy"]);
        assert_eq!((nix.over("full"), nix.pid()), (first, pid));
        hale.stop();
    }
}
