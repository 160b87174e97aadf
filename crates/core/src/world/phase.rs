//! The machine of one service: its phases, and the one door through which they change.

use crate::ids::{Epoch, Name};
use crate::reason::Reason;
use crate::record::Body;
use crate::time::{Monotonic, Now, Span};
use serde::{Deserialize, Serialize};

/// How long after SIGKILL a tree that is still there counts as unkillable: freeing the memory of a large
/// process takes seconds, a process in uninterruptible sleep (D) stays for as long as its device does.
pub const UNKILLABLE_AFTER: Span = Span::from_secs(10);

/// A process as the core knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Its number.
    pub epoch: Epoch,
    /// Process id, for people.
    pub pid: i32,
    /// When it was made.
    pub since: Monotonic,
}

/// Where a service stands. Each phase carries all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "snake_case")]
pub enum Phase {
    /// No process, and none wanted.
    Stopped {
        /// Why.
        why: Reason,
    },
    /// No process, and what follows is being decided.
    Down,
    /// Wanted, and waiting for what it starts after.
    Blocked {
        /// The first that is not ready.
        on: Name,
    },
    /// Wanted, and not before its delay is over.
    BackingOff {
        /// Not before.
        until: Monotonic,
    },
    /// Quick restarts are given up.
    Held {
        /// The next try.
        until: Monotonic,
        /// Tries so far.
        tries: u32,
    },
    /// The guardian was ordered to make the process.
    Spawning {
        /// Its number.
        epoch: Epoch,
        /// Since when.
        since: Monotonic,
    },
    /// There is a process, and it is not ready yet.
    Starting {
        /// It.
        run: Run,
    },
    /// It is ready.
    Running {
        /// It.
        run: Run,
    },
    /// It is being ended.
    Stopping {
        /// Its number.
        epoch: Epoch,
        /// Whether its main process was reaped.
        main_gone: bool,
        /// How far that is.
        stage: StopStage,
        /// What comes after.
        then: Then,
    },
    /// The main process was reaped, others of its tree are left, and what follows is being decided.
    Remains {
        /// Its number.
        epoch: Epoch,
    },
}

/// How far the ending of a tree is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopStage {
    /// It was asked by a signal.
    Asked {
        /// When it is killed.
        kill_at: Monotonic,
    },
    /// It was killed.
    Killed {
        /// When.
        at: Monotonic,
    },
    /// It survived that.
    Unkillable {
        /// When it was killed.
        killed_at: Monotonic,
    },
}

/// What comes after a stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Then {
    /// Nothing: it stays stopped.
    Stay {
        /// Why.
        why: Reason,
    },
    /// It is started again, not before this.
    Restart {
        /// Not before.
        until: Monotonic,
    },
    /// It is held.
    Hold {
        /// The next try.
        until: Monotonic,
        /// Tries so far.
        tries: u32,
    },
}

/// A move that the machine does not have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{record} is not possible while {phase}")]
pub struct Illegal {
    /// The phase's name.
    pub phase: &'static str,
    /// The record's name.
    pub record: &'static str,
}

impl Phase {
    /// The newest process that may exist, if one may.
    #[must_use]
    pub fn epoch(&self) -> Option<Epoch> {
        match self {
            Self::Stopped { .. } | Self::Down | Self::Blocked { .. } | Self::BackingOff { .. } | Self::Held { .. } => {
                None
            }
            Self::Spawning { epoch, .. } | Self::Stopping { epoch, .. } | Self::Remains { epoch } => Some(*epoch),
            Self::Starting { run } | Self::Running { run } => Some(run.epoch),
        }
    }

    /// The living main process, if there is one.
    #[must_use]
    pub fn run(&self) -> Option<Run> {
        match self {
            Self::Starting { run } | Self::Running { run } => Some(*run),
            Self::Stopped { .. }
            | Self::Down
            | Self::Blocked { .. }
            | Self::BackingOff { .. }
            | Self::Held { .. }
            | Self::Spawning { .. }
            | Self::Stopping { .. }
            | Self::Remains { .. } => None,
        }
    }

    /// When the living process was made, or ordered.
    #[must_use]
    pub fn made(&self) -> Option<Monotonic> {
        if let Self::Spawning { since, .. } = self { Some(*since) } else { self.run().map(|run| run.since) }
    }

    /// Moves on by `late` what its process has to do by then.
    pub(crate) fn credit(&mut self, late: Span) {
        if let Self::Stopping { stage, .. } = self {
            match stage {
                StopStage::Asked { kill_at: at } | StopStage::Killed { at } => *at = at.after(late),
                StopStage::Unkillable { .. } => {}
            }
        }
    }

    /// The phase's name, for messages.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Stopped { .. } => "stopped",
            Self::Down => "down",
            Self::Blocked { .. } => "blocked",
            Self::BackingOff { .. } => "backing off",
            Self::Held { .. } => "held",
            Self::Spawning { .. } => "spawning",
            Self::Starting { .. } => "starting",
            Self::Running { .. } => "running",
            Self::Stopping { .. } => "stopping",
            Self::Remains { .. } => "partly gone",
        }
    }

    /// The phase that follows from a record, or why there is none. `last` is the newest epoch used so far.
    ///
    /// # Errors
    /// [`Illegal`] when this phase does not have that move; the phase is as before then.
    #[expect(clippy::wildcard_enum_match_arm, reason = "a move that is not listed is illegal, also in phases to come")]
    pub fn transition(&self, at: Now, last: Epoch, body: &Body) -> Result<Self, Illegal> {
        let now = at.mono;
        let illegal = |record: &'static str| Err(Illegal { phase: self.name(), record });
        let alive = |epoch: &Epoch| self.epoch() == Some(*epoch);
        let without_process = matches!(
            self,
            Self::Down | Self::Stopped { .. } | Self::Blocked { .. } | Self::BackingOff { .. } | Self::Held { .. }
        );
        match body {
            Body::SpawnIntended { epoch, .. } => match self {
                _ if without_process && *epoch > last => Ok(Self::Spawning { epoch: *epoch, since: now }),
                _ => illegal("a second process"),
            },
            Body::Spawned { epoch, process } => match self {
                Self::Spawning { epoch: expected, .. } if expected == epoch => {
                    Ok(Self::Starting { run: Run { epoch: *epoch, pid: process.pid, since: now } })
                }
                // A stop that was ordered meanwhile goes on.
                Self::Stopping { epoch: expected, main_gone: false, .. } if expected == epoch => Ok(self.clone()),
                _ => illegal("a process nobody ordered"),
            },
            Body::Adopted { epoch, process } if *epoch > last || (*epoch == last && without_process) => {
                Ok(Self::Starting { run: Run { epoch: *epoch, pid: process.pid, since: now } })
            }
            Body::Adopted { .. } => illegal("adopting a process that is older than the newest"),
            Body::SpawnFailed { epoch, .. } => match self {
                Self::Spawning { .. } | Self::Starting { .. } | Self::Stopping { .. } if alive(epoch) => Ok(Self::Down),
                _ => illegal("a failed start nobody ordered"),
            },
            Body::BecameReady { epoch, .. } => match self {
                Self::Starting { run } if run.epoch == *epoch => Ok(Self::Running { run: *run }),
                _ => illegal("becoming ready"),
            },
            Body::Exited { epoch, tree_empty, .. } => self.after_exit(*epoch, *tree_empty),
            Body::TreeGone { epoch } => match self {
                Self::Stopping { main_gone: true, .. } | Self::Remains { .. } if alive(epoch) => Ok(Self::Down),
                _ => illegal("the end of a tree that was not being ended"),
            },
            Body::StopIntended { epoch, grace, then, .. } => match self {
                Self::Spawning { .. } | Self::Starting { .. } | Self::Running { .. } if alive(epoch) => {
                    Ok(Self::Stopping {
                        epoch: *epoch,
                        main_gone: false,
                        stage: StopStage::Asked { kill_at: now.after(*grace) },
                        then: then.clone(),
                    })
                }
                // A change of mind: what was going to follow is replaced, the stop itself goes on.
                Self::Stopping { main_gone, stage, .. } if alive(epoch) => {
                    Ok(Self::Stopping { epoch: *epoch, main_gone: *main_gone, stage: *stage, then: then.clone() })
                }
                _ => illegal("a stop"),
            },
            Body::KillIntended { epoch, then, .. } => match self {
                Self::Spawning { .. }
                | Self::Starting { .. }
                | Self::Running { .. }
                | Self::Remains { .. }
                | Self::Stopping { .. }
                    if alive(epoch) =>
                {
                    let main_gone = matches!(self, Self::Remains { .. } | Self::Stopping { main_gone: true, .. });
                    let stage = StopStage::Killed { at: now };
                    Ok(Self::Stopping { epoch: *epoch, main_gone, stage, then: then.clone() })
                }
                _ => illegal("a kill"),
            },
            Body::Unkillable { epoch, .. } => match self {
                Self::Stopping { main_gone, stage: StopStage::Killed { at }, then, .. } if alive(epoch) => {
                    let stage = StopStage::Unkillable { killed_at: *at };
                    Ok(Self::Stopping { epoch: *epoch, main_gone: *main_gone, stage, then: then.clone() })
                }
                _ => illegal("surviving a kill that was not sent"),
            },
            Body::Blocked { on } if without_process => Ok(Self::Blocked { on: on.clone() }),
            Body::BackingOff { until } if without_process => Ok(Self::BackingOff { until: *until }),
            Body::Held { until, tries } if without_process => Ok(Self::Held { until: *until, tries: *tries }),
            Body::Stopped { why } if without_process => Ok(Self::Stopped { why: why.clone() }),
            Body::RunsBlocked { epoch, .. } => match self {
                Self::Spawning { .. } | Self::Starting { .. } | Self::Running { .. } if alive(epoch) => {
                    Ok(self.clone())
                }
                _ => illegal("being blocked"),
            },
            Body::Blocked { .. } => illegal("waiting for another service"),
            Body::BackingOff { .. } => illegal("a delay"),
            Body::Held { .. } => illegal("being held"),
            Body::Stopped { .. } => illegal("being stopped"),
            Body::BecameHealthy { epoch } => match self {
                Self::Running { run } if run.epoch == *epoch => Ok(self.clone()),
                _ => illegal("becoming healthy"),
            },
            Body::Forgotten => match self {
                Self::Stopped { .. } => Ok(self.clone()),
                _ => illegal("being forgotten"),
            },
            Body::DescriptorStored { epoch, .. } if alive(epoch) => Ok(self.clone()),
            Body::DescriptorStored { .. } => illegal("keeping a descriptor of a process that is gone"),
            Body::CheckFailed { .. }
            | Body::CheckUnproven { .. }
            | Body::Reloaded(_)
            | Body::ReloadRefused { .. }
            | Body::CheckPassed { .. }
            | Body::Detected { .. }
            | Body::Decided(_)
            | Body::Blamed(_)
            | Body::NotItsFault { .. }
            | Body::Waits { .. }
            | Body::CountersForgotten
            | Body::Unblocked { .. }
            | Body::Dependency { .. }
            | Body::Paused { .. }
            | Body::Resumed { .. }
            | Body::OomKilled { .. }
            | Body::MemoryStalled { .. }
            | Body::MemoryRelieved { .. }
            | Body::IncidentClosed { .. }
            | Body::Ordered { .. }
            | Body::CarriedOut { .. }
            | Body::OrderNotDurable { .. }
            | Body::HeartbeatPromised { .. }
            | Body::Extended { .. }
            | Body::Generation(_)
            | Body::Files(_)
            | Body::FilesChanged { .. }
            | Body::DescriptorRefused { .. }
            | Body::DescriptorDropped { .. }
            | Body::HardwareTimer { .. }
            | Body::HardwareReset { .. }
            | Body::RestartPlanned(_)
            | Body::RebootDecided(_)
            | Body::RebootNotDurable { .. }
            | Body::Output { .. }
            | Body::Traced { .. }
            | Body::Examined { .. }
            | Body::OutputDropped { .. }
            | Body::ProbeLost { .. }
            | Body::ProbeUnable { .. }
            | Body::Violated { .. }
            | Body::Began { .. }
            | Body::TookOver { .. }
            | Body::Ending { .. }
            | Body::LedgerDegraded { .. }
            | Body::HostStalled { .. }
            | Body::Unconfirmed { .. }
            | Body::LedgerRecovered => Ok(self.clone()),
        }
    }

    /// What the reaping of the main process of `epoch` leads to.
    fn after_exit(&self, epoch: Epoch, tree_empty: bool) -> Result<Self, Illegal> {
        let next = match self {
            Self::Starting { run } | Self::Running { run } if run.epoch == epoch => Self::Remains { epoch },
            Self::Stopping { epoch: ours, main_gone: false, stage, then } if *ours == epoch => {
                Self::Stopping { epoch, main_gone: true, stage: *stage, then: then.clone() }
            }
            Self::Starting { .. }
            | Self::Running { .. }
            | Self::Stopping { .. }
            | Self::Stopped { .. }
            | Self::Down
            | Self::Blocked { .. }
            | Self::BackingOff { .. }
            | Self::Held { .. }
            | Self::Spawning { .. }
            | Self::Remains { .. } => {
                return Err(Illegal { phase: self.name(), record: "the exit of a process that is not there" });
            }
        };
        Ok(if tree_empty { Self::Down } else { next })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{ExitStatus, Process};
    use crate::policy::Ready;

    const AT: Now = Now { mono: Monotonic::from_us(1_000), boot_us: 0, wall_us: 0 };

    fn spawn(epoch: u64) -> Body {
        Body::SpawnIntended { epoch: Epoch(epoch), why: Reason::HaleStarts, generation: None, files: None }
    }

    fn spawned(epoch: u64) -> Body {
        let process = Process { pid: 7, start_ticks: 1, pidfd_inode: 1, cgroup: None };
        Body::Spawned { epoch: Epoch(epoch), process }
    }

    fn walk(bodies: &[Body]) -> Result<Phase, Illegal> {
        let mut last = Epoch(0);
        let mut phase = Phase::Down;
        for body in bodies {
            phase = phase.transition(AT, last, body)?;
            if let Body::SpawnIntended { epoch, .. } = body {
                last = *epoch;
            }
        }
        Ok(phase)
    }

    #[test]
    fn a_second_process_beside_a_living_one_is_illegal_in_every_phase_that_has_one() {
        let exit = Body::Exited {
            epoch: Epoch(1),
            status: ExitStatus::Code(1),
            tree_empty: false,
            asked: false,
            memory: None,
        };
        let kill = Body::KillIntended {
            epoch: Epoch(1),
            why: Reason::MustGo,
            then: Then::Restart { until: Monotonic::from_us(0) },
        };
        let ready = Body::BecameReady { epoch: Epoch(1), by: Ready::Running };
        let lives: [&[Body]; 5] = [
            &[spawn(1)],
            &[spawn(1), spawned(1)],
            &[spawn(1), spawned(1), ready],
            &[spawn(1), spawned(1), exit.clone()],
            &[spawn(1), spawned(1), exit, kill],
        ];
        for life in lives {
            let phase = walk(life).unwrap();
            assert!(phase.transition(AT, Epoch(1), &spawn(2)).is_err(), "{phase:?}");
        }
    }

    #[test]
    fn an_epoch_is_never_used_twice() {
        let gone =
            Body::Exited { epoch: Epoch(1), status: ExitStatus::Code(1), tree_empty: true, asked: false, memory: None };
        assert!(walk(&[spawn(1), spawned(1), gone.clone(), spawn(1)]).is_err());
        assert!(walk(&[spawn(1), spawned(1), gone, spawn(2)]).is_ok());
    }

    #[test]
    fn exits_of_another_process_are_illegal() {
        let other =
            Body::Exited { epoch: Epoch(2), status: ExitStatus::Code(1), tree_empty: true, asked: false, memory: None };
        assert!(walk(&[spawn(1), spawned(1), other]).is_err());
    }
}
