//! Traces: the exception with which a process ended, found in its output, and a fingerprint that is the same whenever the same
//! code fails in the same way.
//!
//! The formats are those that the runtimes print by themselves: Python (`traceback`, `faulthandler`), Rust (std's panic hook),
//! Node (V8's stack trace API), the JVM (`Throwable.printStackTrace`), Go (`GOTRACEBACK=single` and more), .NET
//! (`Exception.ToString`), glibc's aborts and libstdc++'s terminate handler.

mod at;
mod go;
mod native;
mod normal;
mod python;
mod rust;

use crate::plan::ladder::hash;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use serde::{Deserialize, Serialize};

/// The version of these rules. It is part of each fingerprint: what other rules found is never taken for the same.
const RULES: &str = "trace/1";

/// How many frames are kept, the innermost ones: what lies further out tells how the code was reached, not what failed.
const FRAMES_MAX: usize = 6;

/// The longest name that is kept, in characters: of a type or a function, with all its generics.
const NAME_MAX: usize = 160;

/// How far above its frames the name of an exception may stand, in lines: its message may have several.
const MESSAGE_LINES_MAX: usize = 20;

/// What printed it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Runtime {
    /// CPython.
    Python,
    /// Rust's standard library.
    Rust,
    /// Node, or another program around V8.
    Node,
    /// A JVM.
    Java,
    /// Go.
    Go,
    /// .NET.
    Dotnet,
    /// glibc or libstdc++.
    Native,
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Python => "Python",
            Self::Rust => "Rust",
            Self::Node => "Node",
            Self::Java => "Java",
            Self::Go => "Go",
            Self::Dotnet => ".NET",
            Self::Native => "C or C++",
        })
    }
}

/// An exception: its name and its place, without what differs from run to run and from version to version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Trace {
    /// What printed it.
    pub runtime: Runtime,
    /// Its type; where a runtime has no types of them, or nothing else tells one from another, its message.
    pub what: String,
    /// Where it happened, the innermost first: functions of the program itself if there are any, else of its runtime. Those that
    /// called themselves stand before all others, in the order of their names.
    pub frames: Vec<String>,
    /// The same for the same exception at the same place.
    pub fingerprint: Fingerprint,
}

impl Trace {
    /// One whose frames are all of them, the innermost first, each with whether it is the runtime's own. `None`: it has no name.
    fn new(runtime: Runtime, what: &str, frames: impl IntoIterator<Item = (String, bool)>) -> Option<Self> {
        let what = normal::cut(what);
        if what.is_empty() {
            return None;
        }
        let all: Vec<(String, bool)> = frames.into_iter().filter(|(name, _)| !name.is_empty()).collect();
        let only_runtime = all.iter().all(|(_, is_runtime)| *is_runtime);
        let mut counted: Vec<(String, usize)> = Vec::new();
        for (frame, _) in all.into_iter().filter(|(_, is_runtime)| only_runtime || !is_runtime) {
            if let Some((_, times)) = counted.iter_mut().find(|(other, _)| *other == frame) {
                *times += 1;
            } else if counted.len() < FRAMES_MAX {
                counted.push((frame, 1));
            }
        }
        // A recursion is as deep as its input, and where in its circle it ends is up to that, too.
        let (mut again, once): (Vec<_>, Vec<_>) = counted.into_iter().partition(|(_, times)| *times > 1);
        again.sort();
        let frames: Vec<String> = again.into_iter().chain(once).map(|(frame, _)| frame).collect();
        let fingerprint = Fingerprint(hash(&format!("{RULES}\n{runtime:?}\n{what}\n{}", frames.join("\n"))));
        Some(Self { runtime, what, frames, fingerprint })
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        self.frames.first().map_or(Ok(()), |frame| write!(f, " in {frame}"))
    }
}

/// Names an exception at a place; 16 hexadecimal digits. Two that are the same are the same exception, or one in 2⁶⁴.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint(u64);

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Fingerprint> for String {
    fn from(it: Fingerprint) -> Self {
        format!("{it}")
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let digits = text.len() == 16 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        let value = digits.then(|| u64::from_str_radix(&text, 16).ok()).flatten();
        value.map(Self).ok_or("a fingerprint has 16 hexadecimal digits")
    }
}

/// What a parser found: the line with which it ends, and it.
type Found = Option<(usize, Trace)>;

/// The last exception in the output of a process, oldest line first, and how many lines it wrote after it. Control characters of
/// terminals are overlooked.
///
/// What is not an exception for sure is none: no fingerprint is better than one that means two things.
#[must_use]
pub fn find(lines: &[&str]) -> Option<(Trace, usize)> {
    let plain: Vec<String> = lines.iter().map(|line| normal::without_colours(line)).collect();
    let lines: Vec<&str> = plain.iter().map(String::as_str).collect();
    let parsers: [fn(&[&str]) -> Found; 5] = [native::find, go::find, rust::find, at::find, python::find];
    let found = parsers.iter().filter_map(|parser| parser(&lines));
    found.max_by_key(|(end, _)| *end).map(|(end, trace)| (trace, lines.len().saturating_sub(end + 1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;

    fn found(text: &str) -> Option<Trace> {
        find(&text.lines().collect::<Vec<_>>()).map(|(trace, _)| trace)
    }

    /// What real programs wrote, each in two versions: in other folders, with other lines, values and addresses.
    fn samples() -> BTreeMap<String, [Trace; 2]> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces");
        let mut names: Vec<String> = std::fs::read_dir(folder)
            .unwrap()
            .filter_map(|entry| Some(entry.unwrap().file_name().to_str()?.strip_suffix("-a.txt")?.into()))
            .collect();
        names.sort();
        let trace = |name: &str, version: &str| {
            let text = std::fs::read_to_string(format!("{folder}/{name}-{version}.txt")).unwrap();
            found(&text).unwrap_or_else(|| panic!("no trace in {name}-{version}"))
        };
        names.into_iter().map(|name| (name.clone(), ["a", "b"].map(|version| trace(&name, version)))).collect()
    }

    #[test]
    fn the_same_exception_has_the_same_fingerprint_in_each_version_and_others_have_others() {
        let samples = samples();
        assert!(samples.len() >= 20, "{}", samples.len());
        let mut seen: BTreeMap<Fingerprint, &str> = BTreeMap::new();
        for (name, [a, b]) in &samples {
            assert_eq!(a, b, "{name}");
            assert_eq!(name.split('-').next(), Some(format!("{:?}", a.runtime).to_lowercase().as_str()), "{name}");
            // How much of it Rust prints is up to the environment, and is no other exception.
            let same = seen.insert(a.fingerprint, name).filter(|other| *name != "rust-short" || *other != "rust-full");
            assert_eq!(same, None, "{name}");
        }
    }

    #[test]
    fn what_is_found_reads_as_a_person_would_say_it() {
        let samples = samples();
        let said = |name: &str| format!("{}", samples[name][0]);
        let expected = [
            ("python-app", "Bad in app.py:handle"),
            ("python-deep", "RecursionError in deep.py:down"),
            ("python-fatal", "Fatal Python error: Segmentation fault in fatal.py:crash"),
            ("python-threads", "Fatal Python error: Segmentation fault in threads.py:crash"),
            ("python-group", "ValueError in group.py:bad"),
            ("python-logged", "ZeroDivisionError in logged.py:work"),
            ("python-syntax", "SyntaxError in syntax.py"),
            ("node-server", "TypeError in Handler.inner"),
            ("node-cause", "SyntaxError in JSON.parse"),
            ("node-module", "Error: Cannot find module '…' in module.js"),
            ("java-main", "java.lang.ArithmeticException in Main.lambda$inner$#"),
            ("go-main", "panic: runtime error: index out of range [#] with length # in main.(*S).get"),
            ("go-nilmap", "panic: cannot open /…: no such file in main.main.func#"),
            ("go-dead", "fatal error: all goroutines are asleep - deadlock! in main.wait"),
            (
                "rust-short",
                "called `Result::unwrap()` on an `Err` value: ParseIntError { kind: InvalidDigit } in main::parse",
            ),
            (
                "rust-plain",
                "called `Result::unwrap()` on an `Err` value: ParseIntError { kind: InvalidDigit } in main.rs",
            ),
            ("native-assert", "Assertion `n < 0' failed. in assert.c:check"),
            ("native-free", "free(): double free detected in tcache #"),
            ("native-smash", "*** stack smashing detected ***: terminated"),
            ("native-throw", "std::out_of_range: index #"),
            ("dotnet-inner", "System.FormatException in App.Config.Port"),
        ];
        for (name, words) in expected {
            assert_eq!(said(name), words, "{name}");
        }
    }

    #[test]
    fn what_is_no_exception_is_none() {
        let harmless = "\
listening on 127.0.0.1:8701
at 12:00 all was well
thread 'main' did nothing
  File \"a.txt\", line 3 was read
error: panic: not really
KeyError: somebody wrote this
Error: connect ECONNREFUSED 127.0.0.1:5432
   at home (with friends)
goroutine 1 [running]:";
        assert_eq!(found(harmless), None);
        assert_eq!(find(&[]), None);
    }

    #[test]
    fn colours_and_the_prefixes_of_loggers_do_not_hide_it() {
        let text = "\
w1 | \u{1b}[31mTraceback (most recent call last):\u{1b}[0m
w1 |   File \"/srv/a.py\", line 3, in go
w1 |     x()\u{202e}
w1 | \u{1b}[1mValueError\u{1b}[0m: 17
w1 | goodbye";
        let (trace, after) = find(&text.lines().collect::<Vec<_>>()).unwrap();
        assert_eq!(after, 1);
        assert_eq!(format!("{trace}"), "ValueError in a.py:go");
    }

    #[test]
    fn of_two_the_last_one_counts_also_cut_at_its_front() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/traces");
        let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}-a.txt")).unwrap();
        for (first, last) in [("node-server", "python-app"), ("python-app", "node-server"), ("go-main", "java-main")] {
            let (before, text) = (read(first), read(last));
            assert_eq!(found(&[before.as_str(), text.as_str()].concat()), found(&text));
            assert_ne!(found(&before), found(&text));
        }
        // The head of a chain of causes can be missing.
        let text = read("java-main");
        assert_eq!(found(&text[text.find("Caused by").unwrap()..]), found(&text));
        // What a finalizer says at the end is not what ended it.
        let ignored = "Exception ignored in: <function Pool.__del__ at 0x7f>\nTraceback (most recent call last):\n  File \"/p/pool.py\", line 9, in __del__\nAttributeError: x\n";
        assert_eq!(found(&[read("python-app").as_str(), ignored].concat()), found(&read("python-app")));
        assert_eq!(found(ignored).unwrap().what, "AttributeError");
    }

    #[test]
    fn a_recursion_is_the_same_however_deep_it_is_and_wherever_it_ends() {
        let trace = |calls: &[&str]| {
            let frames = calls.iter().map(|name| (String::from(*name), false));
            Trace::new(Runtime::Go, "stack overflow", frames).unwrap()
        };
        let deep = trace(&["b", "a", "b", "a", "b", "a", "main"]);
        assert_eq!(deep, trace(&["a", "b", "a", "b", "main"]));
        assert_eq!(deep.frames, ["a", "b", "main"]);
        assert_ne!(deep, trace(&["b", "a", "main"]));
    }

    #[test]
    fn a_fingerprint_is_written_in_hexadecimal_and_read_again() {
        let fingerprint = samples()["go-dead"][0].fingerprint;
        let json = serde_json::to_string(&fingerprint).unwrap();
        assert_eq!(json.len(), 18);
        assert_eq!(serde_json::from_str::<Fingerprint>(&json).unwrap(), fingerprint);
        for wrong in ["\"\"", "\"12345678901234567\"", "\"+123456789012345\"", "7"] {
            assert!(serde_json::from_str::<Fingerprint>(wrong).is_err(), "{wrong}");
        }
    }
}
