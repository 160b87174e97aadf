//! The supervisor's orders to the guardian.

use crate::protocol::wire::{List, Reader, Take, wire};
use crate::protocol::{Slot, StoreKey};
use hale_core::descriptor::STORED_MAX;
use hale_core::ids::Epoch;
use hale_core::policy::LISTEN_MAX;
use std::ffi::{CStr, CString};
use std::os::fd::BorrowedFd;

/// The longest order, in bytes, arguments and environment included. It must fit into the smallest send buffer that
/// kernels give by default (212,992 bytes) and is what Linux allows for a single argument (`MAX_ARG_STRLEN`).
pub const MAX_ORDER_BYTES: usize = 128 * 1024;

/// How many arguments, and how many variables, one order may have: beyond what a configuration holds that a person
/// wrote, and 32 KiB of pointers each.
pub const MAX_STRINGS: usize = 4096;

/// How many supplementary groups one order may have: the kernel's 65,536 (`NGROUPS_MAX`) would be 256 KiB of
/// memory for something that has tens.
pub const MAX_GROUPS: usize = 1024;

/// How many kept descriptors one order may pass on: below the room that a child has for them ([`LOW_FDS`](crate::sys::child::LOW_FDS)).
pub const MAX_PASSED: usize = LISTEN_MAX + STORED_MAX;

/// An order; `S` is the [`SpawnOrder`] that is written, or the [`Spawn`] that is read: borrowed from the message, nothing copied.
#[derive(Debug)]
pub(crate) enum Order<S> {
    Spawn(S),
    Ack {
        slot: Slot,
        epoch: Epoch,
    },
    Release {
        slot: Slot,
    },
    ShutdownDone {
        exit_code: u8,
    },
    /// Whether it may stop petting the hardware timer when it has a reason to.
    MayReboot {
        allowed: bool,
    },
    /// A reason to, for good.
    Reboot,
    Prove {
        nonce: u64,
    },
    Store {
        key: StoreKey,
    },
    Unstore {
        key: StoreKey,
    },
    /// Nothing but to close what came along: whoever waits for that knows that everything before it was read.
    Close,
}

wire!(enum Order<S> where S {
    1 => Spawn(spawn),
    2 => Ack { slot, epoch },
    3 => Release { slot },
    4 => ShutdownDone { exit_code },
    5 => Prove { nonce },
    6 => Store { key },
    7 => Unstore { key },
    8 => Close,
    32 => MayReboot { allowed },
    33 => Reboot,
});

/// Whom a service runs as. `None` in an order: as Hale does, with Hale's groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Identity<G> {
    /// Real, effective and saved user id.
    pub uid: u32,
    /// Real, effective and saved group id.
    pub gid: u32,
    /// All supplementary groups; at most [`MAX_GROUPS`].
    pub groups: G,
}

wire!(struct Identity<G> where G { uid, gid, groups });

/// Everything that is needed to start one process. Nothing is looked up or searched by the guardian.
///
/// What no order can change: a new session, empty signal mask, default signal handlers, `/dev/null` as input, the
/// slot's pipe as output and error output, no other descriptor than those of the store, `no_new_privs`, and the `oom_score_adj` that Hale
/// itself was started with.
#[derive(Debug, Clone, Copy)]
pub struct SpawnOrder<'a> {
    /// Where the guardian keeps it.
    pub slot: Slot,
    /// The process's number; above the slot's last one.
    pub epoch: Epoch,
    /// The file to execute: an absolute path, or one relative to `directory`. No search.
    pub program: &'a CStr,
    /// The arguments, from argv\[0\] on.
    pub argv: &'a [CString],
    /// The whole environment, as `NAME=value`.
    pub environment: &'a [CString],
    /// The working directory, entered as the service's user.
    pub directory: &'a CStr,
    /// Whom it runs as.
    pub identity: Option<Identity<&'a [u32]>>,
    /// Its umask (umask(2)).
    pub umask: u32,
    /// Soft and hard `RLIMIT_NOFILE`; `None`: what Hale was started with.
    pub open_files_limit: Option<u64>,
    /// Its cgroup's directory (cgroup v2; `O_PATH` is enough): it is born in it.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// What it gets of the guardian's store, from descriptor 3 on, in this order; at most [`MAX_PASSED`]. With any,
    /// `LISTEN_PID` is added to its environment.
    pub passed: &'a [StoreKey],
}

wire!(put SpawnOrder<'_> {
    slot, epoch, program, argv, environment, directory, identity, umask, open_files_limit, cgroup, passed
});

/// A [`SpawnOrder`] on the guardian's side.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    pub slot: Slot,
    pub epoch: Epoch,
    pub program: &'a CStr,
    pub argv: List<'a, &'a CStr, MAX_STRINGS>,
    pub environment: List<'a, &'a CStr, MAX_STRINGS>,
    pub directory: &'a CStr,
    pub identity: Option<Identity<List<'a, u32, MAX_GROUPS>>>,
    pub umask: u32,
    pub open_files_limit: Option<u64>,
    /// Whether its cgroup was sent with it.
    pub cgroup: bool,
    pub passed: List<'a, StoreKey, MAX_PASSED>,
}

wire!(take Spawn<'a> {
    slot, epoch, program, argv, environment, directory, identity, umask, open_files_limit, cgroup, passed
});

/// The slot and epoch that a message names, if it is long enough: to answer even an order that is unreadable.
pub(crate) fn read_address(message: &[u8]) -> (Slot, Epoch) {
    let mut reader = Reader::new(message.get(1..).unwrap_or_default());
    (Slot::take(&mut reader).unwrap_or(Slot(u32::MAX)), Epoch::take(&mut reader).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::wire::{Put, read};

    fn example(argv: &[CString], environment: &[CString]) -> Vec<u8> {
        let mut bytes = Vec::new();
        let order = SpawnOrder {
            slot: Slot(7),
            epoch: Epoch(3),
            program: c"/bin/bot",
            argv,
            environment,
            directory: c"/srv",
            identity: Some(Identity { uid: 1000, gid: 1001, groups: &[4, 24] }),
            umask: 0o022,
            open_files_limit: Some(1024),
            cgroup: None,
            passed: &[StoreKey::Listen(Slot(7), 0), StoreKey::Listen(Slot(7), 1)],
        };
        Order::Spawn(order).put(&mut bytes).unwrap();
        bytes
    }

    fn read_order(message: &[u8]) -> Option<Order<Spawn<'_>>> {
        read(message, None)
    }

    #[test]
    fn a_spawn_order_arrives_as_it_was_sent() {
        let bytes = example(&[c"bot".into(), c"--port".into(), c"".into()], &[c"LANG=C".into()]);
        let Some(Order::Spawn(spawn)) = read_order(&bytes) else { panic!("not a spawn order") };
        assert_eq!((spawn.slot, spawn.epoch, spawn.umask), (Slot(7), Epoch(3), 0o022));
        assert_eq!((spawn.open_files_limit, spawn.cgroup), (Some(1024), false));
        let identity = spawn.identity.unwrap();
        assert_eq!((identity.uid, identity.gid), (1000, 1001));
        assert_eq!(identity.groups.iter().collect::<Vec<_>>(), [4, 24]);
        assert_eq!((spawn.program, spawn.directory), (c"/bin/bot", c"/srv"));
        assert_eq!(spawn.argv.iter().collect::<Vec<_>>(), [c"bot", c"--port", c""]);
        assert_eq!(spawn.environment.iter().collect::<Vec<_>>(), [c"LANG=C"]);
        assert_eq!(spawn.passed.iter().collect::<Vec<_>>(), [0, 1].map(|index| StoreKey::Listen(Slot(7), index)));
    }

    #[test]
    fn a_cut_or_padded_order_is_refused_and_never_panics() {
        let mut bytes = example(&[c"bot".into()], &[c"LANG=C".into()]);
        for end in 0..bytes.len() {
            assert!(read_order(&bytes[..end]).is_none(), "cut at {end}");
        }
        assert_eq!(read_address(&bytes), (Slot(7), Epoch(3)));
        bytes.push(0);
        assert!(read_order(&bytes).is_none());
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0xff;
            let _ = read_order(&broken);
        }
    }
}
