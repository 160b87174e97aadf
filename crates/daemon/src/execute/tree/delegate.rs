//! Controllers: which limits the kernel can enforce for services, and how Hale gets it to.
//!
//! A group with processes in it cannot hand controllers down ("no internal processes", cgroups(7)), so Hale's own move
//! into a leaf first:
//!
//! ```text
//! hale.service            given by systemd (Delegate=yes), or where Hale was started; hands down memory, pids, cpu
//! ├── hale-self           guardian, supervisor, keeper
//! └── hale-<instance>     hands them down to
//!     ├── bot             memory.max, pids.max, cpu.weight
//!     └── _probes/...
//! ```

use super::cgroup::{Group, Unusable};
use rustix::io::Errno;
use std::fmt;
use std::io;
use std::path::Path;

/// The leaf of Hale's own processes; a unit for systemd 254 or later names it in `DelegateSubgroup=`.
pub const SELF: &str = "hale-self";

/// Something that the kernel can limit or count for a group, and the key that asks for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Controller {
    /// `memory`, for `memory_limit`.
    Memory,
    /// `pids`, for `tasks_limit`.
    Tasks,
    /// `cpu`, for `cpu_weight`.
    Cpu,
}

impl Controller {
    /// All that Hale uses.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Tasks, Self::Cpu];

    /// Its name in `cgroup.controllers`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Tasks => "pids",
            Self::Cpu => "cpu",
        }
    }

    /// The key of the configuration that needs it.
    #[must_use]
    pub fn key(self) -> &'static str {
        match self {
            Self::Memory => "memory_limit",
            Self::Tasks => "tasks_limit",
            Self::Cpu => "cpu_weight",
        }
    }

    /// Whether `list`, a `cgroup.controllers` or `cgroup.subtree_control`, has it.
    #[must_use]
    pub fn is_in(self, list: &str) -> bool {
        list.split_ascii_whitespace().any(|name| name == self.name())
    }
}

/// A controller that services cannot have here, and why.
#[derive(Debug)]
pub struct Lacking {
    /// Which.
    pub controller: Controller,
    /// Why not.
    pub why: Why,
}

/// Why services cannot have a controller.
#[derive(Debug)]
pub enum Why {
    /// There is no cgroup v2 to use at all; its reason is told elsewhere.
    NoCgroup,
    /// The group that Hale was started in does not have it.
    NotGiven {
        /// As in proc_pid_cgroup(5).
        group: String,
    },
    /// The group has it and other processes than Hale's, so that it cannot hand it down.
    Shared {
        /// As in proc_pid_cgroup(5).
        group: String,
    },
    /// The kernel refuses.
    Refused {
        /// As in proc_pid_cgroup(5).
        group: String,
        /// Its answer.
        source: io::Error,
    },
}

/// What is missing and how to mend it, to follow "because".
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCgroup => f.write_str("there is no cgroup v2 to use"),
            Self::NotGiven { group } if group == "/" => f.write_str("cgroup v2 does not have it here"),
            Self::NotGiven { group } => {
                write!(
                    f,
                    "the cgroup {group} that Hale was started in does not have it (as a systemd unit, set Delegate=yes)"
                )
            }
            Self::Shared { group } => write!(
                f,
                "other processes than Hale's are in its cgroup {group}, which therefore cannot hand it down \
                 (start Hale in one of its own, as by `systemd-run -p Delegate=yes hale run`)"
            ),
            Self::Refused { group, source } => write!(f, "the kernel refuses it for the cgroup {group}: {source}"),
        }
    }
}

/// Moves this process, which is to become the guardian and has no children yet, into the leaf, where that lets its
/// group hand controllers down. Without controllers, with other processes in the group, and in the root of the
/// hierarchy, which may have both, it stays where it is.
///
/// # Errors
///
/// The group cannot be found or divided: services run without limits then, as [`super::Trees::lacking`] says.
pub fn settle() -> Result<(), Unusable> {
    let (own, place) = Group::own()?;
    let refused = |what, source| Unusable::Refused { what, path: place.clone(), source };
    let has = own.read("cgroup.controllers").map_err(|source| refused("cannot read the controllers of", source))?;
    if own.is_root() || own.is_named(SELF) || !Controller::ALL.iter().any(|controller| controller.is_in(&has)) {
        return Ok(());
    }
    let here = own.processes_here("").map_err(|source| refused("cannot list the processes in", source))?;
    if here != [std::process::id().cast_signed()] {
        return Ok(());
    }
    let leaf = own.child(SELF).map_err(|source| refused("cannot make a group below", source))?;
    // 0: whoever writes (cgroups(7)).
    leaf.write("cgroup.procs", "0").map_err(|source| refused("cannot move into a group below", source))
}

/// The controllers that no group can have that this process can see, whatever it is given. `None`: there is no cgroup
/// v2, or none that shows where this process is.
#[must_use]
pub fn host_lacks() -> Option<Vec<Controller>> {
    let (_, place) = Group::own().ok()?;
    let list = |place: &Path| std::fs::read_to_string(place.join("cgroup.controllers")).ok();
    // The highest that can be seen.
    let list = place.ancestors().map_while(list).last()?;
    Some(Controller::ALL.into_iter().filter(|controller| !controller.is_in(&list)).collect())
}

/// The controllers that the services of a running Hale cannot have, and why, as far as its group shows. `None`: there is
/// no such process, or its group cannot be seen.
#[must_use]
pub fn lacking_under(guardian: i32) -> Option<Vec<Lacking>> {
    let groups = std::fs::read_to_string(format!("/proc/{guardian}/cgroup")).ok()?;
    let own = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let home = own.strip_suffix(SELF).map_or(own, |home| if home == "/" { home } else { home.trim_end_matches('/') });
    let home = Group::at(home)?;
    let lists = ["cgroup.controllers", "cgroup.subtree_control"].map(|file| home.read(file).unwrap_or_default());
    Some(Controller::ALL.into_iter().filter_map(|controller| lacks(controller, &lists, home.path())).collect())
}

/// What a group with these controllers, of which it hands these down, keeps from its services.
fn lacks(controller: Controller, [has, hands_down]: &[String; 2], group: &str) -> Option<Lacking> {
    let group = group.to_owned();
    let why = match (controller.is_in(has), controller.is_in(hands_down)) {
        (true, true) => return None,
        (false, _) => Why::NotGiven { group },
        (true, false) => Why::Shared { group },
    };
    Some(Lacking { controller, why })
}

/// Has `home` hand controllers down to `group`, and that to the services in it, as far as the kernel lets them.
/// Returns those that the services cannot have.
pub(super) fn hand_down(home: &Group, group: &Group) -> Vec<Lacking> {
    let lacking = |controller: Controller| {
        [home, group]
            .into_iter()
            .find_map(|from| hand_down_one(from, controller))
            .map(|why| Lacking { controller, why })
    };
    Controller::ALL.into_iter().filter_map(lacking).collect()
}

fn hand_down_one(from: &Group, controller: Controller) -> Option<Why> {
    let group = || from.path().to_owned();
    let has = |file| from.read(file).is_ok_and(|list| controller.is_in(&list));
    if has("cgroup.subtree_control") {
        return None;
    }
    if !has("cgroup.controllers") {
        return Some(Why::NotGiven { group: group() });
    }
    match from.write("cgroup.subtree_control", &format!("+{}", controller.name())) {
        Ok(()) => None,
        Err(error) if error.raw_os_error() == Some(Errno::BUSY.raw_os_error()) => Some(Why::Shared { group: group() }),
        Err(source) => Some(Why::Refused { group: group(), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn controllers_are_found_by_their_whole_name() {
        assert!(Controller::Cpu.is_in("cpuset cpu io memory pids\n"));
        assert!(!Controller::Cpu.is_in("cpuset io\n"));
        assert!(!Controller::Memory.is_in(""));
    }

    #[test]
    fn what_a_group_does_not_hand_down_is_told_from_what_it_does_not_have() {
        let lists = ["cpu memory\n".into(), "memory\n".into()];
        let why = |controller| lacks(controller, &lists, "/a").map(|lacking| lacking.why);
        assert!(why(Controller::Memory).is_none());
        assert!(matches!(why(Controller::Cpu), Some(Why::Shared { .. })));
        assert!(matches!(why(Controller::Tasks), Some(Why::NotGiven { group }) if group == "/a"));
    }

    #[test]
    fn a_reason_says_how_to_mend_it() {
        let shared = Why::Shared { group: "/user.slice".into() }.to_string();
        assert!(shared.contains("/user.slice") && shared.contains("systemd-run"), "{shared}");
        let not_given = Why::NotGiven { group: "/system.slice/hale.service".into() }.to_string();
        assert!(not_given.contains("Delegate=yes"), "{not_given}");
    }

    mod needs_cgroup2 {
        use super::super::*;
        use crate::execute::tree::{Kind, Trees, instance};

        /// Back to where the test was started, whatever becomes of it.
        struct Back(Group, String);

        impl Drop for Back {
            fn drop(&mut self) {
                let _ = self.0.write("cgroup.procs", "0");
                let _ = self.0.remove_child(&self.1);
            }
        }

        #[test]
        fn from_the_leaf_groups_are_made_beside_it() {
            let (own, place) = Group::own().unwrap();
            let name = format!("hale-test-leaf-{}", std::process::id());
            let unit = own.child(&name).unwrap();
            let leaf = unit.child(SELF).unwrap();
            let back = Back(own, name);
            leaf.write("cgroup.procs", "0").unwrap();
            settle().unwrap();
            assert!(Group::own().unwrap().0.path().ends_with(&format!("/{}/{SELF}", back.1)), "it moved once more");
            let trees = Trees::open(&instance(Path::new(&back.1)));
            let Kind::Cgroup2 { path } = trees.kind() else { panic!("{:?}", trees.kind()) };
            assert_eq!(path.parent(), Some(place.join(&back.1).as_path()));
            trees.close().unwrap();
            drop(back);
            assert!(!place.join(format!("hale-test-leaf-{}", std::process::id())).exists());
        }
    }
}
