//! The hardware timer that is configured, looked for the first time.

use crate::guardian::hardware::{Hardware, number};
use crate::guardian::run::Token;
use crate::protocol::timer::{TimerState, Trouble};
use crate::sys::fds::high;
use rustix::event::epoll::{self, EventFlags};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::io::Errno;
use std::ffi::{CString, OsStr};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// What to use, from the configuration.
#[derive(Debug)]
pub(in crate::guardian) struct Config {
    pub device: CString,
    pub directory: CString,
    pub name: CString,
    pub timeout_s: u32,
}

impl Config {
    /// From the guardian's arguments; `None` when there is no device, or they are none.
    pub fn new(device: &OsStr, timeout_s: &OsStr) -> Option<Self> {
        let path = Path::new(device);
        let text = |text: &OsStr| CString::new(text.as_bytes()).ok();
        Some(Self {
            device: text(device)?,
            directory: text(path.parent()?.as_os_str())?,
            name: text(path.file_name()?)?,
            timeout_s: timeout_s.to_str()?.parse().ok()?,
        })
    }
}

impl Hardware {
    /// Looks for the timer that is configured.
    pub fn start(config: Option<Config>, epoll: impl AsFd, now_ms: u64) -> Self {
        let mut hardware = Self {
            untold: config.is_some(),
            config,
            state: TimerState::Waiting(Trouble::Missing),
            timer: None,
            due_ms: None,
            names: None,
            may_reboot: false,
            reboot: false,
            progress_lost: false,
            orderly: false,
        };
        if hardware.config.is_some() {
            // Watched before it is tried, so that no name that appears in between is missed.
            let watched = hardware.watch_names(epoll);
            hardware.try_again(now_ms);
            if let (Err(errno), TimerState::Waiting(_)) = (watched, hardware.state) {
                hardware.state = TimerState::Refused(Trouble::Watch(number(errno)));
            }
        }
        hardware
    }

    /// Has the kernel tell of new names beside the device.
    fn watch_names(&mut self, epoll: impl AsFd) -> Result<(), Errno> {
        let Some(config) = &self.config else { return Ok(()) };
        let names = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?;
        let names = high(names)?;
        let flags = WatchFlags::CREATE | WatchFlags::MOVED_TO | WatchFlags::ONLYDIR;
        inotify::add_watch(&names, &*config.directory, flags)?;
        epoll::add(epoll, &names, Token::Hardware.data(), EventFlags::IN)?;
        self.names = Some(names);
        Ok(())
    }
}
