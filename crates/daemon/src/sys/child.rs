//! What a child does between clone and exec.

/// The steps from an order to a running program, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The order itself: unreadable (`EBADMSG`), slot out of range (`ERANGE`), slot still taken by a process whose
    /// end was not acknowledged (`EBUSY`), or an epoch not above the slot's last one (`ESTALE`).
    Order,
    /// Making its output pipe and the pipe that brings failures back.
    Pipe,
    /// clone3(2).
    Clone,
    /// A session of its own: setsid(2).
    Session,
    /// Entering its cgroup.
    Cgroup,
    /// An empty signal mask.
    Signals,
    /// `/dev/null` as input, the pipe as output.
    Stdio,
    /// `oom_score_adj` back to the value Hale was started with.
    OomScoreAdj,
    /// `RLIMIT_NOFILE`.
    Limits,
    /// Supplementary groups.
    Groups,
    /// User and group.
    User,
    /// `no_new_privs`.
    NoNewPrivs,
    /// The working directory.
    Directory,
    /// The line in the output that says that it started.
    Marker,
    /// execve(2).
    Exec,
}

impl Step {
    /// All, at the index that is their number on the wire.
    const ALL: [Self; 15] = [
        Self::Order,
        Self::Pipe,
        Self::Clone,
        Self::Session,
        Self::Cgroup,
        Self::Signals,
        Self::Stdio,
        Self::OomScoreAdj,
        Self::Limits,
        Self::Groups,
        Self::User,
        Self::NoNewPrivs,
        Self::Directory,
        Self::Marker,
        Self::Exec,
    ];

    /// Its number on the wire.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The step with this number.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// Its name, as it stands in incidents.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Order => "order",
            Self::Pipe => "pipe",
            Self::Clone => "clone",
            Self::Session => "session",
            Self::Cgroup => "cgroup",
            Self::Signals => "signals",
            Self::Stdio => "stdio",
            Self::OomScoreAdj => "oom_score_adj",
            Self::Limits => "limits",
            Self::Groups => "groups",
            Self::User => "user",
            Self::NoNewPrivs => "no_new_privs",
            Self::Directory => "directory",
            Self::Marker => "marker",
            Self::Exec => "exec",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_is_found_by_its_number() {
        for step in Step::ALL {
            assert_eq!(Step::from_number(step.number()), Some(step));
        }
        assert_eq!(Step::from_number(15), None);
    }
}
