//! The supervisors that are measured: how each is told to keep a number of agents alive, and how it is stopped.

use crate::starts::{Starts, now_ns};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// How long a supervisor may take to stop its agents; then it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(60);

/// Who is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A plain loop of spawn and wait: [`crate::floor`].
    Floor,
    /// Hale.
    Hale,
    /// runit's runsvdir, one runsv for each agent.
    Runit,
    /// s6-svscan, one s6-supervise for each agent, told when the agent is ready: without that it always waits a second.
    S6,
    /// monit: [`crate::checkers`].
    Monit,
    /// supervisord with superlance's httpok for each agent: [`crate::checkers`].
    Supervisord,
}

impl Kind {
    /// In the order of the tables.
    pub const ALL: [Self; 6] = [Self::Floor, Self::Hale, Self::Runit, Self::S6, Self::Monit, Self::Supervisord];
    /// Those that start again at once what has ended.
    pub const AT_ONCE: [Self; 4] = [Self::Floor, Self::Hale, Self::Runit, Self::S6];
    /// Those that make HTTP checks.
    pub const CHECKING: [Self; 3] = [Self::Hale, Self::Monit, Self::Supervisord];

    /// As in the tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Hale => "hale",
            Self::Runit => "runit",
            Self::S6 => "s6",
            Self::Monit => "monit",
            Self::Supervisord => "supervisord",
        }
    }

    /// The program to run, if the machine has it.
    pub fn program(self, tools: &Tools) -> Option<PathBuf> {
        let in_path = |name: &str| {
            let path = std::env::var_os("PATH").unwrap_or_default();
            std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
        };
        match self {
            Self::Floor => std::env::current_exe().ok(),
            Self::Hale => tools.hale.is_file().then(|| tools.hale.clone()),
            Self::Runit => in_path("runsvdir"),
            Self::S6 => in_path("s6-svscan"),
            Self::Monit => in_path("monit"),
            Self::Supervisord => tools.supervisord.clone(),
        }
    }

    /// Whether the machine has it.
    pub fn is_installed(self, tools: &Tools) -> bool {
        self.program(tools).is_some()
    }
}

/// The binaries, and a folder on disk and one in memory that are the driver's own.
pub struct Tools {
    /// The hale binary.
    pub hale: PathBuf,
    /// The agent: absolute, without symbolic links, as /proc shows it.
    pub agent: PathBuf,
    /// supervisord, with httpok in the same folder, where there is one.
    pub supervisord: Option<PathBuf>,
    /// On disk.
    pub disk: PathBuf,
    /// On a tmpfs, as `/run` is: Hale's `runtime_dir` belongs there.
    pub memory: PathBuf,
}

/// A supervisor that runs, with its agents.
pub struct Running {
    /// Who.
    pub kind: Kind,
    /// Its first process.
    pub child: Child,
    /// The starts of its agents.
    pub starts: Starts,
    /// When it was started: just before.
    pub spawned_ns: u64,
    agent: PathBuf,
    is_stopped: bool,
}

/// What all measured services of Hale have: it never gives up and never waits, like the peers that it is compared with.
pub const RESTART_AT_ONCE: &str = "restart = { crash_loop = false, first_delay = \"0s\", delay = \"0s\" }\n";

/// Starts `kind` with `count` agents in a fresh folder `name`. It returns before they are up.
pub fn start(kind: Kind, tools: &Tools, name: &str, count: u32) -> Result<Running, String> {
    let folder = fresh_folder(&tools.disk, &format!("{name}-{}", kind.name()))?;
    let fifo = folder.join("starts");
    let starts = Starts::new(&fifo, count)?;
    let program = kind.program(tools).ok_or_else(|| format!("{} is not installed", kind.name()))?;
    let mut command = Command::new(program);
    match kind {
        Kind::Floor => {
            command.arg("floor").arg(count.to_string()).args([&tools.agent, &fifo]);
        }
        Kind::Hale => {
            let mut toml = String::new();
            for index in 0..count {
                let _ = writeln!(
                    toml,
                    "[service.a{index}]\ncommand = {:?}",
                    [tools.agent.to_string_lossy(), fifo.to_string_lossy(), index.to_string().into(),]
                );
                toml.push_str(RESTART_AT_ONCE);
            }
            command.args(["run".as_ref(), hale_configuration(tools, &folder, &toml)?.as_os_str()]);
        }
        Kind::Runit => {
            let scan = scan_folder(tools, &folder, &fifo, count, "")?;
            command.arg(scan);
        }
        Kind::S6 => {
            let scan = scan_folder(tools, &folder, &fifo, count, "--ready-fd 3")?;
            command.args(["-c", &(count + 10).to_string(), "-t", "0"]).arg(scan);
        }
        Kind::Monit | Kind::Supervisord => return Err(format!("{} is measured with checks only", kind.name())),
    }
    run(kind, tools, command, &folder, starts)
}

/// Starts Hale in a fresh folder `name` with services that `toml` makes from the FIFO's path; its configuration's path.
pub fn start_hale(
    tools: &Tools,
    name: &str,
    count: u32,
    toml: impl FnOnce(&Path) -> String,
) -> Result<(Running, PathBuf), String> {
    start_hale_in(&[], tools, name, count, toml)
}

/// The same in an environment that has these variables, too.
pub fn start_hale_in(
    environment: &[(&'static str, OsString)],
    tools: &Tools,
    name: &str,
    count: u32,
    toml: impl FnOnce(&Path) -> String,
) -> Result<(Running, PathBuf), String> {
    let folder = fresh_folder(&tools.disk, &format!("{name}-hale"))?;
    let fifo = folder.join("starts");
    let starts = Starts::new(&fifo, count)?;
    let configuration = hale_configuration(tools, &folder, &toml(&fifo))?;
    let mut command = Command::new(&tools.hale);
    command.arg("run").arg(&configuration).envs(environment.iter().map(|(name, value)| (name, value)));
    Ok((run(Kind::Hale, tools, command, &folder, starts)?, configuration))
}

/// Runs the supervisor, whose output goes into `folder`.
pub fn run(kind: Kind, tools: &Tools, mut command: Command, folder: &Path, starts: Starts) -> Result<Running, String> {
    let log = fs::File::create(folder.join("supervisor.log")).map_err(|e| format!("cannot make a log: {e}"))?;
    let errors = log.try_clone().map_err(|e| format!("cannot make a log: {e}"))?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).current_dir(folder);
    let spawned_ns = now_ns();
    let child = command.spawn().map_err(|e| format!("cannot start {}: {e}", kind.name()))?;
    Ok(Running { kind, child, starts, spawned_ns, agent: tools.agent.clone(), is_stopped: false })
}

impl Running {
    /// Stops the supervisor in its own orderly way, and whatever it leaves behind.
    pub fn stop(mut self) -> Result<(), String> {
        self.stop_now()
    }

    fn stop_now(&mut self) -> Result<(), String> {
        self.is_stopped = true;
        let signal = match self.kind {
            Kind::Floor => Signal::KILL,
            Kind::Hale | Kind::S6 | Kind::Monit | Kind::Supervisord => Signal::TERM,
            Kind::Runit => Signal::HUP,
        };
        let pid = Pid::from_child(&self.child);
        let pidfd =
            pidfd_open(pid, PidfdFlags::empty()).map_err(|e| format!("cannot watch {}: {e}", self.kind.name()))?;
        // Only an unreaped child answers to this pid: nobody else can have it.
        kill_process(pid, signal).map_err(|e| format!("cannot stop {}: {e}", self.kind.name()))?;
        let timeout = rustix::time::Timespec { tv_sec: STOP_WITHIN.as_secs().cast_signed(), tv_nsec: 0 };
        let ended = rustix::event::poll(
            &mut [rustix::event::PollFd::new(&pidfd, rustix::event::PollFlags::IN)],
            Some(&timeout),
        );
        if ended != Ok(1) {
            eprintln!("{} did not stop within {} s: killed", self.kind.name(), STOP_WITHIN.as_secs());
            self.child.kill().map_err(|e| format!("cannot kill {}: {e}", self.kind.name()))?;
        }
        self.child.wait().map_err(|e| format!("cannot wait for {}: {e}", self.kind.name()))?;
        self.starts.kill_leftovers(&self.agent);
        Ok(())
    }
}

impl Drop for Running {
    /// Nothing may stay behind after a measurement that failed.
    fn drop(&mut self) {
        if !self.is_stopped
            && let Err(message) = self.stop_now()
        {
            eprintln!("{message}");
        }
    }
}

/// An empty folder of this name.
pub fn fresh_folder(parent: &Path, name: &str) -> Result<PathBuf, String> {
    let folder = parent.join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).map_err(|e| format!("cannot empty {}: {e}", folder.display()))?;
    }
    fs::create_dir_all(&folder).map_err(|e| format!("cannot make {}: {e}", folder.display()))?;
    Ok(folder)
}

fn hale_configuration(tools: &Tools, folder: &Path, services: &str) -> Result<PathBuf, String> {
    let name = folder.file_name().unwrap_or_default();
    let runtime = fresh_folder(&tools.memory, &name.to_string_lossy())?;
    let host = format!("[host]\nstate_dir = {:?}\nruntime_dir = {runtime:?}\n\n", folder.join("state"));
    let path = folder.join("hale.toml");
    fs::write(&path, host + services).map_err(|e| format!("cannot write {}: {e}", path.display()))?;
    Ok(path)
}

/// A folder of `count` services as runit and s6 read them: `run` is the agent itself.
fn scan_folder(tools: &Tools, folder: &Path, fifo: &Path, count: u32, extra: &str) -> Result<PathBuf, String> {
    let scan = folder.join("scan");
    for index in 0..count {
        let service = scan.join(format!("a{index}"));
        let make = || -> std::io::Result<()> {
            fs::create_dir_all(&service)?;
            std::os::unix::fs::symlink(&tools.agent, service.join("run"))?;
            fs::write(service.join("arguments"), format!("{} {index} {extra}\n", fifo.display()))?;
            // Read by s6 only: where the agent says that it is ready.
            fs::write(service.join("notification-fd"), "3\n")
        };
        make().map_err(|e| format!("cannot make {}: {e}", service.display()))?;
    }
    Ok(scan)
}
