//! The `exec` check: a program that must exit with status 0, and that never outlives its probe.

use super::prepare::{self, Prepared};
use super::process::{Ended, GONE_WITHIN, Process};
use super::{Deadline, ProbeOrder, Verdict};
use crate::execute::tree::Trees;
use hale_core::event::ExitStatus;
use hale_core::ids::Name;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::Semaphore;

/// How many probes may look for their user, program and variables at once. Files may hang with their file system, and
/// the thread that reads them with it; so many are found out about, and more would not get further either.
const PREPARATIONS_MAX: usize = 4;

/// Starts the programs.
pub(super) struct Launcher {
    trees: Arc<Trees>,
    preparations: Arc<Semaphore>,
    /// The checks whose process is not gone.
    busy: Arc<Mutex<BTreeSet<(Name, Name)>>>,
}

impl Launcher {
    pub(super) fn new(trees: Arc<Trees>) -> Self {
        let preparations = Arc::new(Semaphore::new(PREPARATIONS_MAX));
        Self { trees, preparations, busy: Arc::default() }
    }

    /// Runs `command` once. Whatever it leaves behind is killed with it.
    pub(super) async fn probe(
        &self,
        order: &ProbeOrder,
        check: &Name,
        command: &[String],
        user: Option<&str>,
        deadline: Deadline,
    ) -> Result<Verdict, Verdict> {
        let Some(busy) = Busy::begin(&self.busy, (order.service.clone(), check.clone())) else {
            return Err(Verdict::killed("the process of the probe before was killed and is still not gone"));
        };
        let group = self.trees.probe_group(order.probe.0);
        let group = group.map_err(|error| Verdict::unable(format_args!("no cgroup for the probe: {error}")))?;
        let prepared = self.prepare(order, command, user, group.environment_tag(), deadline).await?;
        let mut process = Process::start(&prepared, group)?;

        let ended = process.end(deadline.at()).await;
        process.kill();
        let gone = tokio::time::timeout(GONE_WITHIN, process.gone()).await;
        let output = process.last_line();
        let timeout = deadline.timeout;
        let verdict = match (ended, gone) {
            (Ended::ByItself, Ok(Ok(exit))) => judge(exit, process.failure(), &output, deadline),
            (Ended::ByItself, Ok(Err(error))) => Verdict::unable(format_args!("its status was lost: {error}")),
            (Ended::AtDeadline, Ok(_)) => {
                Verdict::killed(format_args!("killed: it did not end within {timeout}{output}"))
            }
            (Ended::ByItself | Ended::AtDeadline, Err(_late)) => {
                let pid = process.pid();
                // Until it is gone no other one of this check is started.
                tokio::spawn(async move {
                    let _reaped = process.gone().await;
                    drop(busy);
                });
                let detail = format_args!("pid {pid} did not end within {timeout} and survives SIGKILL{output}");
                return Err(Verdict::killed(detail));
            }
        };
        process.clear().await;
        Ok(verdict)
    }

    /// Finds program, user and variables, on another thread.
    async fn prepare(
        &self,
        order: &ProbeOrder,
        command: &[String],
        user: Option<&str>,
        tag: String,
        deadline: Deadline,
    ) -> Result<Prepared, Verdict> {
        let slot =
            deadline.bound_own("a slot to look for its files, all hang", self.preparations.clone().acquire_owned());
        let slot = slot.await?.map_err(Verdict::unable)?;
        let (probed, command) = (order.of.clone(), command.to_vec());
        let user = user.map(str::to_owned);
        let work = tokio::task::spawn_blocking(move || {
            let prepared = prepare::prepare(&probed, &command, user.as_deref(), &tag);
            drop(slot);
            prepared
        });
        match deadline.bound_own("its program, user and variables to be found", work).await? {
            Ok(prepared) => prepared,
            Err(ended) => Err(Verdict::unable(ended)),
        }
    }
}

fn judge(exit: ExitStatus, failure: Option<Verdict>, output: &str, deadline: Deadline) -> Verdict {
    match failure {
        Some(failure) => failure,
        None if exit.is_success() => Verdict::pass(format_args!("{exit} in {}{output}", deadline.elapsed())),
        None => Verdict::wrong(format_args!("{exit}{output}")),
    }
}

/// Marks a check as busy for as long as it lives.
struct Busy {
    all: Arc<Mutex<BTreeSet<(Name, Name)>>>,
    key: (Name, Name),
}

impl Busy {
    /// `None` when it is busy already.
    fn begin(all: &Arc<Mutex<BTreeSet<(Name, Name)>>>, key: (Name, Name)) -> Option<Self> {
        let is_new = all.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone());
        is_new.then(|| Self { all: all.clone(), key })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::monitor::probe::testing::{
        LONG, assert_fails, assert_passes, policy, run, run_policy, trees, trees_by_tags,
    };
    use hale_core::event::{ProbeFailure, ProbeOutcome};
    use hale_core::policy::CheckKind;
    use hale_core::time::Span;
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

    const SHORT: Span = Span::from_ms(200);

    fn command(words: &[&str]) -> CheckKind {
        CheckKind::Exec { command: words.iter().copied().map(String::from).collect(), user: None }
    }

    async fn shell(script: &str, timeout: Span) -> ProbeOutcome {
        run(command(&["sh", "-c", script]), timeout).await
    }

    /// Waits for the end of the process whose pid ends the detail.
    fn assert_ends(outcome: &ProbeOutcome) {
        let pid = outcome.detail.rsplit(' ').next().unwrap().parse().unwrap();
        if let Ok(pidfd) = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()) {
            let bound = Timespec { tv_sec: 30, tv_nsec: 0 };
            let ended = poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&bound)).unwrap();
            assert_eq!(ended, 1, "process {pid} outlives its probe");
        }
    }

    fn assert_no_children() {
        let children = waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT);
        assert_eq!(children.unwrap_err(), rustix::io::Errno::CHILD, "a child was not reaped");
    }

    #[tokio::test]
    async fn the_exit_status_decides_and_the_last_line_tells_why() {
        assert_passes(&shell("echo first; echo last >&2; echo", LONG).await, "exited with status 0 in ");
        let outcome = shell("echo first; echo last >&2; echo", LONG).await;
        assert!(outcome.detail.ends_with(": last"), "{outcome:?}");
        let outcome = shell("printf 'lag \\033[2J 9 s'; exit 3", LONG).await;
        assert_fails(&outcome, ProbeFailure::Wrong, "exited with status 3: lag \\u{1b}[2J 9 s");
        assert_fails(&shell("kill -SEGV $$", LONG).await, ProbeFailure::Wrong, "was ended by SIGSEGV");
        assert_no_children();
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_why() {
        let outcome = run(command(&["/no/such/check"]), LONG).await;
        assert_fails(&outcome, ProbeFailure::Wrong, "exec /no/such/check: No such file or directory (os error 2)");
        assert_fails(
            &run(command(&["no-such-check"]), LONG).await,
            ProbeFailure::Wrong,
            "program no-such-check: not found in ",
        );
        let mut elsewhere = policy(command(&["/bin/true"]), LONG);
        elsewhere.directory = Some(String::from("/no/such/folder"));
        let outcome = run_policy(elsewhere, trees()).await;
        assert_fails(&outcome, ProbeFailure::Wrong, "directory /no/such/folder: No such file or directory");
        let unknown = CheckKind::Exec { command: vec!["/bin/true".into()], user: Some("nobody-of-this-name".into()) };
        assert_fails(
            &run(unknown, LONG).await,
            ProbeFailure::Unable,
            "user nobody-of-this-name: there is no such user",
        );
        assert_no_children();
    }

    #[tokio::test]
    async fn it_starts_with_default_signals_its_variables_and_nothing_else_open() {
        let script = "grep -E 'SigBlk|NoNewPrivs' /proc/self/status | tr -d ' \\t\\n'; echo \" $WORD $HALE_SERVICE\"";
        let mut check = policy(command(&["sh", "-c", script]), LONG);
        check.environment.insert("WORD".into(), "up".into());
        let trees = trees();
        let tag = trees.probe_group(1).unwrap().environment_tag();
        let outcome = run_policy(check, trees).await;
        let expected =
            format!(": SigBlk:0000000000000000NoNewPrivs:1 up {}", tag.strip_prefix("HALE_SERVICE=").unwrap());
        assert!(outcome.detail.ends_with(&expected), "{outcome:?} does not end with {expected}");
        assert_fails(&shell("kill -PIPE $$", LONG).await, ProbeFailure::Wrong, "was ended by SIGPIPE");
        let files = shell("cd /proc/self/fd; echo *", LONG).await;
        // 3 is the folder itself.
        assert!(files.detail.ends_with(": 0 1 2 3"), "{files:?}");
        assert_passes(&shell("! read line", LONG).await, "exited with status 0");
    }

    /// The hung check of kubernetes#51901 and containerd#4594; here it is a finding of its own.
    #[tokio::test]
    async fn a_hung_check_is_killed_whatever_it_ignores() {
        let outcome = shell("trap '' TERM INT HUP; echo $$; while :; do sleep 1000; done", SHORT).await;
        assert_fails(&outcome, ProbeFailure::Killed, "killed: it did not end within 200 ms: ");
        assert!(outcome.took_us >= 200_000, "{outcome:?}");
        assert_ends(&outcome);
        assert_no_children();
    }

    /// The orphaned children of probes in kubernetes#94080: here they end with the probe, also when they keep its
    /// output open, which would make a reader wait for ever.
    #[tokio::test]
    async fn a_child_left_behind_neither_delays_the_answer_nor_survives_it() {
        let outcome = shell("sleep 1000 & echo $!", LONG).await;
        assert_passes(&outcome, "exited with status 0");
        assert_ends(&outcome);
        let outcome = shell("setsid sleep 1000 & echo $!", LONG).await;
        assert_passes(&outcome, "exited with status 0");
        assert_ends(&outcome);
        let outcome = shell("setsid sleep 1000 & echo $!; wait", SHORT).await;
        assert_fails(&outcome, ProbeFailure::Killed, "killed: it did not end within 200 ms: ");
        assert_ends(&outcome);
    }

    #[tokio::test]
    async fn without_cgroups_they_are_found_by_their_variable() {
        for (script, timeout) in [("setsid sleep 1000 & echo $!", LONG), ("setsid sleep 1000 & echo $!; wait", SHORT)] {
            let outcome = run_policy(policy(command(&["sh", "-c", script]), timeout), trees_by_tags()).await;
            assert_eq!(outcome.failure.is_none(), timeout == LONG, "{outcome:?}");
            assert_ends(&outcome);
        }
    }

    #[tokio::test]
    async fn a_flood_of_output_costs_its_last_lines_only() {
        assert_fails(
            &run(command(&["yes"]), SHORT).await,
            ProbeFailure::Killed,
            "killed: it did not end within 200 ms: y",
        );
        let outcome = shell("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo done", LONG).await;
        assert!(outcome.failure.is_none() && outcome.detail.ends_with(": done"), "{outcome:?}");
        let outcome = shell("yes & echo left behind; exit 4", LONG).await;
        assert_fails(&outcome, ProbeFailure::Wrong, "exited with status 4: ");
        assert_no_children();
    }

    #[tokio::test]
    async fn nothing_stays_open() {
        // Of each its number and what it is. The directory that is being read is one of them, and only while it is read.
        let open = || -> BTreeSet<_> {
            let all = std::fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
            all.filter_map(|fd| Some((fd.clone(), std::fs::read_link(fd).ok()?)))
                .filter(|(_, of)| !of.starts_with("/proc"))
                .collect()
        };
        assert_passes(&shell("true", LONG).await, "");
        let before = open();
        for script in ["true", "exit 1", "sleep 1000 &", "no-such-command"] {
            shell(script, LONG).await;
        }
        shell("sleep 1000", Span::from_ms(20)).await;
        // What another thread had open for a moment before may be closed by now.
        let left: Vec<_> = open().difference(&before).cloned().collect();
        assert!(left.is_empty(), "{left:?}");
        assert_no_children();
    }

    #[test]
    fn a_check_whose_process_is_not_gone_is_not_begun_again() {
        let all = Arc::default();
        let key = |check: &str| (Name::try_from("bot").unwrap(), Name::try_from(check).unwrap());
        let busy = Busy::begin(&all, key("one")).unwrap();
        assert!(Busy::begin(&all, key("one")).is_none());
        assert!(Busy::begin(&all, key("two")).is_some());
        drop(busy);
        assert!(Busy::begin(&all, key("one")).is_some());
    }

    mod needs_root {
        use super::*;

        #[tokio::test]
        async fn it_runs_as_its_user_or_as_the_services() {
            let script = ["sh", "-c", "echo $(id -un) $(id -G)"];
            let nobody = crate::execute::user::lookup("nobody").unwrap();
            let groups = nobody.groups.iter().map(u32::to_string).collect::<Vec<_>>().join(" ");
            let expected = format!(": nobody {groups}");
            let mut service = policy(command(&script), LONG);
            service.user = Some("nobody".into());
            let outcome = run_policy(service.clone(), trees()).await;
            assert!(outcome.detail.ends_with(&expected), "{outcome:?}");
            let CheckKind::Exec { user, .. } = &mut service.checks[0].kind else { panic!() };
            *user = Some("root".into());
            assert!(run_policy(service, trees()).await.detail.contains(": root 0"));
        }
    }

    mod needs_redis {
        use super::*;
        use crate::monitor::probe::testing::{Foreign, free_port};
        use rustix::process::Signal;
        use std::process::Command;

        #[tokio::test]
        async fn redis_cli_sees_the_hang_that_a_connection_does_not() {
            let (dir, port) = (tempfile::tempdir().unwrap(), free_port().to_string());
            let mut server = Command::new("redis-server");
            server.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(dir.path());
            let (redis, _) = Foreign::start(&mut server, "Ready to accept connections");
            let ping = command(&["redis-cli", "-p", &port, "ping"]);
            let outcome = run(ping.clone(), LONG).await;
            assert!(outcome.failure.is_none() && outcome.detail.ends_with(": PONG"), "{outcome:?}");
            redis.signal(Signal::STOP);
            assert_fails(&run(ping, SHORT).await, ProbeFailure::Killed, "killed: it did not end within 200 ms");
        }
    }
}
