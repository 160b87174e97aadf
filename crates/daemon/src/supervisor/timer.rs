//! The hardware timer in words, for the core.

use crate::protocol::timer::{TimerReport, TimerState, Trouble};
use crate::sys::watchdog::MAGIC_CLOSE;
use hale_core::event::Event;
use hale_core::hardware::{ArmedTimer, Timer};
use hale_core::time::Span;
use std::fmt;
use std::io;

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

impl TimerReport {
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
    use crate::protocol::timer::examples;

    #[test]
    fn a_timers_name_ends_where_its_bytes_do() {
        let Some(Timer::Armed(timer)) = examples().next().map(|report| report.timer()) else { panic!("it is armed") };
        assert_eq!((timer.identity.as_str(), timer.timeout), ("i6300ESB timer", Span::from_secs(30)));
    }
}
