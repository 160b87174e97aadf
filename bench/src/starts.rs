//! The driver's end of the agents' FIFO: who runs with which pid, and when each started.

use hale_bench::{STAMP_BYTES, Stamp, nanoseconds};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, kill_process};
use rustix::time::{ClockId, clock_gettime};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::time::Duration;

/// The present time of the clock that the agents' stamps use, in nanoseconds.
pub fn now_ns() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// The starts of the agents of one supervisor.
pub struct Starts {
    fifo: File,
    /// The last start of each agent, by index.
    last: Vec<Option<Stamp>>,
}

impl Starts {
    /// Makes the FIFO at `path` for `count` agents.
    pub fn new(path: &Path, count: u32) -> Result<Self, String> {
        let failed = |e: &dyn std::fmt::Display| format!("cannot make {}: {e}", path.display());
        rustix::fs::mkfifoat(rustix::fs::CWD, path, rustix::fs::Mode::RWXU).map_err(|e| failed(&e))?;
        // Open for both: reading never ends because no agent has it open just now (fifo(7)).
        let fifo = File::options().read(true).write(true).open(path).map_err(|e| failed(&e))?;
        // Room for the starts of all agents, so that none waits for the driver. A machine that refuses only makes
        // agents wait after they took their time.
        let _ = rustix::pipe::fcntl_setpipe_size(&fifo, 1 << 20);
        Ok(Self { fifo, last: vec![None; count as usize] })
    }

    /// The pid of the agent's last start.
    pub fn pid(&self, index: u32) -> Result<u32, String> {
        self.last[index as usize].map(|stamp| stamp.pid).ok_or_else(|| format!("agent {index} never started"))
    }

    /// Sends `signal` to the agent; the time just before, in nanoseconds.
    pub fn signal(&self, index: u32, signal: Signal) -> Result<u64, String> {
        let raw = self.pid(index)?;
        let pid = i32::try_from(raw).ok().and_then(Pid::from_raw).ok_or_else(|| format!("{raw} is no pid"))?;
        let before = now_ns();
        kill_process(pid, signal).map_err(|e| format!("cannot signal pid {raw}: {e}"))?;
        Ok(before)
    }

    /// The next start of any agent, or `None` if none comes until `deadline_ns`.
    pub fn next(&mut self, deadline_ns: u64) -> Result<Option<Stamp>, String> {
        loop {
            let left = Duration::from_nanos(deadline_ns.saturating_sub(now_ns()));
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = rustix::time::Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match poll(&mut [PollFd::new(&self.fifo, PollFlags::IN)], Some(&timeout)) {
                Ok(0) => return Ok(None),
                Ok(_) => return self.read().map(Some),
                Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(format!("cannot wait for agents: {e}")),
            }
        }
    }

    fn read(&mut self) -> Result<Stamp, String> {
        let mut bytes = [0; STAMP_BYTES];
        self.fifo.read_exact(&mut bytes).map_err(|e| format!("cannot read what agents wrote: {e}"))?;
        let stamp = Stamp::from_bytes(bytes);
        let slot = self.last.get_mut(stamp.index as usize).ok_or_else(|| format!("no agent {}", stamp.index))?;
        *slot = Some(stamp);
        Ok(stamp)
    }

    /// Waits until each agent of `indices` has started after `since_ns`; the latest of these starts, or `None` if one
    /// is still missing after `within`.
    pub fn all_after(&mut self, indices: &[u32], since_ns: u64, within: Duration) -> Result<Option<u64>, String> {
        let deadline = now_ns() + u64::try_from(within.as_nanos()).unwrap_or(u64::MAX);
        let mut missing: std::collections::BTreeSet<u32> = indices.iter().copied().collect();
        let mut latest = since_ns;
        while !missing.is_empty() {
            let Some(stamp) = self.next(deadline)? else { return Ok(None) };
            if stamp.at_ns > since_ns && missing.remove(&stamp.index) {
                latest = latest.max(stamp.at_ns);
            }
        }
        Ok(Some(latest))
    }

    /// Takes SIGKILL to what still runs of the agents: the floor leaves its ones behind.
    pub fn kill_leftovers(&self, agent: &Path) {
        for (index, stamp) in (0..).zip(&self.last) {
            let Some(stamp) = stamp else { continue };
            let is_ours = std::fs::read_link(format!("/proc/{}/exe", stamp.pid)).is_ok_and(|exe| exe == agent);
            if is_ours && let Err(message) = self.signal(index, Signal::KILL) {
                eprintln!("{message}");
            }
        }
    }
}
