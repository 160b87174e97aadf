//! Trees of real processes: with cgroups, with tags, and with tags as an ordinary user.

use super::*;
use hale_core::ids::Epoch;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open, set_child_subreaper};
use std::io::{BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Longer than anything here takes on a busy machine.
const LONG: Duration = Duration::from_secs(30);

/// Trees of an instance of its own, emptied at the end of the test.
struct Host(Option<Trees>);

impl Host {
    fn new(open: impl Fn(&str) -> Trees) -> Self {
        // As the guardian does.
        set_child_subreaper(Pid::from_raw(1)).unwrap();
        let unique = format!("{}-{:?}", std::process::id(), std::thread::current().id());
        Self(Some(open(&instance(Path::new(&unique)))))
    }

    fn trees(&self) -> &Trees {
        self.0.as_ref().unwrap()
    }

    fn tree(&self, name: &str) -> Tree {
        self.trees().prepare(&service(name)).unwrap()
    }

    /// Runs a shell script as the main process of a service.
    fn run(&self, name: &str, script: &str) -> (Main, Tree) {
        let tree = self.tree(name);
        let main = self.start(script, Some((&self.trees().environment_tag(&service(name)), &tree)));
        (main, tree)
    }

    /// Runs a shell script in a session of its own, in a tree or in none.
    fn start(&self, script: &str, tree: Option<(&str, &Tree)>) -> Main {
        let mut command = Command::new("setsid");
        command.args(["sh", "-c"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let own = match (&self.trees().kind, tree) {
            (Kind::Cgroup2 { path }, Some((_, tree))) => {
                let below = tree.cgroup_path().unwrap().rsplit_once(&group_name(&self.trees().instance)).unwrap().1;
                format!("echo $$ > {}{below}/cgroup.procs || exit; ", path.display())
            }
            (Kind::Cgroup2 { .. } | Kind::Tags { .. }, _) => String::new(),
        };
        command.arg(own + script);
        if let Some((tag, _)) = tree {
            let (name, value) = tag.split_once('=').unwrap();
            command.env(name, value);
        }
        let mut child = command.spawn().unwrap();
        let pid = child.id().cast_signed();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        let process = tree.map(|(_, tree)| tree.spawned(pid, pidfd.as_fd()).unwrap());
        let output = BufReader::new(child.stdout.take().unwrap());
        Main { child, output, process, pidfd }
    }

    /// Kills the tree and waits until Hale learns that it is empty, as the supervisor does.
    fn kill(&self, tree: &Tree) {
        tree.kill().unwrap();
        self.wait_until_empty(tree, Until::Killed);
        assert!(tree.is_empty().unwrap());
    }

    fn wait_until_empty(&self, tree: &Tree, until: Until) {
        if let Some(events) = tree.events_fd() {
            while !tree.is_empty().unwrap() {
                let timeout = Timespec::try_from(LONG).unwrap();
                let woken = poll(&mut [PollFd::from_borrowed_fd(events, PollFlags::PRI)], Some(&timeout)).unwrap();
                assert_eq!(woken, 1, "the kernel does not tell that the tree is empty");
            }
        } else {
            let (sender, receiver) = channel();
            let watcher = Watcher::start(move |service, epoch| sender.send((service, epoch)).unwrap()).unwrap();
            watcher.watch(service("watched"), Epoch(7), tree.clone(), until);
            assert_eq!(receiver.recv_timeout(LONG), Ok((service("watched"), Epoch(7))));
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(trees) = self.0.take() {
            let _ = trees.end_leftovers(&[], LONG);
            let _ = trees.close();
        }
    }
}

struct Main {
    child: Child,
    output: BufReader<ChildStdout>,
    process: Option<Process>,
    pidfd: OwnedFd,
}

impl Main {
    /// The next line of its output.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    /// The process whose pid it prints next.
    fn other(&mut self) -> Handle {
        Handle::open(self.line().parse().unwrap()).unwrap().expect("it prints the pid of a living process")
    }

    fn wait_for_end(&self) {
        assert!(ends(&self.pidfd), "it should have ended");
    }
}

impl Drop for Main {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ends(pidfd: &OwnedFd) -> bool {
    poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&Timespec::try_from(LONG).unwrap())).unwrap() == 1
}

fn service(name: &str) -> Name {
    Name::try_from(name).unwrap()
}

fn lives(handle: &Handle) -> bool {
    handle.stat().is_some_and(|stat| !stat.is_dead)
}

fn strays_are_killed(host: &Host) {
    let (mut main, tree) = host.run("bot", "(setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000");
    let stray = main.other();
    assert_ne!(stray.stat().unwrap().parent, main.child.id().cast_signed(), "it forked twice");
    assert!(!tree.is_empty().unwrap());
    host.kill(&tree);
    assert!(!lives(&stray));
}

fn another_service_and_a_stranger_go_on(host: &Host) {
    let (mut one, tree) = host.run("bot", "echo; exec sleep 1000");
    let (mut two, other) = host.run("bot2", "echo; exec sleep 1000");
    let mut stranger = host.start("echo; exec sleep 1000", None);
    let similar = format!("{}2", host.trees().environment_tag(&service("bot")));
    let mut command = Command::new("sleep");
    command.arg("1000").env("XHALE_SERVICE", &similar[VARIABLE.len() + 1..similar.len() - 1]).env("PS1", &similar);
    let mut named = command.spawn().unwrap();
    for main in [&mut one, &mut two, &mut stranger] {
        main.line();
    }
    host.kill(&tree);
    assert!(!other.is_empty().unwrap());
    assert!(stranger.child.try_wait().unwrap().is_none() && named.try_wait().unwrap().is_none());
    named.kill().unwrap();
    named.wait().unwrap();
    host.kill(&other);
}

fn a_growing_tree_is_killed(host: &Host) {
    // 255 processes at its end, which is not waited for.
    let script = "bomb() { if [ $1 -eq 0 ]; then exec sleep 1000; fi; bomb $(($1 - 1)) & bomb $(($1 - 1)) & wait; }
                  echo; bomb 7";
    let (mut main, tree) = host.run("bomb", script);
    main.line();
    host.kill(&tree);
    assert!(tree.is_empty().unwrap());
}

fn a_grown_tree_is_killed(host: &Host) {
    let script = "i=0; while [ $i -lt 200 ]; do sleep 1000 & i=$((i + 1)); done; echo; wait";
    let (mut main, tree) = host.run("many", script);
    main.line();
    let mut count = 0;
    tree.each(|_, _| {
        count += 1;
        Ok(())
    })
    .unwrap();
    assert_eq!(count, 201);
    host.kill(&tree);
}

fn a_signal_reaches_all_and_sigkill_those_who_ignore_it(host: &Host) {
    let script = "echo $(setsid sh -c 'echo $$; exec sleep 1000 >&2' &); trap '' TERM; sleep 1000 & echo $!; wait";
    let (mut main, tree) = host.run("stubborn", script);
    let (stray, stubborn) = (main.other(), main.other());
    let stray_end = stray.pidfd().unwrap().unwrap();
    assert_eq!(tree.signal(15).unwrap(), 3);
    assert!(ends(&stray_end), "the one that does not ignore it ends");
    assert!(lives(&stubborn) && !tree.is_empty().unwrap());
    host.kill(&tree);
    assert!(!lives(&stubborn));
}

fn a_stopped_process_notices_the_signal(host: &Host) {
    let (mut main, tree) = host.run("stopped", "echo; kill -STOP $$; exec sleep 1000");
    main.line();
    // Stopped by itself, or soon so: SIGTERM alone would not end it, and a later SIGSTOP does not undo it.
    Handle::open(main.child.id().cast_signed()).unwrap().unwrap().send(Signal::STOP).unwrap();
    assert_eq!(tree.signal(15).unwrap(), 1);
    main.wait_for_end();
    main.child.wait().unwrap();
    assert!(tree.signal(40).is_err(), "a signal without a name");
}

fn a_dead_main_process_does_not_make_the_tree_empty(host: &Host) {
    let (mut main, tree) = host.run("zombie", "sleep 1000 & echo $!");
    let child = main.other();
    main.wait_for_end();
    assert!(!tree.is_empty().unwrap(), "its child lives");
    child.send(Signal::KILL).unwrap();
    // The main process is still not reaped.
    host.wait_until_empty(&tree, Until::Ended);
    assert!(main.process.is_some() && main.child.wait().unwrap().success());
}

fn leftovers_are_ended_and_nothing_else(host: &Host, reopen: impl Fn(&str) -> Trees) {
    let (mut tagged, _tree) = host.run("old", "(setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000");
    let stray = tagged.other();
    let mut known = host.start("env -i sleep 1000 & echo $!; wait", None);
    let child = known.other();
    let mut stranger = host.start("echo; exec sleep 1000", None);
    stranger.line();
    let similar = host.trees().instance.replace(|_| true, "f");
    let mut other_instance = Command::new("sleep").arg("1000").env(VARIABLE, format!("{similar}:old")).spawn().unwrap();

    let recorded = |main: &Main, older_ticks: u64| {
        let stat = Handle::open(main.child.id().cast_signed()).unwrap().unwrap().stat().unwrap();
        let start_ticks = stat.identity.start_ticks - older_ticks;
        Process { pid: stat.identity.pid, start_ticks, pidfd_inode: 0, cgroup: None }
    };
    let journal = [recorded(&known, 0), recorded(&stranger, 1)];
    let leftovers = reopen(&host.trees().instance).end_leftovers(&journal, LONG).unwrap();

    assert!(!lives(&stray) && !lives(&child));
    tagged.wait_for_end();
    known.wait_for_end();
    assert_eq!((leftovers.found.len(), leftovers.remaining.len()), (4, 0), "{leftovers:?}");
    assert!(stranger.child.try_wait().unwrap().is_none(), "the pid of the journal, but another start time");
    assert!(other_instance.try_wait().unwrap().is_none());
    other_instance.kill().unwrap();
    other_instance.wait().unwrap();
    let again = reopen(&host.trees().instance).end_leftovers(&journal, LONG).unwrap();
    assert_eq!(again.found.len(), 0);
}

fn a_dropped_probe_is_killed(host: &Host) {
    let probe = host.trees().probe_group(1).unwrap();
    let script = "(setsid sh -c 'echo $$; exec sleep 1000' &); exec sleep 1000";
    let mut main = host.start(script, Some((&probe.environment_tag(), probe.tree())));
    let stray = main.other();
    let end = stray.pidfd().unwrap().unwrap();
    drop(probe);
    assert!(ends(&end), "the probe's stray ends");
    main.wait_for_end();
}

#[test]
fn an_instance_is_eight_digits_and_always_the_same() {
    // FNV-1a's own test vector for "foobar".
    assert_eq!(instance(Path::new("foobar")), "bf9cf968");
    assert_eq!(instance(Path::new("")), "811c9dc5");
}

mod tags {
    use super::*;

    fn open(instance: &str) -> Trees {
        Trees::new(instance, Kind::Tags { why: Unusable::NotMounted }, None)
    }

    #[test]
    fn strays_are_killed() {
        super::strays_are_killed(&Host::new(open));
    }

    #[test]
    fn another_service_and_a_stranger_go_on() {
        super::another_service_and_a_stranger_go_on(&Host::new(open));
    }

    #[test]
    fn a_growing_tree_is_killed() {
        super::a_growing_tree_is_killed(&Host::new(open));
    }

    #[test]
    fn a_grown_tree_is_killed() {
        super::a_grown_tree_is_killed(&Host::new(open));
    }

    #[test]
    fn a_signal_reaches_all_and_sigkill_those_who_ignore_it() {
        super::a_signal_reaches_all_and_sigkill_those_who_ignore_it(&Host::new(open));
    }

    #[test]
    fn a_stopped_process_notices_the_signal() {
        super::a_stopped_process_notices_the_signal(&Host::new(open));
    }

    #[test]
    fn a_dead_main_process_does_not_make_the_tree_empty() {
        super::a_dead_main_process_does_not_make_the_tree_empty(&Host::new(open));
    }

    #[test]
    fn leftovers_are_ended_and_nothing_else() {
        super::leftovers_are_ended_and_nothing_else(&Host::new(open), open);
    }

    #[test]
    fn a_dropped_probe_is_killed() {
        super::a_dropped_probe_is_killed(&Host::new(open));
    }

    #[test]
    fn a_cleared_environment_does_not_hide_a_child_or_an_orphan() {
        let host = Host::new(open);
        let (mut main, tree) = host.run("bare", "env -i sleep 1000 & echo $!; wait");
        let bare = main.other();
        main.child.kill().unwrap();
        main.child.wait().unwrap();
        assert!(!tree.is_empty().unwrap(), "an orphan of the main process's session");
        host.kill(&tree);
        assert!(!lives(&bare));
    }

    #[test]
    fn a_forgotten_tree_is_not_reported() {
        let host = Host::new(open);
        let (mut main, tree) = host.run("one", "echo; exec sleep 1000");
        main.line();
        let (sender, receiver) = channel();
        let watcher = Watcher::start(move |service, _| sender.send(service).unwrap()).unwrap();
        watcher.watch(service("forgotten"), Epoch(1), tree.clone(), Until::Ended);
        watcher.forget(service("forgotten"));
        watcher.watch(service("watched"), Epoch(1), tree.clone(), Until::Ended);
        tree.kill().unwrap();
        assert_eq!(receiver.recv_timeout(LONG), Ok(service("watched")));
        drop(watcher);
        assert!(receiver.recv().is_err());
    }
}

mod needs_root {
    use super::*;
    use std::os::unix::process::CommandExt;

    #[test]
    fn tags_work_for_an_ordinary_user() {
        let output = Command::new("/proc/self/exe")
            .args(["--test-threads=1", "execute::tree::tests::tags::"])
            .current_dir("/")
            .uid(65_534)
            .gid(65_534)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && !text.contains(" 0 passed"), "{text}");
    }
}

mod needs_cgroup2 {
    use super::*;

    /// A Hale in a group to which `cgroup.kill` was once written: this very program is it, with a test that says how it
    /// found trees to be kept.
    #[test]
    fn where_the_kernel_kills_all_that_is_made_tags_are_used() {
        let group = host_group(&format!("killed-{}", std::process::id()));
        std::fs::write(group.join("cgroup.kill"), "1").unwrap();
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$0\" \"$@\"", group.display());
        let name = "execute::tree::tests::needs_cgroup2::strays_are_killed";
        let exe = std::env::current_exe().unwrap();
        let output = Command::new("sh").args(["-c", &script]).arg(exe).args(["--exact", name]).output().unwrap();
        std::fs::remove_dir(&group).unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("Tags { why: Deadly("), "{text}{}", String::from_utf8_lossy(&output.stderr));
    }

    /// A new group beside those of the tests.
    fn host_group(name: &str) -> PathBuf {
        let host = host();
        let Kind::Cgroup2 { path } = host.trees().kind() else { unreachable!() };
        let group = path.parent().unwrap().join(name);
        std::fs::create_dir(&group).unwrap();
        group
    }

    fn host() -> Host {
        let host = Host::new(Trees::open);
        assert!(matches!(host.trees().kind(), Kind::Cgroup2 { .. }), "{:?}", host.trees().kind());
        host
    }

    #[test]
    fn strays_are_killed() {
        super::strays_are_killed(&host());
    }

    #[test]
    fn another_service_and_a_stranger_go_on() {
        super::another_service_and_a_stranger_go_on(&host());
    }

    #[test]
    fn a_growing_tree_is_killed() {
        super::a_growing_tree_is_killed(&host());
    }

    #[test]
    fn a_grown_tree_is_killed() {
        super::a_grown_tree_is_killed(&host());
    }

    #[test]
    fn a_signal_reaches_all_and_sigkill_those_who_ignore_it() {
        super::a_signal_reaches_all_and_sigkill_those_who_ignore_it(&host());
    }

    #[test]
    fn a_stopped_process_notices_the_signal() {
        super::a_stopped_process_notices_the_signal(&host());
    }

    #[test]
    fn a_dead_main_process_does_not_make_the_tree_empty() {
        super::a_dead_main_process_does_not_make_the_tree_empty(&host());
    }

    #[test]
    fn leftovers_are_ended_and_nothing_else() {
        super::leftovers_are_ended_and_nothing_else(&host(), Trees::open);
    }

    #[test]
    fn a_dropped_probe_is_killed() {
        super::a_dropped_probe_is_killed(&host());
    }
}
