//! The peers that make HTTP checks: how monit, and supervisord with superlance's httpok, are told to keep agents that answer.

use crate::checks::{FIRST_PORT, SETTLED_AFTER, UP_WITHIN};
use crate::starts::Starts;
use crate::supervisors::{Kind, Running, Tools, fresh_folder, run};
use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Seconds between two looks of monit. There is no default: this is what `/etc/monit/monitrc` of Debian's package says. The longer it
/// is, the fewer looks can go wrong, so no shorter one would be kinder to monit.
const MONIT_CYCLE_S: u32 = 120;

/// What a reader must know of these checks.
pub fn note(kind: Kind) -> String {
    match kind {
        Kind::Monit => format!("looks every {MONIT_CYCLE_S} s"),
        Kind::Supervisord => "httpok looks every 60 s".to_owned(),
        Kind::Floor | Kind::Hale | Kind::Runit | Kind::S6 => String::new(),
    }
}

/// The one beside the Python that `cargo xtask bench` made for it.
pub fn supervisord() -> Option<PathBuf> {
    let python = std::env::var_os("HALE_BENCH_SUPERVISOR_PYTHON")?;
    Some(Path::new(&python).with_file_name("supervisord")).filter(|file| file.is_file())
}

/// Starts `count` agents with an HTTP check each; returns when all are up, and some time has passed.
pub fn up(kind: Kind, tools: &Tools, name: &str, count: u32) -> Result<Running, String> {
    let folder = fresh_folder(&tools.disk, &format!("{name}-{}", kind.name()))?;
    let fifo = folder.join("starts");
    let starts = Starts::new(&fifo, count)?;
    let program = kind.program(tools).ok_or_else(|| format!("{} is not installed", kind.name()))?;
    let mut command = Command::new(&program);
    let text = match kind {
        Kind::Monit => monit(tools, &folder, &fifo, count),
        Kind::Supervisord => supervisord_with_httpok(tools, &program, &folder, &fifo, count)?,
        Kind::Floor | Kind::Hale | Kind::Runit | Kind::S6 => {
            return Err(format!("{} is started otherwise", kind.name()));
        }
    };
    let file = folder.join("configuration");
    let write = || {
        fs::write(&file, text)?;
        // monit refuses one that others can read.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))
    };
    write().map_err(|e| format!("cannot write {}: {e}", file.display()))?;
    // Both stay in the foreground: monit because of -I, supervisord because of -n.
    command.arg(if kind == Kind::Monit { "-I" } else { "-n" }).arg("-c").arg(file);
    let mut running = run(kind, tools, command, &folder, starts)?;
    let all: Vec<u32> = (0..count).collect();
    running.starts.all_after(&all, 0, UP_WITHIN)?.ok_or("not all services came up")?;
    std::thread::sleep(SETTLED_AFTER);
    Ok(running)
}

/// Format: monit(1). The shell does what monit leaves to the service: it goes into the background and tells its pid.
fn monit(tools: &Tools, folder: &Path, fifo: &Path, count: u32) -> String {
    let (agent, fifo, folder) = (tools.agent.display(), fifo.display(), folder.display());
    let mut text = format!(
        "set daemon {MONIT_CYCLE_S}\nset log {folder}/monit.log\nset pidfile {folder}/monit.pid\n\
         set idfile {folder}/monit.id\nset statefile {folder}/monit.state\n"
    );
    for index in 0..count {
        let port = FIRST_PORT + index;
        let pidfile = format!("{folder}/a{index}.pid");
        // To a String it cannot fail.
        let _ = writeln!(
            text,
            "check process a{index} with pidfile {pidfile}\n\
             start program = \"/bin/sh -c '{agent} {fifo} {index} --http {port} & echo $! >{pidfile}'\"\n\
             stop program = \"/bin/sh -c 'kill -9 $(cat {pidfile})'\"\n\
             if failed port {port} protocol http then restart"
        );
    }
    text
}

/// Format: <https://supervisord.org/configuration.html>, <https://superlance.readthedocs.io/en/latest/httpok.html>
fn supervisord_with_httpok(
    tools: &Tools,
    supervisord: &Path,
    folder: &Path,
    fifo: &Path,
    count: u32,
) -> Result<String, String> {
    // The path of a socket has room for 107 bytes.
    let socket = fresh_folder(&tools.memory, "supervisord")?.join("socket");
    let (agent, fifo, folder, socket) = (tools.agent.display(), fifo.display(), folder.display(), socket.display());
    let httpok = supervisord.with_file_name("httpok");
    let httpok = httpok.display();
    let mut text = format!(
        "[supervisord]\nlogfile={folder}/supervisord.log\npidfile={folder}/supervisord.pid\nchildlogdir={folder}\n\
         [unix_http_server]\nfile={socket}\n[rpcinterface:supervisor]\n\
         supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n"
    );
    for index in 0..count {
        let port = FIRST_PORT + index;
        let _ = writeln!(
            text,
            "[program:a{index}]\ncommand={agent} {fifo} {index} --http {port}\n\
             [eventlistener:httpok{index}]\ncommand={httpok} -p a{index} -t 10 http://127.0.0.1:{port}/\nevents=TICK_60"
        );
    }
    Ok(text)
}
