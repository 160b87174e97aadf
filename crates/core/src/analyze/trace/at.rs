//! Runtimes whose frames begin with "at": Node (<https://v8.dev/docs/stack-trace-api>), the JVM (`Throwable.printStackTrace`) and
//! .NET (`Exception.ToString`).

use super::{Found, MESSAGE_LINES_MAX, Runtime, Trace, normal};
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

pub(super) fn find(lines: &[&str]) -> Found {
    let last = lines.iter().rposition(|line| frame(line).is_some())?;
    let runtime = frame(lines[last])?.runtime;
    let is_within = |line: &str| frame(line).is_some_and(|it| it.runtime == runtime) || is_between(line);
    let first = (0..last).rev().find(|&index| !is_within(lines[index])).map_or(0, |before| before + 1);
    let what = (0..first).rev().take(MESSAGE_LINES_MAX).find_map(|index| head(lines[index], runtime))?;
    let frames: Vec<(String, bool)> =
        lines[first..=last].iter().filter_map(|line| frame(line)).map(|it| it.named()).collect();
    Some((last, Trace::new(runtime, &what, frames)?))
}

struct Frame<'a> {
    runtime: Runtime,
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
    const FILES: [&str; 6] = [".java", ".kt", ".scala", ".groovy", ".clj", ".jruby"];
    let (function, rest) = text.split_once('(')?;
    let (place, _) = rest.split_once(')')?;
    let file = place.split(':').next().unwrap_or(place);
    let known = FILES.iter().any(|ending| file.ends_with(ending))
        || ["Native Method", "Unknown Source", "<generated>"].contains(&file);
    let is_function = function.contains('.') && !function.contains(' ');
    (known && is_function).then_some(Frame { runtime: Runtime::Java, function, place: "" })
}

/// `async Server.go [as onrequest] (/srv/x.js:3:4)`, or the place alone.
fn node(text: &str) -> Option<Frame<'_>> {
    let text = text.strip_suffix(" {").unwrap_or(text);
    let (function, place) = match text.strip_suffix(')').and_then(|text| text.rsplit_once(" (")) {
        Some((function, place)) => (function, place),
        None => ("", text),
    };
    let mut numbers = place.rsplitn(3, ':').take(2);
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let positioned = place.matches(':').count() >= 2 && numbers.all(is_number);
    let known = positioned
        || (!function.is_empty() && (["<anonymous>", "native"].contains(&place) || place.starts_with("index ")));
    known.then_some(Frame { runtime: Runtime::Node, function, place })
}

/// `App.Config.Port(String text) in /src/Config.cs:line 12`.
fn dotnet(text: &str) -> Option<Frame<'_>> {
    let (function, rest) = text.split_once('(')?;
    let (_, after) = rest.rsplit_once(')')?;
    let ends = after.is_empty() || after.starts_with(" in ") || after.starts_with(" + 0x");
    let is_function = function.contains('.') && !function.contains(' ') && !function.ends_with('.');
    (ends && is_function).then_some(Frame { runtime: Runtime::Dotnet, function, place: "" })
}

impl Frame<'_> {
    fn named(&self) -> (String, bool) {
        const JAVA: [&str; 6] = ["java.", "javax.", "jdk.", "sun.", "kotlin.", "scala."];
        let Self { runtime, function, place } = self;
        match runtime {
            Runtime::Node => {
                let is_runtime =
                    place.starts_with("node:") || place.contains("/node_modules/") || function.starts_with("Module.");
                let function = function.trim_start_matches("async ").trim_start_matches("new ");
                let function = function.split(" [as ").next().unwrap_or(function);
                // Where it has no name, its file tells.
                let file = place.rsplitn(3, ':').last().unwrap_or(place);
                let name = if function.is_empty() { normal::file(file) } else { function };
                (normal::name(name), is_runtime)
            }
            Runtime::Java => {
                // The module, or the class loader, before it has versions in its name.
                let name = function.rsplit('/').next().unwrap_or(function);
                // Proxies have a hash behind their class.
                let name = name.split("$$").next().unwrap_or(name);
                (normal::name(name), JAVA.iter().any(|package| name.starts_with(package)))
            }
            Runtime::Dotnet | Runtime::Python | Runtime::Rust | Runtime::Go | Runtime::Native => {
                let is_runtime = function.starts_with("System.") || function.starts_with("Microsoft.");
                (normal::name(function), is_runtime)
            }
        }
    }
}

/// The type of the exception that a line names: of those that caused each other the one nearest to its frames.
fn head(line: &str, runtime: Runtime) -> Option<String> {
    let text = line.trim();
    match runtime {
        Runtime::Java => {
            let text = text.strip_prefix("Caused by: ").or_else(|| text.strip_prefix("Suppressed: ")).unwrap_or(text);
            let thread = text.strip_prefix("Exception in thread \"").and_then(|rest| rest.split_once("\" "));
            let (name, _) = normal::type_name(thread.map_or(text, |(_, text)| text))?;
            name.contains('.').then(|| normal::name(name))
        }
        Runtime::Node => {
            let text = text.strip_prefix("[cause]: ").unwrap_or(text).trim_start_matches("Uncaught ");
            let (name, code) = match text.split_once(" [") {
                Some((name, rest)) if !name.contains(':') => (name, rest.split_once(']').map(|(code, _)| code)),
                Some(_) | None => (normal::type_name(text)?.0, None),
            };
            let is_error =
                normal::type_name(name).is_some() && (name.ends_with("Error") || name.ends_with("Exception"));
            is_error.then(|| code.map_or(name.into(), |code| format!("{name} [{code}]")))
        }
        Runtime::Dotnet | Runtime::Python | Runtime::Rust | Runtime::Go | Runtime::Native => {
            let text = text.trim_start_matches("Unhandled exception. ").trim_start_matches("Unhandled Exception: ");
            let text = text.rsplit("---> ").next().unwrap_or(text);
            let (name, _) = normal::type_name(text)?;
            name.contains('.').then(|| normal::name(name))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(line: &str) -> Option<(Runtime, String, bool)> {
        let frame = frame(line)?;
        let (name, is_runtime) = frame.named();
        Some((frame.runtime, name, is_runtime))
    }

    #[test]
    fn frames_tell_their_runtime() {
        let node = |name: &str, is_runtime| Some((Runtime::Node, name.into(), is_runtime));
        assert_eq!(named("    at async Handler.go [as on] (/srv/a.js:3:4)"), node("Handler.go", false));
        assert_eq!(named("    at file:///srv/a.mjs:3:4"), node("a.mjs", false));
        assert_eq!(named("    at node:internal/main:3:4 {"), node("main", true));
        assert_eq!(named("    at async Promise.all (index 0)"), node("Promise.all", false));
        let java = |name: &str, is_runtime| Some((Runtime::Java, name.into(), is_runtime));
        assert_eq!(named("\tat java.base/java.util.List.of(List.java:9)"), java("java.util.List.of", true));
        assert_eq!(
            named("\tat app//x.Y$$Lambda$12/0x08.go(Unknown Source)"),
            java("0x08.go".replace("0x08", "#x#").as_str(), false)
        );
        assert_eq!(named("\tat x.Y.go(Y.kt:9) ~[app-1.2.jar:?]"), java("x.Y.go", false));
        let dotnet = |name: &str, is_runtime| Some((Runtime::Dotnet, name.into(), is_runtime));
        assert_eq!(named("   at App.P.Main(String[] args) in /s/P.cs:line 3"), dotnet("App.P.Main", false));
        assert_eq!(named("   at System.Int32.Parse(String s)"), dotnet("System.Int#.Parse", true));
        for none in
            ["at x.Y.go(Y.java:9)", "  at home (with friends)", "  at 12:00", "  at work.", "  at the. end(now)"]
        {
            assert_eq!(named(none), None, "{none}");
        }
    }
}
