//! The kernel's interface to hardware timers (linux/watchdog.h, Documentation/watchdog/watchdog-api.rst).

use rustix::fs::{Mode, OFlags, open};
use rustix::io::{Errno, fcntl_dupfd_cloexec};
use rustix::ioctl::{Getter, Ioctl, NoArg, Opcode, Updater, ioctl, opcode};
use std::ffi::{CStr, c_int};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};

/// `WATCHDOG_IOCTL_BASE`.
const BASE: u8 = b'W';
const GETSUPPORT: Opcode = opcode::read::<Support>(BASE, 0);
const GETSTATUS: Opcode = opcode::read::<c_int>(BASE, 1);
const GETBOOTSTATUS: Opcode = opcode::read::<c_int>(BASE, 2);
const KEEPALIVE: Opcode = opcode::read::<c_int>(BASE, 5);
const SETTIMEOUT: Opcode = opcode::read_write::<c_int>(BASE, 6);
const GETTIMEOUT: Opcode = opcode::read::<c_int>(BASE, 7);
const SETPRETIMEOUT: Opcode = opcode::read_write::<c_int>(BASE, 8);
const GETPRETIMEOUT: Opcode = opcode::read::<c_int>(BASE, 9);

/// `WDIOF_CARDRESET`, in a boot status: the timer reset the machine.
pub const CARD_RESET: u32 = 0x20;
/// `WDIOF_SETTIMEOUT`, an option: its time can be set.
pub const SET_TIMEOUT: u32 = 0x80;
/// `WDIOF_MAGICCLOSE`, an option: closing it stops it only after a `V` was written.
pub const MAGIC_CLOSE: u32 = 0x100;
/// `WDIOF_PRETIMEOUT`, an option: it can warn the kernel some time before the reset.
pub const PRETIMEOUT: u32 = 0x200;
/// `WDIOF_ALARMONLY`, an option: it raises an alarm somewhere and resets nothing.
pub const ALARM_ONLY: u32 = 0x400;
/// `WDIOF_KEEPALIVEPING`, an option: it can be petted by ioctl(2).
pub const KEEPALIVE_PING: u32 = 0x8000;

/// `struct watchdog_info`: what a timer is and can do.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Support {
    /// Of the constants above.
    pub options: u32,
    /// Version of the card's firmware; 0 for most.
    pub firmware_version: u32,
    /// The driver's name for it, padded with NULs.
    pub identity: [u8; 32],
}

/// An open timer: it runs from the opening on. Dropping it leaves it running, where it has [`MAGIC_CLOSE`]: only
/// [`disarm`](Self::disarm) stops it.
#[derive(Debug)]
pub struct Watchdog(OwnedFd);

impl Watchdog {
    /// Opens the device, as a descriptor at or above `at_least`.
    ///
    /// # Errors
    ///
    /// `ENOENT`, `ENXIO` or `ENODEV`: there is none (yet). `EBUSY`: another process has it, and only one can.
    pub fn open(path: &CStr, at_least: RawFd) -> Result<Self, Errno> {
        // NONBLOCK: what is no device at all must not hold up whoever asks.
        let fd = open(path, OFlags::WRONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty())?;
        fcntl_dupfd_cloexec(&fd, at_least).map(Self)
    }

    /// What it is and can do.
    ///
    /// # Errors
    ///
    /// `ENOTTY`: this is no timer.
    pub fn support(&self) -> Result<Support, Errno> {
        // SAFETY: this ioctl fills a `struct watchdog_info`, whose fields are all plain numbers.
        unsafe { self.control(Getter::<GETSUPPORT, Support>::new()) }
    }

    /// What it says of the present, of the flags above.
    ///
    /// # Errors
    ///
    /// Its driver's.
    pub fn status(&self) -> Result<u32, Errno> {
        self.number::<GETSTATUS>()
    }

    /// What it says of the boot: [`CARD_RESET`] when it caused it.
    ///
    /// # Errors
    ///
    /// Its driver's.
    pub fn boot_status(&self) -> Result<u32, Errno> {
        self.number::<GETBOOTSTATUS>()
    }

    /// Pets it: from now on the whole time is left.
    ///
    /// # Errors
    ///
    /// `ENODEV`: its driver is gone. `EOPNOTSUPP`: it cannot be petted so.
    pub fn pet(&self) -> Result<(), Errno> {
        // SAFETY: this ioctl ignores its argument (watchdog_ioctl in drivers/watchdog/watchdog_dev.c).
        unsafe { self.control(NoArg::<KEEPALIVE>::new()) }
    }

    /// Sets its time in seconds; gives what the driver made of it.
    ///
    /// # Errors
    ///
    /// `EINVAL`: out of its range. `EOPNOTSUPP`: it has one time only.
    pub fn set_timeout(&self, seconds: u32) -> Result<u32, Errno> {
        self.set_number::<SETTIMEOUT>(seconds)
    }

    /// Its time in seconds.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: it does not tell.
    pub fn timeout(&self) -> Result<u32, Errno> {
        self.number::<GETTIMEOUT>()
    }

    /// Sets how many seconds before the reset it warns the kernel; 0: never. Gives what the driver made of it.
    ///
    /// # Errors
    ///
    /// `EINVAL`: not below its time. `EOPNOTSUPP`: it cannot warn.
    pub fn set_pretimeout(&self, seconds: u32) -> Result<u32, Errno> {
        self.set_number::<SETPRETIMEOUT>(seconds)
    }

    /// How many seconds before the reset it warns the kernel.
    ///
    /// # Errors
    ///
    /// `EOPNOTSUPP`: it cannot warn.
    pub fn pretimeout(&self) -> Result<u32, Errno> {
        self.number::<GETPRETIMEOUT>()
    }

    /// Stops it, by the magic close that [`MAGIC_CLOSE`] is about. (The kernel goes on all the same when it was told
    /// so: nowayout.)
    ///
    /// # Errors
    ///
    /// It could not be written to, and runs on.
    pub fn disarm(self) -> Result<(), Errno> {
        rustix::io::write(&self.0, b"V").map(|_| ())
    }

    fn number<const OPCODE: Opcode>(&self) -> Result<u32, Errno> {
        // SAFETY: the ioctls with which this is called fill one int.
        let number: c_int = unsafe { self.control(Getter::<OPCODE, c_int>::new())? };
        Ok(number.cast_unsigned())
    }

    fn set_number<const OPCODE: Opcode>(&self, number: u32) -> Result<u32, Errno> {
        let mut number = c_int::try_from(number).map_err(|_| Errno::INVAL)?;
        // SAFETY: the ioctls with which this is called read one int, and write one there.
        unsafe { self.control(Updater::<OPCODE, c_int>::new(&mut number))? };
        Ok(number.cast_unsigned())
    }

    /// # Safety
    ///
    /// As of [`ioctl`]: what `request` says of its argument must be true for a timer.
    unsafe fn control<I: Ioctl>(&self, request: I) -> Result<I::Output, Errno> {
        // SAFETY: by this function's own contract. For what is no timer the number means something else at worst to
        // drivers whose numbers have the letter W too (Documentation/userspace-api/ioctl/ioctl-number.rst), and the
        // kernel checks all that it writes to memory.
        unsafe { ioctl(&self.0, request) }
    }
}

impl AsFd for Watchdog {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_linux_watchdog_h() {
        // As a C compiler prints the macros on x86-64 and arm64.
        let numbers =
            [GETSUPPORT, GETSTATUS, GETBOOTSTATUS, KEEPALIVE, SETTIMEOUT, GETTIMEOUT, SETPRETIMEOUT, GETPRETIMEOUT];
        let wanted: [Opcode; 8] =
            [0x8028_5700, 0x8004_5701, 0x8004_5702, 0x8004_5705, 0xc004_5706, 0x8004_5707, 0xc004_5708, 0x8004_5709];
        assert_eq!(numbers, wanted);
    }

    #[test]
    fn what_is_no_timer_is_found_out_without_harm() {
        let null = Watchdog::open(c"/dev/null", 64).unwrap();
        assert_eq!(null.support(), Err(Errno::NOTTY));
        assert_eq!(null.pet(), Err(Errno::NOTTY));
        assert_eq!(null.set_timeout(30), Err(Errno::NOTTY));
        assert_eq!(Watchdog::open(c"/nonexistent/watchdog", 64).err(), Some(Errno::NOENT));
    }
}
