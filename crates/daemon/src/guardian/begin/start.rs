//! From the command line to a guardian that needs no further memory.

use crate::guardian::begin::adopt::{self, Beginning, KEEPER_FDS, Left};
use crate::guardian::begin::hardware::Config;
use crate::guardian::begin::init::{self, Init};
use crate::guardian::begin::launch::{END, LEAVE};
use crate::guardian::begin::lock::{lock, lock_and_tell};
use crate::guardian::end::Phase;
use crate::guardian::hardware::Hardware;
use crate::guardian::helper::Helper;
use crate::guardian::programs::Programs;
use crate::guardian::run::{Guardian, Token};
use crate::guardian::slots::Slots;
use crate::guardian::store::Store;
use crate::guardian::systemd::{Kept, Systemd};
use crate::guardian::wait::now_ms;
use crate::protocol::{MAX_GROUPS, MAX_ORDER_BYTES, MAX_SERVICES, MAX_STRINGS};
use crate::sys::child::PointerSpace;
use crate::sys::fds::{self, close_on_exec_from, has_close_range, take_inherited};
use crate::sys::packet;
use crate::sys::pidfd::tells_exits;
use crate::sys::signals::SignalFd;
use rustix::event::epoll;
use rustix::fs::{MemfdFlags, Mode, OFlags, memfd_create, open};
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Resource, Rlimit, getpid, getrlimit, set_child_subreaper, setrlimit};
use rustix::rand::{GetRandomFlags, getrandom};
use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// Why the guardian could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Called by hand.
    #[error("`hale guardian` is what `hale run` becomes: start that")]
    Usage,
    /// Another Hale is there.
    #[error("{} is in use by another Hale{}: stop that one, or give this one a directory of its own",
        .directory.display(), .holder.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    Busy {
        /// The directory that is locked.
        directory: PathBuf,
        /// Who holds it, if known.
        holder: Option<u32>,
    },
    /// A directory could not be made or locked.
    #[error("{} cannot be used: {source}", .directory.display())]
    Directory {
        /// Which.
        directory: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The kernel refused something that every start needs.
    #[error("the guardian could not start: {what}: {source}")]
    Kernel {
        /// What was tried.
        what: &'static str,
        /// Why it failed.
        source: io::Error,
    },
}

impl StartError {
    /// The exit code for it: 2 usage, 7 busy, 1 otherwise.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::Busy { .. } => 7,
            Self::Directory { .. } | Self::Kernel { .. } => 1,
        }
    }
}

/// The guardian's name in a list of processes.
pub(in crate::guardian) const NAME: &CStr = c"hale-guardian";

/// Reserves everything, takes the locks, starts supervisor and keeper. `args` is what [`launch`] gave.
///
/// [`launch`]: super::launch::launch
///
/// # Errors
///
/// As listed; nothing was started then.
pub fn prepare(args: impl IntoIterator<Item = OsString>) -> Result<Guardian, StartError> {
    fn kernel<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> StartError {
        move |error| StartError::Kernel { what, source: error.into() }
    }
    let mut args = args.into_iter();
    let (Some(exe), Some(runtime_dir), Some(state_dir)) = (args.next(), args.next(), args.next()) else {
        return Err(StartError::Usage);
    };
    let (Some(device), Some(timeout_s), Some(as_init)) = (args.next(), args.next(), args.next()) else {
        return Err(StartError::Usage);
    };
    let exe: RawFd = exe.to_str().and_then(|text| text.parse().ok()).ok_or(StartError::Usage)?;
    let supervisor_args: Vec<OsString> = args.collect();

    close_on_exec_from(3);
    let open_files = getrlimit(Resource::Nofile);
    // Best effort: without it, fewer services fit.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: open_files.maximum, maximum: open_files.maximum });
    let (beginning, left) = (adopt::beginning(), Left::take());
    let (beginning, left) = match (beginning, left) {
        (Some(beginning), Some(left)) => (beginning, Some(left)),
        _ => {
            let given = [&runtime_dir, &state_dir, &device, &timeout_s, &as_init].into_iter().cloned();
            (Beginning { name: name(), args: given.chain(supervisor_args.iter().cloned()).collect() }, None)
        }
    };
    // The standard library has opened 0, 1 and 2 if they were closed, so no pipe can land there.
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).map_err(kernel("/dev/null"))?;
    rustix::stdio::dup2_stdin(&null).map_err(kernel("standard input"))?;
    let exe = high(take_inherited(exe).map_err(|_| StartError::Usage)?)?;
    // Best effort: only for people who look at the list of processes.
    let _ = rustix::thread::set_name(NAME);
    let locks = [high(lock_and_tell(runtime_dir.as_ref())?)?, high(lock(state_dir.as_ref())?)?];

    let init = Init::take(init::from_word(&as_init));
    let signal_fd = SignalFd::take(init.signals()).map_err(kernel("signalfd"))?;
    set_child_subreaper(Some(getpid())).map_err(kernel("becoming the parent of orphans"))?;
    let oom_score_adj = lower_oom_score();
    // Best effort: needs a right (CAP_IPC_LOCK) or a limit that is high enough.
    let _ = mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT);

    let mut systemd = Systemd::connect(now_ms()).unwrap_or_else(|error| {
        // Not told: it kills this process once its time for a start is over, and says so.
        eprintln!("hale: NOTIFY_SOCKET cannot be reached: {error}; systemd is not told that Hale runs");
        None
    });
    let (shared, left) = match left {
        Some(Left { keepers, rest }) => (keepers, Some(rest)),
        None => (shared_by_helpers()?, None),
    };
    if let Some(systemd) = systemd.as_mut().filter(|_| left.is_none()) {
        systemd.keep_first(Kept::Beginning, high(beginning.write().map_err(kernel("memory file"))?)?);
        for (index, fd) in (0..).zip(&shared) {
            systemd.keep_first(Kept::Keepers(index), high(fd)?);
        }
    }
    let has_next = systemd.as_ref().is_some_and(|systemd| systemd.keeps);
    let without_guardian = if has_next { LEAVE } else { END };
    let programs = Programs {
        exe,
        null: high(null)?,
        shared,
        dies_with: has_next.then(getpid),
        environment: environment(),
        supervisor_argv: [c"hale".into(), c"supervisor".into(), beginning.name, without_guardian.into()]
            .into_iter()
            .map(Ok)
            .chain(supervisor_args.into_iter().map(|arg| CString::new(arg.into_vec()).map_err(|_| StartError::Usage)))
            .collect::<Result<_, _>>()?,
        keeper_argv: vec![c"hale".into(), c"keeper".into()],
    };
    if programs.supervisor_argv.len() > MAX_STRINGS || programs.environment.len() > MAX_STRINGS {
        return Err(StartError::Usage);
    }
    let epoll = high(epoll::create(epoll::CreateFlags::CLOEXEC).map_err(kernel("epoll"))?)?;
    let mut guardian = Guardian {
        hardware: Hardware::start(Config::new(&device, &timeout_s), &epoll, now_ms()),
        epoll,
        init,
        signal_fd,
        programs,
        slots: Slots::new(MAX_SERVICES),
        supervisor: Helper::default(),
        lost: None,
        hung: None,
        store: Store::new(),
        tells_exits: left.is_some() && tells_exits(),
        systemd,
        end_alone_ms: None,
        end_wanted: false,
        keeper: Helper::default(),
        stuck_keeper: None,
        _locks: locks,
        can_leave_high_fds: has_close_range(),
        open_files,
        oom_score_adj,
        message: vec![0; MAX_ORDER_BYTES],
        // One more for LISTEN_PID.
        pointers: [PointerSpace::new(MAX_STRINGS), PointerSpace::new(MAX_STRINGS + 1)],
        groups: Vec::with_capacity(MAX_GROUPS),
        crowded: false,
        signals: [None; 3],
        untold_keeper: false,
        untold_lost: false,
        refusal: None,
        phase: Phase::Running,
    };
    epoll::add(&guardian.epoll, guardian.signal_fd.as_fd(), Token::Signals.data(), epoll::EventFlags::IN)
        .map_err(kernel("epoll"))?;
    if let Some(left) = left {
        left.restore(&mut guardian);
    }
    guardian.tell_systemd();
    guardian.start_keeper();
    guardian.start_supervisor().map_err(kernel("starting the supervisor"))?;
    Ok(guardian)
}

/// Both ends of the socket between supervisor and keeper, and a keeper's staging.
fn shared_by_helpers() -> Result<[OwnedFd; KEEPER_FDS], StartError> {
    let failed = |error: io::Error| StartError::Kernel { what: "socket, pipe and memory file", source: error };
    let (supervisors_keeper, keepers_supervisor) = packet::pair().map_err(failed)?;
    let (staging_read, staging_write) = pipe_with(PipeFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    let staged_slot = memfd_create("hale-staged-slot", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
    Ok([
        high(supervisors_keeper)?,
        high(keepers_supervisor)?,
        high(staging_read)?,
        high(staging_write)?,
        high(staged_slot)?,
    ])
}

/// Moves a descriptor out of the range that children copy.
fn high(fd: impl AsFd) -> Result<OwnedFd, StartError> {
    fds::high(fd).map_err(|errno| StartError::Kernel { what: "file descriptors", source: errno.into() })
}

/// Makes this process the last one that the kernel kills for memory; gives what children get back, `None` when
/// nothing was changed.
fn lower_oom_score() -> Option<Vec<u8>> {
    const PATH: &str = "/proc/self/oom_score_adj";
    let original = std::fs::read(PATH).ok()?;
    std::fs::write(PATH, "-1000").ok()?;
    Some(original)
}

/// A name that no other guardian has: what its supervisors leave is taken over under the same one only.
fn name() -> CString {
    let mut bytes = [0; 16];
    let drawn = getrandom(&mut bytes, GetRandomFlags::empty()).unwrap_or(0);
    if drawn < bytes.len() {
        // Without randomness: the time since boot, which no other start has.
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        bytes[..8].copy_from_slice(&now.tv_sec.to_le_bytes());
        bytes[8..].copy_from_slice(&now.tv_nsec.to_le_bytes());
    }
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    CString::new(hex).unwrap_or_default()
}

/// Of supervisor and keeper: without what systemd means for this process alone (systemd.exec(5)).
fn environment() -> Vec<CString> {
    const OWN: [&str; 7] =
        ["NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "FDSTORE"];
    let pair = |(name, value): (OsString, OsString)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat());
    std::env::vars_os()
        .filter(|(name, _)| !OWN.iter().any(|own| name == own))
        .map(pair)
        .filter_map(Result::ok)
        .collect()
}
