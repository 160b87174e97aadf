//! What the guardian tells of the hardware timer: numbers, of which the supervisor makes words.

use crate::protocol::wire::wire;
use crate::sys::watchdog::Support;

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

wire!(struct TimerReport { state, may_reboot, reboot });
wire!(enum TimerState { 0 => Armed(armed), 1 => Waiting(trouble), 2 => Refused(trouble) });
wire!(struct Armed { support, timeout_s, pretimeout_s, status, boot_status, nowayout });
wire!(struct Support { options, firmware_version, identity });
wire!(enum Trouble {
    0 => Missing,
    1 => Busy,
    2 => Open(errno),
    3 => NotATimer(errno),
    4 => AlarmOnly,
    5 => SetTimeout(errno),
    6 => Timeout(seconds),
    7 => Pet(errno),
    8 => Watch(errno),
});

/// Some of each kind.
#[cfg(test)]
pub(crate) fn examples() -> impl Iterator<Item = TimerReport> {
    let identity = *b"i6300ESB timer\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let support = Support { options: 0x8180, firmware_version: 0, identity };
    let armed = Armed { support, timeout_s: 30, pretimeout_s: 5, status: 0x8000, boot_status: 0x20, nowayout: true };
    let states =
        [TimerState::Armed(armed), TimerState::Waiting(Trouble::Busy), TimerState::Refused(Trouble::Watch(13))];
    let keys = [(false, true), (true, false)];
    states.into_iter().zip(keys.into_iter().cycle()).map(|(state, (may_reboot, reboot))| TimerReport {
        state,
        may_reboot,
        reboot,
    })
}
