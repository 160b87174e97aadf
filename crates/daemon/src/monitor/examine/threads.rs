//! Threads: what each does, and those together that do the same.
//!
//! Formats: proc_pid_stat(5), proc_pid_wchan(5), proc_pid_syscall(5), <https://docs.kernel.org/filesystems/proc.html> (`stack`).

use super::{FILE_BYTES_MAX, THREADS_MAX, link};
use crate::execute::tree::Handle;
use crate::monitor::text::one_line;
use hale_core::examination::{Call, Doing, ThreadState};
use rustix::fs::{Dir, Mode, OFlags, openat};
use std::io::Read;

/// How many sorts of threads are kept: a program whose threads do more different things does not hang in one.
const DOING_MAX: usize = 16;

/// How many functions of the kernel are kept of one thread.
const STACK_MAX: usize = 16;

/// The longest name of a function that is kept, in bytes (`KSYM_NAME_LEN` is 512, and nearly all are shorter).
const NAME_BYTES_MAX: usize = 64;

/// The most that is read of one of these files, in bytes.
const SMALL_FILE_BYTES_MAX: u64 = 4_096;

/// All threads so far.
#[derive(Debug, Default)]
pub(super) struct Threads {
    count: usize,
    doing: Vec<Doing>,
}

impl Threads {
    /// Adds those of a process. `false`: not all.
    pub fn add(&mut self, handle: &Handle, is_over: impl Fn() -> bool) -> bool {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let Ok(tasks) = openat(handle.dir(), "task", flags, Mode::empty()).and_then(Dir::new) else { return false };
        for task in tasks.flatten() {
            let Some(tid) = task.file_name().to_str().ok().and_then(|name| name.parse::<i32>().ok()) else { continue };
            if self.count >= THREADS_MAX || is_over() {
                return false;
            }
            self.add_thread(handle, tid);
        }
        true
    }

    fn add_thread(&mut self, handle: &Handle, tid: i32) {
        let file = |name: &str| read(handle, &format!("task/{tid}/{name}"));
        // It may have ended.
        let Some((name, state)) = file("stat").as_deref().and_then(stat) else { return };
        self.count += 1;
        let wait_channel = file("wchan").filter(|wchan| !matches!(wchan.as_str(), "" | "0"));
        let wait_channel = wait_channel.map(|wchan| one_line(&wchan, NAME_BYTES_MAX));
        let mut call = file("syscall").as_deref().and_then(call);
        if let Some(call) = &mut call
            && let Some(fd) = call.fd
        {
            call.file = link(handle, &format!("fd/{fd}")).map(|file| one_line(&file, FILE_BYTES_MAX));
        }
        let (pid, stack) = (handle.pid(), Vec::new());
        let one = Doing { threads: 1, pid, tid, name, state, wait_channel, call, stack };
        // Only a descriptor tells one call of the same name from another: addresses and time-outs differ all the time.
        let key = |doing: &Doing| {
            let call = doing.call.as_ref().map(|call| (call.name.clone(), call.fd.map(|fd| (doing.pid, fd))));
            (doing.state, doing.wait_channel.clone(), call)
        };
        let own = key(&one);
        match self.doing.iter_mut().find(|doing| key(doing) == own) {
            Some(doing) => doing.threads += 1,
            None => {
                let stack = file("stack").map(|stack| functions(&stack)).unwrap_or_default();
                self.doing.push(Doing { stack, ..one });
            }
        }
    }

    /// How many there are, and what they do, most of them first.
    pub fn grouped(self) -> (u32, Vec<Doing>) {
        let Self { count, mut doing } = self;
        // Of those that are alone, who waits for something that has a name tells most.
        let is_named = |doing: &Doing| doing.call.as_ref().is_some_and(|call| call.fd.is_some());
        doing.sort_by_key(|doing| std::cmp::Reverse((doing.threads, is_named(doing))));
        doing.truncate(DOING_MAX);
        (u32::try_from(count).unwrap_or(u32::MAX), doing)
    }
}

fn read(handle: &Handle, path: &str) -> Option<String> {
    let file = openat(handle.dir(), path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut bytes = Vec::with_capacity(512);
    std::fs::File::from(file).take(SMALL_FILE_BYTES_MAX).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}

/// Name and state of `stat`: `pid (name) state …`, where the name may contain anything.
fn stat(text: &str) -> Option<(String, ThreadState)> {
    let (begin, rest) = text.rsplit_once(") ")?;
    let (_, name) = begin.split_once('(')?;
    let state = match rest.chars().next()? {
        'R' => ThreadState::Running,
        'S' | 'I' => ThreadState::Sleeping,
        'D' => ThreadState::Uninterruptible,
        'T' => ThreadState::Stopped,
        't' => ThreadState::Traced,
        'Z' | 'X' | 'x' => ThreadState::Dead,
        _ => ThreadState::Other,
    };
    Some((one_line(name, NAME_BYTES_MAX), state))
}

/// `number arguments… stack instruction`; `running`, or -1 where it is in none.
fn call(text: &str) -> Option<Call> {
    let mut words = text.split_ascii_whitespace();
    let number: usize = words.next()?.parse().ok()?;
    let mut arguments = [0; 6];
    for (argument, word) in arguments.iter_mut().zip(&mut words) {
        *argument = u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()?;
    }
    let name = syscalls::Sysno::new(number).map_or_else(|| number.to_string(), |call| call.name().to_owned());
    // A C `int`: the upper half means nothing.
    let fd = takes_descriptor(&name).then_some((arguments[0] as u32).cast_signed()).filter(|fd| *fd >= 0);
    Some(Call { name, arguments, fd, file: None })
}

/// Whether the first argument is the descriptor that a thread may have to wait for.
fn takes_descriptor(name: &str) -> bool {
    matches!(
        name,
        "read"
            | "pread64"
            | "readv"
            | "preadv"
            | "preadv2"
            | "write"
            | "pwrite64"
            | "writev"
            | "pwritev"
            | "pwritev2"
            | "recvfrom"
            | "recvmsg"
            | "recvmmsg"
            | "sendto"
            | "sendmsg"
            | "sendmmsg"
            | "connect"
            | "accept"
            | "accept4"
            | "fsync"
            | "fdatasync"
            | "sync_file_range"
            | "syncfs"
            | "fallocate"
            | "ftruncate"
            | "flock"
            | "fcntl"
            | "ioctl"
            | "getdents64"
            | "fstat"
            | "lseek"
            | "close"
            | "sendfile"
            | "splice"
    )
}

/// Lines of `stack`: `[<0>] function+0x1/0x2`.
fn functions(text: &str) -> Vec<String> {
    let function = |line: &str| {
        let (_, function) = line.split_once("] ")?;
        Some(one_line(function.split('+').next()?, NAME_BYTES_MAX))
    };
    text.lines().filter_map(function).take(STACK_MAX).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_the_kernel_are_read_whatever_a_thread_calls_itself() {
        assert_eq!(stat("7 (a) R) \u{1b}) D 1 2"), Some((String::from("a) R) \\u{1b}"), ThreadState::Uninterruptible)));
        assert_eq!(stat("7 (a"), None);
        assert_eq!(call("running"), None);
        assert_eq!(call("-1 0x7ffd 0x7f11"), None);
        let number = syscalls::Sysno::recvfrom.id();
        let read = call(&format!("{number} 0xffffffff00000005 0x10 0x1 0x0 0x0 0x0 0x7ffd 0x7f11")).unwrap();
        assert_eq!((read.name.as_str(), read.fd, read.arguments[1]), ("recvfrom", Some(5), 16));
        assert_eq!(call("99999 0x1 0x0 0x0 0x0 0x0 0x0 0x1 0x1").unwrap().name, "99999");
        let stack = "[<0>] futex_wait_queue+0x63/0x90\n[<0>] do_futex+0x1/0x2\n";
        assert_eq!(functions(stack), ["futex_wait_queue", "do_futex"]);
    }
}
