//! The hardware timer above the guardian: opened, verified, petted on time, and left alone only when the guardian may
//! and has a reason to: that resets the machine.

use crate::guardian::begin::hardware::Config;
use crate::guardian::run::Guardian;
use crate::protocol::text::Text;
use crate::protocol::timer::{Armed, TimerReport, TimerState, Trouble};
use crate::sys::child::LOW_FDS;
use crate::sys::watchdog::{ALARM_ONLY, MAGIC_CLOSE, PRETIMEOUT, Watchdog};
use rustix::fs::inotify::{self, WatchFlags};
use rustix::fs::{Mode, OFlags, fstat, major, minor, open};
use rustix::io::Errno;
use std::ffi::CStr;
use std::fmt::Write;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

/// How often within its time the timer is petted. Petted at a third, the guardian may be late by two thirds.
const PETS: u64 = 3;

/// Which part of its time before the reset the timer warns the kernel, where it can: a sixth leaves half of the time
/// between a pet that was missed and the warning, and 5 of 30 seconds for a kernel that panics on it to write why.
const WARNING_PART: u32 = 6;

/// How long after an event about the device it is tried, in milliseconds: the kernel tells of a close before it lets
/// the next process open the timer, and of a new name before its driver is complete.
const SETTLE_MS: u64 = 100;

/// The timer, if one is configured.
#[derive(Debug)]
pub(super) struct Hardware {
    pub config: Option<Config>,
    pub state: TimerState,
    pub timer: Option<Watchdog>,
    /// When it is petted next or, without a timer, tried again; `None`: not before an event.
    pub due_ms: Option<u64>,
    /// Tells of its device, while there is no timer.
    pub names: Option<OwnedFd>,
    /// Whether the supervisor must still be told.
    pub untold: bool,
    /// Whether the guardian may stop petting when it has a reason to: the supervisor's word, after it counted.
    pub may_reboot: bool,
    /// The supervisor wants the machine reset. Nothing takes that back.
    pub reboot: bool,
    /// Whether the supervisor proves no progress, and replacing it does not help.
    pub progress_lost: bool,
    /// The guardian's end will be in order, or nothing was ever supervised: the timer is stopped with it.
    pub orderly: bool,
}

impl Hardware {
    /// What the supervisor is to know, if a timer is configured.
    pub fn report(&self) -> Option<TimerReport> {
        let report = TimerReport { state: self.state, may_reboot: self.may_reboot, reboot: self.reboot };
        self.config.is_some().then_some(report)
    }

    /// A new supervisor knows nothing yet.
    pub fn retell(&mut self) {
        self.untold = self.config.is_some();
    }

    /// When [`on_time`](Self::on_time) has something to do.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.due_ms.filter(|_| !self.withholds())
    }

    /// Pets the timer, or tries to get it, when that is due.
    pub fn on_time(&mut self, now_ms: u64) {
        if self.deadline_ms().is_none_or(|due| now_ms < due) {
            return;
        }
        let (Some(timer), TimerState::Armed(armed)) = (&self.timer, self.state) else { return self.try_again(now_ms) };
        match timer.pet() {
            Ok(()) => self.due_ms = Some(now_ms + pause_ms(armed.timeout_s)),
            Err(errno) => {
                // Its driver is gone; should it come back, its device does.
                self.timer = None;
                self.due_ms = None;
                self.set(TimerState::Waiting(Trouble::Pet(number(errno))));
            }
        }
    }

    /// Something happened to a name beside the device, or to the device.
    pub fn on_names(&mut self, now_ms: u64) {
        let Some(names) = &self.names else { return };
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(names, &mut space);
        while let Ok(event) = events.next() {
            // Without a name it is about the device itself.
            let ours = |name: &CStr| self.config.as_ref().is_some_and(|config| name == &*config.name);
            if self.timer.is_none() && event.file_name().is_none_or(ours) {
                self.due_ms = Some(now_ms + SETTLE_MS);
            }
        }
    }

    /// The guardian ends. Whatever does not end in order leaves the timer running: whoever comes next has its time.
    pub fn end(&mut self) {
        let (Some(timer), TimerState::Armed(armed)) = (self.timer.take(), self.state) else { return };
        if !self.orderly || self.withholds() {
            return;
        }
        if armed.support.options & MAGIC_CLOSE != 0
            && let Err(errno) = timer.disarm()
        {
            Guardian::say(format_args!("the hardware timer could not be stopped, and resets the machine: {errno}"));
        } else if armed.nowayout {
            let seconds = armed.timeout_s;
            Guardian::say(format_args!(
                "the kernel does not stop the hardware timer (nowayout): it resets the machine in {seconds} s unless \
                 somebody else pets it"
            ));
        }
    }

    fn withholds(&self) -> bool {
        self.timer.is_some() && self.may_reboot && (self.reboot || self.progress_lost)
    }

    fn set(&mut self, state: TimerState) {
        self.untold |= self.state != state;
        self.state = state;
    }

    /// Tries to get the timer.
    pub fn try_again(&mut self, now_ms: u64) {
        self.due_ms = None;
        let Some(config) = &self.config else { return };
        let state = match Watchdog::open(&config.device, LOW_FDS) {
            Ok(timer) => match verify(&timer, config.timeout_s) {
                Ok(armed) => {
                    self.timer = Some(timer);
                    self.due_ms = Some(now_ms + pause_ms(armed.timeout_s));
                    TimerState::Armed(armed)
                }
                Err(trouble) => {
                    // As good as never opened, wherever it can be.
                    if timer.support().is_ok_and(|support| support.options & MAGIC_CLOSE != 0) {
                        let _ = timer.disarm();
                    }
                    TimerState::Refused(trouble)
                }
            },
            Err(Errno::NOENT | Errno::NXIO | Errno::NODEV) => TimerState::Waiting(Trouble::Missing),
            Err(Errno::BUSY) => {
                let flags = WatchFlags::CLOSE_WRITE | WatchFlags::ONESHOT;
                match self.names.as_ref().map(|names| inotify::add_watch(names, &*config.device, flags)) {
                    Some(Ok(_)) => TimerState::Waiting(Trouble::Busy),
                    Some(Err(_)) | None => TimerState::Refused(Trouble::Busy),
                }
            }
            Err(errno) => TimerState::Refused(Trouble::Open(number(errno))),
        };
        self.set(state);
    }
}

/// The time between two pets, in milliseconds.
fn pause_ms(timeout_s: u32) -> u64 {
    u64::from(timeout_s) * 1_000 / PETS
}

/// As it is told.
pub(super) fn number(errno: Errno) -> u32 {
    errno.raw_os_error().cast_unsigned()
}

/// Sets the timer, and finds out whether it is one that resets the machine after this time.
fn verify(timer: &Watchdog, timeout_s: u32) -> Result<Armed, Trouble> {
    let support = timer.support().map_err(|errno| Trouble::NotATimer(number(errno)))?;
    if support.options & ALARM_ONLY != 0 {
        return Err(Trouble::AlarmOnly);
    }
    timer.set_timeout(timeout_s).map_err(|errno| Trouble::SetTimeout(number(errno)))?;
    let in_force = timer.timeout().map_err(|errno| Trouble::SetTimeout(number(errno)))?;
    // Some count in steps: longer by less than a half is as good, shorter is not what was asked for.
    if in_force < timeout_s || in_force > timeout_s + timeout_s / 2 {
        return Err(Trouble::Timeout(in_force));
    }
    let mut pretimeout_s = 0;
    if support.options & PRETIMEOUT != 0 {
        // Best effort: what it would warn of comes all the same.
        let _ = timer.set_pretimeout(in_force / WARNING_PART);
        pretimeout_s = timer.pretimeout().unwrap_or(0);
    }
    timer.pet().map_err(|errno| Trouble::Pet(number(errno)))?;
    Ok(Armed {
        support,
        timeout_s: in_force,
        pretimeout_s,
        status: timer.status().unwrap_or(0),
        boot_status: timer.boot_status().unwrap_or(0),
        nowayout: is_nowayout(timer).unwrap_or(false),
    })
}

/// Whether the kernel refuses to stop it: `nowayout` of its class in sysfs
/// (Documentation/ABI/testing/sysfs-class-watchdog).
fn is_nowayout(timer: &Watchdog) -> Result<bool, Errno> {
    /// misc(4) and its minor number for `/dev/watchdog`, which is the timer `watchdog0` once more.
    const FIRST: (u32, u32) = (10, 130);
    let device = fstat(timer)?.st_rdev;
    let mut path = Text::<64>::new();
    // Neither fails: the longest path has 47 bytes.
    let _ = match (major(device), minor(device)) {
        FIRST => path.write_str("/sys/class/watchdog/watchdog0/nowayout"),
        (major, minor) => write!(path, "/sys/dev/char/{major}:{minor}/nowayout"),
    };
    let file = open(path.bytes(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let mut value = [0; 1];
    Ok(rustix::io::read(file, &mut value)? == 1 && value == *b"1")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::epoll;
    use std::ffi::OsStr;
    use std::path::{Path, PathBuf};

    fn epoll() -> OwnedFd {
        epoll::create(epoll::CreateFlags::CLOEXEC).unwrap()
    }

    fn hardware(device: &Path) -> (Hardware, OwnedFd) {
        let epoll = epoll();
        let config = Config::new(device.as_os_str(), OsStr::new("30"));
        assert!(config.is_some());
        (Hardware::start(config, &epoll, 1_000), epoll)
    }

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("watchdog");
        (dir, device)
    }

    fn has_event(epoll: &OwnedFd) -> bool {
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 1];
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        let (events, _) = epoll::wait(epoll, &mut space, Some(&timeout)).unwrap();
        !events.is_empty()
    }

    #[test]
    fn without_a_configuration_there_is_nothing_to_do_or_to_tell() {
        let mut hardware = Hardware::start(None, epoll(), 0);
        hardware.retell();
        assert_eq!((hardware.report(), hardware.deadline_ms(), hardware.untold), (None, None, false));
    }

    #[test]
    fn a_device_that_appears_later_is_waited_for_and_only_its_name_counts() {
        let (dir, device) = place();
        let (mut hardware, epoll) = hardware(&device);
        assert_eq!(hardware.state, TimerState::Waiting(Trouble::Missing));
        assert_eq!(hardware.deadline_ms(), None, "nothing is polled");
        std::fs::write(dir.path().join("other"), "").unwrap();
        assert!(has_event(&epoll));
        hardware.on_names(2_000);
        assert_eq!(hardware.deadline_ms(), None);
        std::fs::write(&device, "untouched").unwrap();
        assert!(has_event(&epoll));
        hardware.on_names(3_000);
        assert_eq!(hardware.deadline_ms(), Some(3_000 + SETTLE_MS));
        hardware.untold = false;
        hardware.on_time(3_000 + SETTLE_MS);
        let refused = TimerState::Refused(Trouble::NotATimer(number(Errno::NOTTY)));
        assert_eq!((hardware.state, hardware.untold, hardware.deadline_ms()), (refused, true, None));
        assert_eq!(std::fs::read(&device).unwrap(), b"untouched", "no magic close where it is not known to be one");
    }

    #[test]
    fn a_directory_that_cannot_be_watched_is_told() {
        let (hardware, _epoll) = hardware(Path::new("/nonexistent/watchdog"));
        assert_eq!(hardware.state, TimerState::Refused(Trouble::Watch(number(Errno::NOENT))));
    }

    #[test]
    fn petting_stops_only_with_both_keys() {
        let (_dir, device) = place();
        std::fs::write(&device, "").unwrap();
        for (may, ordered, lost, withholds) in [
            (false, true, true, false),
            (true, false, false, false),
            (true, true, false, true),
            (true, false, true, true),
        ] {
            let (mut hardware, _epoll) = hardware(&device);
            hardware.timer = Watchdog::open(&hardware.config.as_ref().unwrap().device, LOW_FDS).ok();
            hardware.due_ms = Some(5_000);
            hardware.may_reboot = may;
            hardware.progress_lost = lost;
            hardware.reboot = ordered;
            assert_eq!(hardware.deadline_ms(), (!withholds).then_some(5_000), "{may} {ordered} {lost}");
            hardware.progress_lost = false;
            assert_eq!(hardware.deadline_ms().is_none(), may && ordered, "what was lost may come back");
        }
    }
}
