//! The command line: what can be asked of `hale`, and nothing of how it is done.

use clap::{Args, Parser, Subcommand, ValueHint};
use clap_complete::Shell;
use hale_core::world::pause::{PAUSE_MAX, PAUSE_MIN};
use std::path::PathBuf;

/// Makes a Linux server heal itself: watches services, finds those that stopped working, brings them back,
/// and keeps a record of why.
#[derive(Debug, Parser)]
#[command(name = "hale", version, arg_required_else_help = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit status: 0 done, 1 failed, 2 usage, 3 no supervisor running, 4 rolled back, 5 ledger altered or truncated, \
6 refused by policy, 7 busy, 78 configuration error, 130 interrupted while waiting";

/// What every command takes, anywhere on the line.
#[derive(Debug, Args)]
pub struct Global {
    /// The configuration [env: HALE_CONFIG] [default: ./hale.toml, then /etc/hale/hale.toml]
    #[arg(short, long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
}

impl Global {
    /// Takes the configuration from the environment where the line does not name one. Not by clap: it would show what
    /// the variable sets as if each line had to have it.
    pub fn or_environment(&mut self) {
        let named = || std::env::var_os("HALE_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
        self.config = self.config.take().or_else(named);
    }
}

/// How a reading command prints.
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Supervise the services of the configuration, in the foreground
    Run {
        /// The configuration, as with -c
        file: Option<PathBuf>,
    },
    /// Check the configuration and print what would be supervised
    Validate {
        #[command(flatten)]
        format: Format,
    },
    /// Show what the services are doing
    Status {
        /// Only this one
        service: Option<String>,
        #[command(flatten)]
        format: Format,
    },
    /// Show the output of a service
    Logs {
        /// Whose output
        service: String,
        /// Go on with what is written from now on, until interrupted
        #[arg(short, long)]
        follow: bool,
        /// Start with this many of the last lines
        #[arg(short = 'n', long, value_name = "N", default_value_t = 100)]
        lines: usize,
        #[command(flatten)]
        format: Format,
    },
    /// List what went wrong and how it ended
    Incidents {
        /// Only those opened within this time, e.g. 90m, 24h, 7d
        #[arg(long, value_name = "TIME", value_parser = hale_config::parse_duration)]
        since: Option<hale_core::time::Span>,
        /// Each failure of a service once, with its incidents: the same cause and the same exception, if there is one
        #[arg(long)]
        grouped: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Tell the story of one incident
    Incident {
        /// Its number in the list [default: the newest]
        #[arg(value_parser = incident_number)]
        id: Option<u64>,
        #[command(flatten)]
        format: Format,
    },
    /// Show all that the decisions of an incident went by, and make each of them once more
    Explain {
        /// Its number, or that of one record with a decision
        #[arg(value_parser = incident_number)]
        id: u64,
        #[command(flatten)]
        format: Format,
    },
    /// Start a service and forget its delays and counters
    Start {
        /// Which one
        service: String,
    },
    /// Stop a service, until it is started or Hale starts anew
    Stop {
        /// Which one
        service: String,
    },
    /// Stop a service and start it again
    Restart {
        /// Which one
        service: String,
    },
    /// Only watch a service for a while: nothing is restarted or stopped
    Pause {
        /// Which one
        service: String,
        /// How long, e.g. 10m, 1h, 2d; at least 1s, at most 30d
        #[arg(long = "for", value_name = "TIME", value_parser = pause_length)]
        lasts: hale_core::time::Span,
    },
    /// Heal a paused service again
    Resume {
        /// Which one
        service: String,
    },
    /// Put the configuration in force as it is now; what it does not change is not touched
    Reload,
    /// Switch a service to a release, which has to prove itself, and wait for the end: committed, or rolled back
    Deploy {
        /// Which one
        service: String,
        /// A directory, a tar, tar.gz or tar.zst, or - for one on standard input; where generations are kept by another store
        /// than Hale's own, the name of one
        #[arg(value_hint = ValueHint::AnyPath)]
        path: PathBuf,
        /// Do not wait for the end
        #[arg(long)]
        no_wait: bool,
        /// Also if it is quarantined, because it failed before, or cannot read the service's data
        #[arg(long)]
        force: bool,
    },
    /// Switch a service back to a generation that is known to be good
    Rollback {
        /// Which one
        service: String,
        /// To this generation, or the only one that begins so [default: the newest good one before the current one]
        #[arg(long, value_name = "GENERATION")]
        to: Option<String>,
    },
    /// List the generations of a service, and what is known of them
    Generations {
        /// Which one
        service: String,
        /// Read all of each, and say which are damaged
        #[arg(long)]
        verify: bool,
        #[command(flatten)]
        format: Format,
    },
    /// Generations that failed, and are not switched to by themselves again
    Quarantine {
        #[command(subcommand)]
        command: Quarantine,
    },
    /// Read and check the record of everything
    Ledger {
        #[command(subcommand)]
        command: Ledger,
    },
    /// List what Hale uses and this host does not have, what it costs and how to mend it
    Doctor {
        #[command(flatten)]
        format: Format,
    },
    /// Print the JSON Schema of the configuration
    Schema,
    /// Print a script that completes command lines, for your shell to load
    Completions {
        /// Which shell
        shell: Shell,
    },
}

fn pause_length(text: &str) -> Result<hale_core::time::Span, String> {
    let lasts = hale_config::parse_duration(text)?;
    if (PAUSE_MIN..=PAUSE_MAX).contains(&lasts) {
        return Ok(lasts);
    }
    Err(format!(
        "a pause lasts at least {PAUSE_MIN} and at most {PAUSE_MAX}; to leave a service alone for good, stop it"
    ))
}

fn incident_number(text: &str) -> Result<u64, &'static str> {
    text.parse().map_err(|_| "it must be a number, as `hale incidents` lists them")
}

#[derive(Debug, Subcommand)]
pub enum Ledger {
    /// Print its records, oldest first
    Show {
        #[command(flatten)]
        format: Format,
    },
    /// Check that nothing was altered or cut off
    Verify {
        #[command(flatten)]
        format: Format,
    },
    /// Make the index for queries anew
    Reindex,
}

#[derive(Debug, Subcommand)]
pub enum Quarantine {
    /// List them, of all services
    List {
        #[command(flatten)]
        format: Format,
    },
    /// Forget that one failed
    Clear {
        /// Which one, or how it begins
        generation: String,
        /// Of this service, where several have it
        #[arg(long)]
        service: Option<String>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_can_stand_anywhere() {
        for line in ["hale -c x status", "hale status -c x", "hale ledger -c x show", "hale ledger show -c x --json"] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.global.config, Some(PathBuf::from("x")), "{line}");
        }
    }
}
