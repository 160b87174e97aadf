//! A service that does nothing wrong beside others that do, and what must be true of it and of Hale afterwards.

use crate::harness::{Hale, Place, python};
use std::cell::Cell;
use std::fs;

/// How much memory guardian, supervisor and keeper may have together, without what they have of files, in their worst moment
/// since the test looked first. They have 5 MiB with a few services. What can come on top is 4 MiB of records that wait for the
/// disk, 1 MiB for the body of each of a dozen probes, and as much again of what the allocator keeps. What hostile services send
/// is larger than this.
const OWN_MEMORY_MAX_KIB: u64 = 32 << 10;

/// How many descriptors one of them may have: some 30 with a few services, 316 from one call to the notify socket of a service
/// (`FDS_PER_CALL` and one datagram more), and twice 256 that another thread is closing, or that wait for the guardian
/// (`UNCLOSED_MAX`).
const OWN_DESCRIPTORS_MAX: usize = 900;

/// Answers and numbers its answers on its output.
const SERVER: &str = r#"
import http.server, itertools
numbers = itertools.count(1)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print(next(numbers), flush=True)
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("@H", @PORT), Handler).serve_forever()
"#;

/// That service, and Hale as it was before anybody was hostile.
pub struct Innocent<'a, 'b> {
    hale: &'b Hale<'a>,
    pid: i32,
    /// Guardian, supervisor, keeper.
    own: [i32; 3],
    /// The most that one of them had when somebody looked.
    descriptors: Cell<usize>,
}

/// Its configuration, to be given to Hale with that of the others.
pub fn innocent(place: &Place) -> String {
    let port = (place.address.port() + 1_000).to_string();
    place.write("innocent.py", &SERVER.replace("@PORT", &port));
    format!(
        "[service.innocent]\ncommand = [\"{}\", \"@D/innocent.py\"]\n[[service.innocent.check]]\nkind = \"http\"\n\
         url = \"http://@H:{port}/\"\nevery = \"100ms\"\n",
        python()
    )
}

impl<'a, 'b> Innocent<'a, 'b> {
    /// Waits until it is ready.
    #[track_caller]
    pub fn ready(hale: &'b Hale<'a>) -> Self {
        let pid = hale.ready("innocent");
        let own = [hale.guardian(), hale.supervisor(), hale.keeper()];
        // The peak counts from here (proc_pid_clear_refs(5)).
        own.iter().for_each(|pid| fs::write(format!("/proc/{pid}/clear_refs"), "5").unwrap());
        Self { hale, pid, own, descriptors: Cell::new(0) }
    }

    /// Whether it is the process of this service.
    pub fn is(&self, pid: i32) -> bool {
        pid == self.pid
    }

    /// Looks how many descriptors Hale has; to be called again and again meanwhile.
    pub fn look(&self) {
        let count = |pid: &i32| fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count);
        let most = self.own.iter().map(count).max().unwrap();
        self.descriptors.set(self.descriptors.get().max(most));
    }

    fn answers(&self) -> Vec<usize> {
        let log = self.hale.place.log("innocent");
        log.lines().filter(|line| !line.starts_with("hale: ")).map(|line| line.parse().unwrap()).collect()
    }

    /// It is asked again and again, as ever; looks at Hale meanwhile.
    #[track_caller]
    pub fn assert_asked(&self) {
        let before = self.answers().len();
        self.hale.place.until(|| {
            self.look();
            (self.answers().len() > before + 5).then_some(()).ok_or("it is not asked".to_owned())
        });
    }

    /// Hale answers and is the same that it was, with little memory; and the innocent one is asked and answers as ever.
    #[track_caller]
    pub fn assert_unharmed(&self) {
        let place = self.hale.place;
        self.assert_asked();
        let answers = self.answers();
        assert_eq!(answers, (1..=answers.len()).collect::<Vec<_>>(), "a line is lost");
        let status = place.status("innocent");
        assert_eq!(
            (&status["state"], &status["restarts"], &status["pid"]),
            (&"healthy".into(), &0.into(), &self.pid.into()),
            "{status}"
        );
        assert!(place.records("innocent", "detected").is_empty());

        assert_eq!(self.own, [self.hale.guardian(), self.hale.supervisor(), self.hale.keeper()], "one was replaced");
        self.look();
        assert!(self.descriptors.get() < OWN_DESCRIPTORS_MAX, "{} descriptors", self.descriptors.get());
        let memory: Vec<u64> = self.own.iter().map(|&pid| peak_kib(pid)).collect();
        println!("peaks {memory:?} KiB, at most {} descriptors", self.descriptors.get());
        assert!(memory.iter().sum::<u64>() < OWN_MEMORY_MAX_KIB, "{memory:?} KiB");
    }
}

/// The most that a process had in memory without what it has of files (proc_pid_status(5)).
fn peak_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let kib = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().next().unwrap().parse::<u64>().unwrap()
    };
    kib("VmHWM:").saturating_sub(kib("RssFile:"))
}
