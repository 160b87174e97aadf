//! What the guardian tells of the hardware timer: fixed bytes that it writes without allocating, words that the
//! supervisor makes of them.

use crate::guardian::wire::Reader;
use crate::sys::watchdog::{MAGIC_CLOSE, Support};
use hale_core::event::Event;
use hale_core::hardware::{ArmedTimer, Timer};
use hale_core::time::Span;
use std::fmt;
use std::io;

/// The timer as the guardian finds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimerState {
    /// It runs, and is petted.
    Armed(Armed),
    /// It cannot be used now, and is waited for.
    Waiting(Trouble),
    /// It cannot be used, and will not be tried again unless its device is made anew.
    Refused(Trouble),
}

/// What is known of a timer that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Armed {
    /// What it is and can do.
    pub support: Support,
    /// Its time in seconds, as read back.
    pub timeout_s: u32,
    /// How many seconds before the reset it warns the kernel; 0: never.
    pub pretimeout_s: u32,
    /// `WDIOC_GETSTATUS`; 0 also where the driver does not say.
    pub status: u32,
    /// `WDIOC_GETBOOTSTATUS`; 0 also where the driver does not say.
    pub boot_status: u32,
    /// Whether the kernel never stops it.
    pub nowayout: bool,
}

/// Why a timer cannot be used. Numbers beside are errno(3) where nothing else is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trouble {
    /// There is no such device.
    Missing,
    /// Another process has it.
    Busy,
    /// It cannot be opened.
    Open(u32),
    /// It does not answer as a timer does.
    NotATimer(u32),
    /// It resets nothing.
    AlarmOnly,
    /// Its time cannot be set.
    SetTimeout(u32),
    /// Its time, read back in seconds, is another one than what was set.
    Timeout(u32),
    /// It cannot be petted.
    Pet(u32),
    /// Its directory cannot be watched.
    Watch(u32),
}

impl Trouble {
    fn parts(self) -> (u8, u32) {
        match self {
            Self::Missing => (0, 0),
            Self::Busy => (1, 0),
            Self::Open(errno) => (2, errno),
            Self::NotATimer(errno) => (3, errno),
            Self::AlarmOnly => (4, 0),
            Self::SetTimeout(errno) => (5, errno),
            Self::Timeout(seconds) => (6, seconds),
            Self::Pet(errno) => (7, errno),
            Self::Watch(errno) => (8, errno),
        }
    }

    fn from_parts(kind: u8, number: u32) -> Option<Self> {
        Some(match kind {
            0 => Self::Missing,
            1 => Self::Busy,
            2 => Self::Open(number),
            3 => Self::NotATimer(number),
            4 => Self::AlarmOnly,
            5 => Self::SetTimeout(number),
            6 => Self::Timeout(number),
            7 => Self::Pet(number),
            8 => Self::Watch(number),
            _ => return None,
        })
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = |errno: u32| io::Error::from_raw_os_error(errno.cast_signed());
        match *self {
            Self::Missing => f.write_str("there is no such device; its driver may not be loaded yet"),
            Self::Busy => f.write_str(
                "another process has it, probably systemd (RuntimeWatchdogSec=): then systemd pets it, and must watch Hale \
                 in turn (WatchdogSec= in Hale's unit)",
            ),
            Self::Open(errno) => write!(f, "it cannot be opened: {}", error(errno)),
            Self::NotATimer(errno) => write!(f, "it does not say what it is, as timers do: {}", error(errno)),
            Self::AlarmOnly => f.write_str("it raises an alarm somewhere and resets nothing"),
            Self::SetTimeout(errno) => write!(f, "its time cannot be set: {}", error(errno)),
            Self::Timeout(seconds) => write!(f, "it took the time that was set for {seconds} s"),
            Self::Pet(errno) => write!(f, "it cannot be petted: {}", error(errno)),
            Self::Watch(errno) => write!(f, "nothing tells when it is there: {}", error(errno)),
        }
    }
}

/// What the supervisor is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimerReport {
    /// The timer.
    pub state: TimerState,
    /// Whether the guardian may stop petting it.
    pub may_reboot: bool,
    /// Whether it has been ordered to.
    pub reboot: bool,
}

impl TimerReport {
    /// How many bytes [`write`](Self::write) gives.
    pub(crate) const BYTES: usize = 55;

    /// As bytes: kind and two flags, trouble or numbers, identity.
    pub(crate) fn write(&self) -> [u8; Self::BYTES] {
        let mut out = [0; Self::BYTES];
        out[1] = u8::from(self.may_reboot) | u8::from(self.reboot) << 1;
        match self.state {
            TimerState::Armed(armed) => {
                out[2] = u8::from(armed.nowayout);
                let numbers =
                    [armed.support.options, armed.timeout_s, armed.pretimeout_s, armed.status, armed.boot_status];
                for (number, room) in numbers.iter().zip(out[3..23].chunks_exact_mut(4)) {
                    room.copy_from_slice(&number.to_le_bytes());
                }
                out[23..].copy_from_slice(&armed.support.identity);
            }
            TimerState::Waiting(trouble) | TimerState::Refused(trouble) => {
                let (kind, number) = trouble.parts();
                out[0] = if matches!(self.state, TimerState::Waiting(_)) { 1 } else { 2 };
                out[2] = kind;
                out[3..7].copy_from_slice(&number.to_le_bytes());
            }
        }
        out
    }

    /// Reads what [`write`](Self::write) wrote; `None` when it is something else.
    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let (kind, flags, detail) = (reader.u8()?, reader.u8()?, reader.u8()?);
        let mut number = || reader.u32();
        let [options, timeout_s, pretimeout_s, status, boot_status] =
            [number()?, number()?, number()?, number()?, number()?];
        let (identity, rest) = reader.0.split_first_chunk()?;
        reader.0 = rest;
        let state = match kind {
            0 => TimerState::Armed(Armed {
                support: Support { options, firmware_version: 0, identity: *identity },
                timeout_s,
                pretimeout_s,
                status,
                boot_status,
                nowayout: detail != 0,
            }),
            1 => TimerState::Waiting(Trouble::from_parts(detail, options)?),
            2 => TimerState::Refused(Trouble::from_parts(detail, options)?),
            _ => return None,
        };
        Some(Self { state, may_reboot: flags & 1 != 0, reboot: flags & 2 != 0 })
    }

    /// As the core is told.
    pub(crate) fn event(&self) -> Event {
        Event::HardwareTimer { timer: self.timer(), may_reboot: self.may_reboot, reboot: self.reboot }
    }

    /// In the core's words.
    fn timer(&self) -> Timer {
        match self.state {
            TimerState::Waiting(trouble) => Timer::Waiting { why: trouble.to_string() },
            TimerState::Refused(trouble) => Timer::Refused { why: trouble.to_string() },
            TimerState::Armed(armed) => {
                let name = armed.support.identity.split(|&byte| byte == 0).next().unwrap_or_default();
                Timer::Armed(ArmedTimer {
                    identity: String::from_utf8_lossy(name).escape_debug().collect(),
                    timeout: Span::from_secs(armed.timeout_s.into()),
                    pretimeout: Span::from_secs(armed.pretimeout_s.into()),
                    status: armed.status,
                    boot_status: armed.boot_status,
                    outlives_guardian: armed.nowayout || armed.support.options & MAGIC_CLOSE != 0,
                    nowayout: armed.nowayout,
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read_as_it_was_written() {
        let support = Support {
            options: 0x8180,
            firmware_version: 0,
            identity: *b"i6300ESB timer\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let armed =
            Armed { support, timeout_s: 30, pretimeout_s: 5, status: 0x8000, boot_status: 0x20, nowayout: true };
        let mut states = vec![TimerState::Armed(armed)];
        for kind in 0..=8 {
            let trouble = Trouble::from_parts(kind, if [0, 1, 4].contains(&kind) { 0 } else { 13 }).unwrap();
            states.extend([TimerState::Waiting(trouble), TimerState::Refused(trouble)]);
        }
        for state in states {
            for (may_reboot, reboot) in [(false, true), (true, false)] {
                let report = TimerReport { state, may_reboot, reboot };
                let bytes = report.write();
                let mut reader = Reader(&bytes);
                assert_eq!(TimerReport::read(&mut reader), Some(report));
                assert_eq!(reader.end(), Some(()));
            }
        }
        let Timer::Armed(timer) =
            (TimerReport { state: TimerState::Armed(armed), may_reboot: false, reboot: false }).timer()
        else {
            panic!("it is armed");
        };
        assert_eq!((timer.identity.as_str(), timer.timeout), ("i6300ESB timer", Span::from_secs(30)));
    }
}
