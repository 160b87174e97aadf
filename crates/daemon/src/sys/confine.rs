//! Programs that are run as somebody else, in a session of their own.

use super::child::enter;
use rustix::fs::Mode;
use rustix::thread::{Gid, Uid};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Has the program begin a session and go into this cgroup, become this user with these groups, give up new privileges for ever
/// (prctl(2)), and keep what it makes from being written to by others (umask(2)). What a change of user undoes, as
/// [`super::parent::dies_with_this_thread`], comes after it.
///
/// # Errors
/// There is no descriptor left.
pub fn confine(
    command: &mut Command,
    cgroup: Option<BorrowedFd<'_>>,
    identity: Option<(u32, u32, &[u32])>,
) -> io::Result<()> {
    let cgroup = cgroup.map(|cgroup| cgroup.try_clone_to_owned()).transpose()?;
    let identity = identity.map(|(uid, gid, groups)| {
        let groups: Vec<Gid> = groups.iter().copied().map(Gid::from_raw).collect();
        (Uid::from_raw(uid), Gid::from_raw(gid), groups)
    });
    let in_child = move || {
        rustix::process::setsid()?;
        if let Some(cgroup) = &cgroup {
            enter(cgroup.as_fd())?;
        }
        if let Some((uid, gid, groups)) = &identity {
            rustix::thread::set_thread_groups(groups)?;
            rustix::thread::set_thread_res_gid(*gid, *gid, *gid)?;
            rustix::thread::set_thread_res_uid(*uid, *uid, *uid)?;
        }
        rustix::thread::set_no_new_privs(true)?;
        rustix::process::umask(Mode::from_raw_mode(0o022));
        Ok(())
    };
    // SAFETY: between fork and exec `in_child` makes system calls with what was made before, and errors from numbers: it allocates
    // nothing and takes no lock.
    unsafe { command.pre_exec(in_child) };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_has_a_session_and_no_new_privileges() {
        let mut command = Command::new("sh");
        command.args(["-c", "umask; grep NoNewPrivs /proc/self/status; cut -d' ' -f1,6 /proc/$$/stat"]);
        confine(&mut command, None, None).unwrap();
        let output = command.output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[..2], ["0022", "NoNewPrivs:\t1"], "{text}");
        let (pid, session) = lines[2].split_once(' ').unwrap();
        assert_eq!(pid, session);
    }
}
