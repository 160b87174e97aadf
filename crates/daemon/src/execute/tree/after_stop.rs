//! `hale after-stop`, the unit's `ExecStopPost=`: what has to be done about the unit's cgroup once its main process has ended.
//!
//! systemd runs it in `.control` below the group of a unit that has `Delegate=yes`, because that group itself may hand
//! controllers down by then (src/core/execute.c, `exec_parameters_get_cgroup_path`).

use super::cgroup::{self, Group};
use super::delegate::SELF;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use std::io;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Where systemd runs commands of the unit beside its main process.
const CONTROL: &str = ".control";

/// The exit status of a main process that systemd could not put into its group (`EXIT_CGROUP`, systemd.exec(5)).
const EXIT_CGROUP: &str = "219";

/// How long the end of what is killed is awaited. They get SIGKILL, so this is the time of the kernel.
const END_WITHIN: Duration = Duration::from_secs(5);

/// How long one group's end is waited for before it is looked at again, in nanoseconds: its events also come when it is
/// not empty yet.
const LOOK_AGAIN_NS: i64 = 100_000_000;

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Duty {
    /// The next main process cannot be started beside the services: the controllers are taken back until it is.
    TakeBack,
    /// A stop was not over in time, so that systemd killed the guardian, or hit a guardian that had not begun to take
    /// signals yet: with `KillMode=process` services are left.
    End,
    /// Hale has ended in order, or the next guardian goes on with what is there.
    Nothing,
}

impl Duty {
    /// From `$SERVICE_RESULT`, `$EXIT_CODE` and `$EXIT_STATUS` (systemd.exec(5)).
    fn from_systemd(result: &str, code: &str, status: &str) -> Self {
        match (result, code, status) {
            (_, "exited", EXIT_CGROUP) => Self::TakeBack,
            ("timeout", _, _) | (_, "killed", "TERM") => Self::End,
            _ => Self::Nothing,
        }
    }
}

/// Does what systemd's variables say. Exit code 1: it could not be done; the reason is printed.
#[must_use]
pub fn main() -> ExitCode {
    let variable = |name| std::env::var(name).unwrap_or_default();
    let duty = Duty::from_systemd(&variable("SERVICE_RESULT"), &variable("EXIT_CODE"), &variable("EXIT_STATUS"));
    match duty.carry_out() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hale: after the end of the unit's main process ({duty:?}): {error}");
            ExitCode::FAILURE
        }
    }
}

impl Duty {
    fn carry_out(self) -> io::Result<()> {
        match self {
            Self::Nothing => Ok(()),
            Self::TakeBack => {
                eprintln!("hale: takes the controllers of its services back, so that systemd can start it beside them");
                take_back(&unit()?)
            }
            Self::End => {
                eprintln!("hale: the guardian could not stop its services; ends what is left of them");
                end(&unit()?)
            }
        }
    }
}

/// The unit's group, seen from `.control`.
fn unit() -> io::Result<Group> {
    let (own, _) = Group::own().map_err(io::Error::other)?;
    let above = own.path().strip_suffix(CONTROL).and_then(|path| path.strip_suffix('/'));
    let unit = above.filter(|path| !path.is_empty()).and_then(Group::at);
    unit.ok_or_else(|| io::Error::other(format!("systemd has not started it: {} is no {CONTROL}", own.path())))
}

/// Whether a group below the unit's own is one that Hale has made: the leaf of its own processes, or one of services.
fn is_ours(name: &str) -> bool {
    let digits = |rest: &str| rest.len() == 8 && rest.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    name == SELF || name.strip_prefix("hale-").is_some_and(digits)
}

/// Has all of Hale's groups and the unit's own hand no controller down, the lowest first: a group cannot be deprived of what
/// it hands down itself. Limits are gone until the next supervisor sets them.
fn take_back(unit: &Group) -> io::Result<()> {
    let names = unit.children()?;
    for group in names.iter().filter(|name| is_ours(name)) {
        for below in unit.existing_child(group)?.subgroups()?.iter().rev() {
            let path = if below.is_empty() { group.clone() } else { format!("{group}/{below}") };
            keep_back(unit, &format!("{path}/"))?;
        }
    }
    keep_back(unit, "")
}

/// Has the group at `path`, empty or with a slash at its end, hand no controller down.
fn keep_back(unit: &Group, path: &str) -> io::Result<()> {
    let file = format!("{path}cgroup.subtree_control");
    let listed = match unit.read(&file) {
        // It went away meanwhile.
        Err(error) if cgroup::is_gone(&error) => return Ok(()),
        listed => listed?,
    };
    let text: Vec<String> = listed.split_ascii_whitespace().map(|name| format!("-{name}")).collect();
    if text.is_empty() {
        return Ok(());
    }
    unit.write(&file, &text.join(" ")).map_err(|error| {
        io::Error::new(error.kind(), format!("cannot take {} back from {}/{path}: {error}", listed.trim(), unit.path()))
    })
}

/// Kills everything in Hale's groups, and removes them.
fn end(unit: &Group) -> io::Result<()> {
    let until = Instant::now() + END_WITHIN;
    for name in unit.children()?.iter().filter(|name| is_ours(name)) {
        let group = unit.existing_child(name)?;
        let events = group.events()?;
        while cgroup::is_populated(&events)? {
            // Not by `cgroup.kill`: systemd may start the next one in the very group (docs/decisions/0008).
            group.each(|handle| handle.send(Signal::KILL).map(drop))?;
            if Instant::now() >= until {
                return Err(io::Error::other(format!("processes in {} survive SIGKILL", group.path())));
            }
            let within = Timespec { tv_sec: 0, tv_nsec: LOOK_AGAIN_NS };
            poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&within))?;
        }
        unit.remove_child(name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_start_that_systemd_refused_and_a_stop_that_took_too_long_are_acted_upon() {
        for (told, duty) in [
            (("exit-code", "exited", "219"), Duty::TakeBack),
            (("timeout", "killed", "KILL"), Duty::End),
            (("timeout", "exited", "0"), Duty::End),
            (("success", "killed", "TERM"), Duty::End),
            (("success", "exited", "0"), Duty::Nothing),
            (("signal", "killed", "KILL"), Duty::Nothing),
            (("watchdog", "dumped", "ABRT"), Duty::Nothing),
            (("exit-code", "exited", "1"), Duty::Nothing),
            (("", "", ""), Duty::Nothing),
        ] {
            assert_eq!(Duty::from_systemd(told.0, told.1, told.2), duty, "{told:?}");
        }
    }

    #[test]
    fn no_other_groups_are_taken_for_hales() {
        assert!(is_ours(SELF) && is_ours("hale-0123abcd"));
        for other in ["hale-", "hale-0123abc", "hale-0123abcde", "hale-0123ABCD", "web", ".control", "hale-test-leaf"] {
            assert!(!is_ours(other), "{other}");
        }
    }

    mod needs_cgroup2 {
        use super::super::*;
        use std::process::{Child, Command};

        /// A process in the group, whose directory is at `place`.
        fn sleep_in(place: &std::path::Path) -> Child {
            let script = format!("echo $$ >{}/cgroup.procs && exec sleep 1000", place.display());
            let child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
            while !std::fs::read_to_string(place.join("cgroup.procs")).unwrap().contains(&child.id().to_string()) {
                std::thread::yield_now();
            }
            child
        }

        #[test]
        fn what_a_stop_has_left_is_ended_and_nothing_else() {
            let (own, place) = Group::own().unwrap();
            let name = format!("hale-test-after-stop-{}", std::process::id());
            let unit = own.child(&name).unwrap();
            let ours = ["hale-self", "hale-0123abcd/web/worker"];
            let groups = [ours[0], ours[1], ".control", "other"].map(|group| place.join(&name).join(group));
            groups.iter().for_each(|group| std::fs::create_dir_all(group).unwrap());
            let mut children = groups.each_ref().map(|group| sleep_in(group));
            end(&unit).unwrap();
            for (group, child) in groups.iter().zip(&mut children) {
                let is_ours = ours.iter().any(|own| group.ends_with(own));
                assert_eq!(child.try_wait().unwrap().is_some(), is_ours, "{}", group.display());
                assert_eq!(group.exists(), !is_ours, "{}", group.display());
                let _ = child.kill();
                child.wait().unwrap();
            }
            own.remove_child(&name).unwrap();
        }

        #[test]
        fn what_systemd_has_not_started_does_nothing() {
            let refused = unit().unwrap_err().to_string();
            assert!(refused.contains("systemd has not started it"), "{refused}");
        }
    }
}
