//! The JSON of an incident's evidence, in the units and names of the contract (architecture, section 6): fields are added, never
//! renamed or removed.

use super::view::ms;
use hale_core::examination::{self, Protocol, ThreadState};
use hale_core::incident::Story;
use hale_core::memory::{MemoryReport, Pressure};
use hale_core::time::Span;
use serde::{Deserialize, Serialize};

/// What was found of an incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// The last lines of output of the process that failed.
    pub output: Vec<String>,
    /// What that process was doing, where it ran and did not work.
    #[serde(default)]
    pub examination: Option<Examination>,
    /// The last records of the boot before, where the machine was reset.
    #[serde(default)]
    pub records_before: Vec<u64>,
    /// What the kernel said of the service's memory when that process ended, or while it waited for memory.
    #[serde(default)]
    pub memory: Option<Memory>,
}

/// Figures of a cgroup at the end of a process, or while it waited for memory; `null` where the kernel does not give one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// The limit in force.
    pub limit_bytes: Option<u64>,
    /// The most that was in use at once, page cache included.
    pub peak_bytes: Option<u64>,
    /// How much of the last ten seconds at least one task waited for memory.
    pub pressure_some_percent: Option<f64>,
    /// How much of them all tasks did.
    pub pressure_full_percent: Option<f64>,
    /// How often it was at the limit; `null`: never.
    #[serde(default)]
    pub limit_hits: Option<u64>,
    /// How often `memory.high` held it back; `null`: never.
    #[serde(default)]
    pub high_hits: Option<u64>,
}

impl From<&MemoryReport> for Memory {
    fn from(report: &MemoryReport) -> Self {
        let percent = |permyriad: fn(&Pressure) -> u32| {
            report.pressure.as_ref().map(|pressure| f64::from(permyriad(pressure)) / 100.0)
        };
        Self {
            limit_bytes: report.limit_bytes,
            peak_bytes: report.peak_bytes,
            pressure_some_percent: percent(|pressure| pressure.some_permyriad),
            pressure_full_percent: percent(|pressure| pressure.full_permyriad),
            limit_hits: report.limit_hits,
            high_hits: report.high_hits,
        }
    }
}

/// What a service was doing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Examination {
    /// All of it in a sentence.
    pub sentence: String,
    /// How long the look took.
    pub took_ms: f64,
    /// How many processes lived.
    pub processes: u32,
    /// How many threads they had.
    pub threads: u32,
    /// What these did: those that did the same together, most of them first; at most 16 sorts.
    pub doing: Vec<Doing>,
    /// How many descriptors they had open.
    pub descriptors: u32,
    /// How many of those were sockets.
    pub sockets: u32,
    /// TCP and UDP sockets, those that tell most first; at most 32.
    pub connections: Vec<Connection>,
    /// How many more there were.
    pub connections_left_out: u32,
    /// How much of the last ten seconds at least one of its tasks waited for a processor; `null`: not told.
    pub cpu_pressure_some_percent: Option<f64>,
    /// The same of memory.
    pub memory_pressure_some_percent: Option<f64>,
    /// The same of disks.
    pub io_pressure_some_percent: Option<f64>,
    /// There was more than the look had time or room for.
    pub partial: bool,
}

/// Threads that did the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Doing {
    /// How many.
    pub threads: u32,
    /// The process of the first of them.
    pub pid: i32,
    /// The first of them.
    pub tid: i32,
    /// Its name.
    pub name: String,
    /// `running`, `sleeping`, `uninterruptible`, `stopped`, `traced`, `dead` or `other`.
    pub state: ThreadState,
    /// The function of the kernel that it waited in.
    pub wait_channel: Option<String>,
    /// The system call that it was in.
    pub call: Option<Call>,
    /// The functions of the kernel that it was in, innermost first; root is told them.
    pub stack: Vec<String>,
}

/// A system call.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Call {
    /// Its name.
    pub name: String,
    /// Its arguments in hexadecimal, as the kernel has them: addresses and numbers.
    pub arguments: Vec<String>,
    /// The descriptor that it was about.
    pub fd: Option<i32>,
    /// What that was.
    pub file: Option<String>,
}

/// A connection, or a socket that waits for some.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Connection {
    /// A process that had it.
    pub pid: i32,
    /// Its descriptor there.
    pub fd: i32,
    /// `tcp` or `udp`.
    pub protocol: Protocol,
    /// `established`, `listen`, `close_wait`, …
    pub state: String,
    /// The own end.
    pub local: String,
    /// The other end; `null`: it listened, or UDP had no fixed one.
    pub peer: Option<String>,
    /// What came and was not read, of TCP.
    pub unread_bytes: Option<u32>,
    /// What was sent and not acknowledged.
    pub unsent_bytes: Option<u32>,
    /// How many connections waited to be accepted, of one that listened.
    pub waiting: Option<u32>,
    /// How many the other ends have given up while they waited.
    pub given_up: Option<u32>,
    /// How many may wait.
    pub waiting_max: Option<u32>,
    /// How long nothing had come.
    pub silent_ms: Option<f64>,
}

impl From<&Story> for Evidence {
    fn from(story: &Story) -> Self {
        Self {
            output: story.output.clone(),
            memory: story.memory.as_ref().map(Memory::from),
            examination: story.examination.as_ref().map(Examination::from),
            records_before: story.records_before.iter().map(|id| id.0).collect(),
        }
    }
}

impl From<&examination::Examination> for Examination {
    fn from(found: &examination::Examination) -> Self {
        let percent = |pressure: Option<Pressure>| pressure.map(|pressure| f64::from(pressure.some_permyriad) / 100.0);
        Self {
            sentence: found.to_string(),
            took_ms: ms(Span::from_us(found.took_us)),
            processes: found.processes,
            threads: found.threads,
            doing: found.doing.iter().map(Doing::from).collect(),
            descriptors: found.descriptors,
            sockets: found.sockets,
            connections: found.connections.iter().map(Connection::from).collect(),
            connections_left_out: found.left_out,
            cpu_pressure_some_percent: percent(found.cpu),
            memory_pressure_some_percent: percent(found.memory),
            io_pressure_some_percent: percent(found.io),
            partial: found.is_partial,
        }
    }
}

impl From<&examination::Doing> for Doing {
    fn from(doing: &examination::Doing) -> Self {
        let call = |call: &examination::Call| Call {
            name: call.name.clone(),
            arguments: call.arguments.iter().map(|argument| format!("{argument:#x}")).collect(),
            fd: call.fd,
            file: call.file.clone(),
        };
        Self {
            threads: doing.threads,
            pid: doing.pid,
            tid: doing.tid,
            name: doing.name.clone(),
            state: doing.state,
            wait_channel: doing.wait_channel.clone(),
            call: doing.call.as_ref().map(call),
            stack: doing.stack.clone(),
        }
    }
}

impl From<&examination::Connection> for Connection {
    fn from(one: &examination::Connection) -> Self {
        let (of_listener, of_connection) = (one.listens().then_some(()), (!one.listens()).then_some(()));
        Self {
            pid: one.pid,
            fd: one.fd,
            protocol: one.protocol,
            state: one.state.clone(),
            local: one.local.clone(),
            peer: one.peer.clone(),
            unread_bytes: of_connection.filter(|()| one.protocol == Protocol::Tcp).map(|()| one.unread),
            unsent_bytes: of_connection.map(|()| one.unsent),
            waiting: of_listener.map(|()| one.unread),
            given_up: of_listener.map(|()| one.given_up),
            waiting_max: of_listener.map(|()| one.unsent),
            silent_ms: one.silent_ms.map(|silent| ms(Span::from_ms(silent))),
        }
    }
}
