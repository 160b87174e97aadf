//! Runtimes whose frames begin with "at": Node (<https://v8.dev/docs/stack-trace-api>), the JVM (`Throwable.printStackTrace`) and
//! .NET (`Exception.ToString`).

use super::{Found, MESSAGE_LINES_MAX, Runtime, Trace, normal};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

/// Packages of the JVM and of what most programs are built on.
const JAVA_LIBRARIES: [&str; 26] = [
    "java.",
    "javax.",
    "jakarta.",
    "jdk.",
    "sun.",
    "com.sun.",
    "kotlin.",
    "kotlinx.",
    "scala.",
    "akka.",
    "groovy.",
    "org.springframework.",
    "org.apache.",
    "org.hibernate.",
    "org.eclipse.jetty.",
    "org.jboss.",
    "org.postgresql.",
    "io.netty.",
    "io.quarkus.",
    "io.lettuce.",
    "reactor.",
    "okhttp3.",
    "com.fasterxml.",
    "com.google.",
    "com.zaxxer.",
    "com.mysql.",
];

/// The same of .NET.
const DOTNET_LIBRARIES: [&str; 4] = ["System.", "Microsoft.", "Npgsql.", "Newtonsoft."];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Node,
    Java,
    Dotnet,
}

impl Of {
    fn runtime(self) -> Runtime {
        match self {
            Self::Node => Runtime::Node,
            Self::Java => Runtime::Java,
            Self::Dotnet => Runtime::Dotnet,
        }
    }
}

pub(super) fn find(lines: &[&str]) -> Found {
    let end = lines.iter().rposition(|line| frame(line).is_some())?;
    let mut block = Block::last(lines)?;
    // What was thrown while another exception was under way stands below that one.
    while block.head.is_suppressed {
        block = Block::last(&lines[..block.at])?;
    }
    let mut frames: Vec<(String, bool)> = block.named(lines);
    if frames.iter().all(|(_, is_library)| *is_library) && block.head.is_nested {
        // The cause came out of the runtime; who called that stands above it, and the JVM does not repeat it.
        let outer = Block::last(&lines[..block.at]);
        let outer = outer.filter(|outer| lines[outer.last + 1..block.at].iter().all(|line| is_between(line)));
        frames.extend(outer.map(|outer| outer.named(lines)).unwrap_or_default());
    }
    let Head { name, message, .. } = block.head;
    let in_libraries = lines[block.first..=block.last].iter().filter_map(|line| frame(line)).all(|it| it.named().1);
    // Whoever fails there has the same frames; and what is only called an error could be any.
    let says_nothing = in_libraries || name == "Error";
    let what = if says_nothing && !message.is_empty() { format!("{name}: {}", normal::message(message)) } else { name };
    Some((end, Trace::new(block.of.runtime(), &what, frames)?))
}

/// Frames that follow each other, and the line that names their exception.
struct Block<'a> {
    of: Of,
    at: usize,
    head: Head<'a>,
    first: usize,
    last: usize,
}

/// What that line says.
struct Head<'a> {
    name: String,
    message: &'a str,
    /// It was thrown while another one was under way.
    is_suppressed: bool,
    /// It is the cause of the one above.
    is_nested: bool,
}

impl<'a> Block<'a> {
    fn last(lines: &[&'a str]) -> Option<Self> {
        let last = lines.iter().rposition(|line| frame(line).is_some())?;
        let of = frame(lines[last])?.of;
        let is_within = |line: &str| frame(line).is_some_and(|it| it.of == of) || is_between(line);
        let first = (0..last).rev().find(|&index| !is_within(lines[index])).map_or(0, |before| before + 1);
        if first > 0 && lines[first - 1].trim_start().starts_with("Emitted 'error' event") {
            // Node tells twice where it came from; the exception stands above the first.
            return Self::last(&lines[..first - 1]);
        }
        for at in (0..first).rev().take(MESSAGE_LINES_MAX) {
            if frame(lines[at]).is_some() {
                // From there on up it is another exception.
                return None;
            }
            if let Some(head) = head(lines[at], of, at + 1 == first) {
                return Some(Self { of, at, head, first, last });
            }
        }
        None
    }

    fn named(&self, lines: &[&str]) -> Vec<(String, bool)> {
        lines[self.first..=self.last].iter().filter_map(|line| frame(line)).map(|it| it.named()).collect()
    }
}

struct Frame<'a> {
    of: Of,
    function: &'a str,
    place: &'a str,
}

/// What stands between frames and is none: what is left out, and where the inner exceptions of .NET end.
fn is_between(line: &str) -> bool {
    let line = line.trim();
    (line.starts_with("... ") && (line.ends_with(" more") || line.contains(" matching ")))
        || line.starts_with("--- End of ")
}

fn frame(line: &str) -> Option<Frame<'_>> {
    let text = line.trim_start();
    if text.len() == line.len() {
        return None;
    }
    let text = text.strip_prefix("at ")?.trim_end();
    java(text).or_else(|| node(text)).or_else(|| dotnet(text))
}

/// `java.base/java.util.List.of(List.java:12)`, with the archive behind it as some loggers have it.
fn java(text: &str) -> Option<Frame<'_>> {
    const FILES: [&str; 5] = [".java", ".kt", ".scala", ".groovy", ".clj"];
    let (function, rest) = text.split_once('(')?;
    let (place, _) = rest.split_once(')')?;
    let file = place.split(':').next().unwrap_or(place);
    let known = FILES.iter().any(|ending| file.ends_with(ending))
        || ["Native Method", "Unknown Source", "<generated>"].contains(&file);
    let is_function = function.contains('.') && !function.contains(' ');
    (known && is_function).then_some(Frame { of: Of::Java, function, place: "" })
}

/// `async Server.go [as onrequest] (/srv/x.js:3:4)`, or the place alone.
fn node(text: &str) -> Option<Frame<'_>> {
    let text = text.strip_suffix(" {").unwrap_or(text);
    let (function, place) = match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
        Some((function, place)) => (function, place),
        None => ("", text),
    };
    let mut parts = place.rsplitn(3, ':');
    let mut number =
        || parts.next().is_some_and(|text| text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty());
    let positioned = number() && number();
    let file = parts.next().unwrap_or_default().trim_start_matches("async ");
    let is_file = file.contains(['/', '\\']) || file.starts_with("node:") || (!function.is_empty() && !file.is_empty());
    let elsewhere = ["<anonymous>", "native"].contains(&place) || place.starts_with("index ");
    let known = (positioned && is_file) || (elsewhere && !function.is_empty());
    known.then_some(Frame { of: Of::Node, function, place })
}

/// `App.Config.Port(String text) in /src/Config.cs:line 12`.
fn dotnet(text: &str) -> Option<Frame<'_>> {
    let (function, rest) = text.split_once('(')?;
    let (_, after) = rest.rsplit_once(')')?;
    let ends = after.is_empty() || after.starts_with(" in ") || after.starts_with(" + 0x");
    let is_function = function.contains('.') && !function.contains(' ') && !function.ends_with('.');
    (ends && is_function).then_some(Frame { of: Of::Dotnet, function, place: "" })
}

impl Frame<'_> {
    /// Its name, and whether it is the runtime's or a library's.
    fn named(&self) -> (String, bool) {
        let Self { of, function, place } = self;
        match of {
            Of::Node => {
                let is_library = place.starts_with("node:") || place.contains("/node_modules/") || *place == "native";
                let function = function.trim_start_matches("async ").trim_start_matches("new ");
                let function = function.split(" [as ").next().unwrap_or(function);
                // Where it has no name, its file tells. That is what the body of a file is called.
                let file = place.rsplitn(3, ':').last().unwrap_or(place);
                let is_named = !function.is_empty() && function != "Object.<anonymous>";
                let name = if is_named { function } else { normal::file(file) };
                (normal::name(name), is_library)
            }
            Of::Java => {
                // Proxies have a hash behind their class; before it stand the module and the class loader, with their versions.
                let name = function.split("$$").next().unwrap_or(function);
                let name = name.rsplit('/').next().unwrap_or(name);
                (normal::name(name), JAVA_LIBRARIES.iter().any(|package| name.starts_with(package)))
            }
            Of::Dotnet => {
                (normal::name(function), DOTNET_LIBRARIES.iter().any(|package| function.starts_with(package)))
            }
        }
    }
}

/// Whether a type is called as those of exceptions are.
fn is_exception(name: &str) -> bool {
    ["Exception", "Error", "Throwable"].iter().any(|ending| name.ends_with(ending))
}

/// The exception that a line names: of those that caused each other the one nearest to its frames. Right above them it may stand
/// behind what a logger puts before it.
fn head(line: &str, of: Of, is_next: bool) -> Option<Head<'_>> {
    let text = line.trim();
    let of_line = |text| match of {
        Of::Java => java_head(text),
        Of::Node => node_head(text),
        Of::Dotnet => dotnet_head(text),
    };
    let logged = || {
        let named = |word: &str| is_exception(word.trim_end_matches(':')) && (of == Of::Node || word.contains('.'));
        let begin = text.split(' ').find(|word| named(word))?;
        // A part of the same text.
        of_line(&text[begin.as_ptr() as usize - text.as_ptr() as usize..])
    };
    of_line(text).or_else(|| if is_next { logged() } else { None })
}

fn java_head(text: &str) -> Option<Head<'_>> {
    let (is_suppressed, text) = text.strip_prefix("Suppressed: ").map_or((false, text), |text| (true, text));
    let cause = text.strip_prefix("Caused by: ").or_else(|| text.strip_prefix("Wrapped by: "));
    let thread = text.strip_prefix("Exception in thread \"").and_then(|rest| Some(rest.split_once("\" ")?.1));
    let said = cause.or(thread);
    let (name, message) = normal::type_name(said.unwrap_or(text))?;
    let known = name.contains('.') && (said.is_some() || is_suppressed || is_exception(name));
    known.then(|| Head { name: normal::name(name), message, is_suppressed, is_nested: cause.is_some() })
}

/// `TypeError [ERR_X]: why`.
fn node_head(text: &str) -> Option<Head<'_>> {
    let (is_nested, text) = text.strip_prefix("[cause]: ").map_or((false, text), |text| (true, text));
    let text = text.trim_start_matches("Uncaught ");
    let bracket = text.split_once(" [").filter(|(name, _)| normal::type_name(name).is_some());
    let (name, message, code) = match bracket.and_then(|(name, rest)| Some((name, rest.split_once(']')?))) {
        Some((name, (code, message))) => (name, message.trim_start_matches(':').trim(), Some(code)),
        None => normal::type_name(text).map(|(name, message)| (name, message, None))?,
    };
    let name = is_exception(name).then(|| code.map_or(name.into(), |code| format!("{name} [{code}]")))?;
    Some(Head { name, message, is_suppressed: false, is_nested })
}

/// `Unhandled exception. A.B: why ---> C.D (0x80004005): why`.
fn dotnet_head(text: &str) -> Option<Head<'_>> {
    let bare = text.trim_start_matches("Unhandled exception. ").trim_start_matches("Unhandled Exception: ");
    let inner = bare.rsplit("---> ").next().unwrap_or(bare);
    let said = inner.len() != text.len();
    let code = inner.split_once(" (").and_then(|(name, rest)| Some((name, rest.split_once("):")?.1.trim())));
    let coded = code.filter(|(name, _)| normal::type_name(name).is_some());
    let (name, message) = coded.or_else(|| normal::type_name(inner))?;
    let known = name.contains('.') && (said || is_exception(name));
    known.then(|| Head { name: normal::name(name), message, is_suppressed: false, is_nested: false })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(line: &str) -> Option<(Of, String, bool)> {
        let frame = frame(line)?;
        let (name, is_library) = frame.named();
        Some((frame.of, name, is_library))
    }

    #[test]
    fn frames_tell_their_runtime() {
        let node = |name: &str, is_library| Some((Of::Node, name.into(), is_library));
        assert_eq!(named("    at async Handler.go [as on] (/srv/a.js:3:4)"), node("Handler.go", false));
        assert_eq!(named("    at file:///srv/a.mjs:3:4"), node("a.mjs", false));
        assert_eq!(named("    at Module.parse (file:///srv/lib.mjs:3:4)"), node("Module.parse", false));
        assert_eq!(named("    at node:internal/main:3:4 {"), node("main", true));
        assert_eq!(named("    at async Promise.all (index 0)"), node("Promise.all", false));
        let java = |name: &str, is_library| Some((Of::Java, name.into(), is_library));
        assert_eq!(named("\tat java.base/java.util.List.of(List.java:9)"), java("java.util.List.of", true));
        assert_eq!(named("\tat app//x.Y$$Lambda$12/0x00007fab.go(Unknown Source)"), java("x.Y", false));
        assert_eq!(named("\tat x.Y.go(Y.kt:9) ~[app-1.2.jar:?]"), java("x.Y.go", false));
        let dotnet = |name: &str, is_library| Some((Of::Dotnet, name.into(), is_library));
        assert_eq!(named("   at App.P.Main(String[] args) in /s/P.cs:line 3"), dotnet("App.P.Main", false));
        assert_eq!(named("   at System.Int32.Parse(String s)"), dotnet("System.Int#.Parse", true));
        let harmless = ["at x.Y.go(Y.java:9)", "  at home (with friends)", "  at 12:00", "  at 2024-01-01 10:20:30"];
        for none in harmless.iter().chain(&["  at work.", "  at the. end(now)"]) {
            assert_eq!(named(none), None, "{none}");
        }
    }

    fn said(text: &str) -> Option<String> {
        find(&text.lines().collect::<Vec<_>>()).map(|(_, trace)| format!("{trace}"))
    }

    #[test]
    fn the_exception_is_found_above_its_frames_and_not_beyond_those_of_another() {
        let frames = "\n\tat x.Y.go(Y.java:9)\n";
        let first = format!("a.FirstException: one{frames}");
        assert_eq!(said(&first).as_deref(), Some("a.FirstException in x.Y.go"));
        // A logger's line, whose exception stands at its end.
        let logged = format!("{first}12:00 ERROR [main] Failed to start: b.SecondException: two{frames}");
        assert_eq!(said(&logged).as_deref(), Some("b.SecondException in x.Y.go"));
        // No exception is named there, and the one above has frames of its own.
        assert_eq!(said(&format!("{first}12:00 db.internal: refused{frames}")), None);
        assert_eq!(said(&format!("\"main\" #1\n   java.lang.Thread.State: WAITING{frames}")), None);
        let suppressed = format!("{first}\tSuppressed: c.CloseException: three\n\t\tat x.Z.close(Z.java:3)\n");
        assert_eq!(said(&suppressed).as_deref(), Some("a.FirstException in x.Y.go"));
    }

    #[test]
    fn what_fails_in_a_library_is_told_apart_by_its_message_and_its_caller() {
        let fetch = |code: &str, caller: &str| {
            said(&format!(
                "TypeError: fetch failed\n    at node:internal/deps/undici/undici:1:2\n    at async {caller} (/srv/a.js:1:2) {{\n  [cause]: Error: connect {code} 10.0.0.7:443\n      at TCPConnectWrap.afterConnect [as oncomplete] (node:net:1:2)\n}}"
            ))
        };
        assert_eq!(fetch("ECONNREFUSED", "load").as_deref(), Some("Error: connect ECONNREFUSED #:# in load"));
        assert_ne!(fetch("ECONNREFUSED", "load"), fetch("ETIMEDOUT", "load"));
        assert_ne!(fetch("ECONNREFUSED", "load"), fetch("ECONNREFUSED", "save"));
        // The JVM leaves out what the cause has in common with what it caused.
        let read = |caller: &str| {
            let frames = "\tat java.base/java.io.FileInputStream.open(FileInputStream.java:9)\n\t... 2 more\n";
            said(&format!(
                "a.StartException: x\n\tat {caller}(A.java:3)\nCaused by: java.io.FileNotFoundException: /x/y (No such file)\n{frames}"
            ))
        };
        assert_eq!(read("A.ledger").as_deref(), Some("java.io.FileNotFoundException: /… (No such file) in A.ledger"));
        assert_ne!(read("A.ledger"), read("A.mail"));
        let emitted = "Error: listen EADDRINUSE 127.0.0.1:80\n    at Server.setup (node:net:1:2)\n    at go (/srv/a.js:3:4)\nEmitted 'error' event on Server instance at:\n    at emitErrorNT (node:net:5:6) {\n  code: 'EADDRINUSE'\n}";
        assert_eq!(said(emitted).as_deref(), Some("Error: listen EADDRINUSE #:# in go"));
        assert_eq!(
            said("Error: no PORT\n    at Object.<anonymous> (/srv/a.js:1:7)").as_deref(),
            Some("Error: no PORT in a.js")
        );
        let coded = "Npgsql.NpgsqlException (0x80004005): Failed to connect to 10.0.0.7:5432\n   at Npgsql.Connector.Connect(Int32 timeout)\n   at App.Db.Open() in /s/Db.cs:line 3";
        assert_eq!(said(coded).as_deref(), Some("Npgsql.NpgsqlException in App.Db.Open"));
    }
}
