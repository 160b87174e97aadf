//! A thread that takes only what nobody else wants of processors and disks (sched(7), ioprio_set(2)).

use std::io;

/// linux/ioprio.h: one thread, and the class that is served when no other waits; how far within it means nothing there.
const IOPRIO_WHO_PROCESS: libc::c_int = 1;
const IOPRIO_CLASS_IDLE: libc::c_int = 3 << 13;

/// Makes the calling thread one of those, for good. Both are tried, whatever becomes of the other. The class of its reads counts where the
/// disk's scheduler knows classes (`bfq`, `mq-deadline`).
///
/// # Errors
///
/// Those of the first call that is refused: a sandbox may refuse either.
pub fn become_idle() -> io::Result<()> {
    // The kernel's `struct sched_param` is this one number (linux/sched/types.h); the libraries' differ from each other.
    let priority: libc::c_int = 0;
    // SAFETY: the pointer is to a number of this frame, which the call reads and does not keep; 0 is the calling thread. Not by the
    // library's function, which musl does not have.
    let processor = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const priority) };
    let processor = told(processor);
    // SAFETY: the call takes three numbers; 0 is the calling thread.
    let disk = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_CLASS_IDLE) };
    let disk = told(disk);
    processor.and(disk)
}

fn told(code: libc::c_long) -> io::Result<()> {
    if code < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thread_and_no_other_is_idle() {
        // SAFETY: the calls take numbers alone; 0 is the calling thread.
        let own = || unsafe {
            let processor = libc::syscall(libc::SYS_sched_getscheduler, 0);
            (processor, libc::syscall(libc::SYS_ioprio_get, IOPRIO_WHO_PROCESS, 0))
        };
        let idle = (libc::c_long::from(libc::SCHED_IDLE), libc::c_long::from(IOPRIO_CLASS_IDLE));
        let of_other = std::thread::spawn(move || {
            become_idle().unwrap();
            own()
        });
        assert_eq!(of_other.join().unwrap(), idle);
        assert_ne!(own(), idle);
    }
}
