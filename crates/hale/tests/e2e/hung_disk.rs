//! A disk that hangs: a file system that is frozen (fsfreeze(8)), on which every writer waits in the kernel and no signal
//! reaches it.

mod needs_loop {
    use crate::harness::{Hale, Place, await_end, children, is_alive, is_own, rerun, send, under_init};
    use rustix::process::Signal;
    use std::fs::{self, File};
    use std::path::PathBuf;
    use std::process::Command;

    /// `busy` writes a hundred bytes with each line, some hundred kilobytes a second, and reports each thousandth; `quiet` a
    /// line now and then, which a pipe can hold for long.
    const SERVICES: &str = r#"
[service.busy]
log.rate = "1GiB/s"
log.max_size = "300KiB"
log.keep = 1000
command = ["sh", "-c", """
number=0
while number=$((number + 1)); do
    printf '%08d %090d\n' $number 0
    [ $((number % 100)) = 0 ] && sleep 0.01
    [ $((number % 1000)) = 0 ] && echo "at $number" >@D/reports
done
"""]

[service.quiet]
command = ["sh", "-c", "number=0; while number=$((number + 1)); do echo quiet $number; sleep 0.1; done"]

[service.web]
command = ["sleep", "1000"]
"#;

    /// A disk in a file, until it is dropped.
    struct Disk {
        path: PathBuf,
        others: Vec<PathBuf>,
    }

    impl Disk {
        /// Mounted at `name`, and the directories `others` in it beside that.
        fn new(place: &Place, name: &str, others: &[&str]) -> Self {
            let (image, path) = (place.path("disk.img"), place.path(name));
            File::create(&image).unwrap().set_len(128 << 20).unwrap();
            fs::create_dir(&path).unwrap();
            run(Command::new("mkfs.ext4").arg("-q").arg(&image));
            run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&path));
            let bind = |other: &&str| {
                let (inner, outer) = (path.join(other), place.path(other));
                fs::create_dir(&inner).unwrap();
                fs::create_dir(&outer).unwrap();
                run(Command::new("mount").arg("--bind").arg(inner).arg(&outer));
                outer
            };
            let others = others.iter().map(bind).collect();
            Self { path, others }
        }

        fn freeze(&self) {
            run(Command::new("fsfreeze").arg("--freeze").arg(&self.path));
        }

        fn thaw(&self) {
            run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.path));
        }
    }

    impl Drop for Disk {
        fn drop(&mut self) {
            // It says no when it is not frozen.
            let _ = Command::new("fsfreeze").arg("--unfreeze").arg(&self.path).output();
            for path in self.others.iter().chain([&self.path]) {
                let _ = Command::new("umount").arg("--lazy").arg(path).status();
            }
        }
    }

    #[track_caller]
    fn run(command: &mut Command) {
        let output = command.output().unwrap();
        assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// The number of the last line that `busy` reported.
    fn last_line(place: &Place) -> u64 {
        place.reported().iter().rev().find_map(|line| line.strip_prefix("at ")?.parse().ok()).unwrap_or(0)
    }

    /// Waits until `busy` has written so many thousand lines more.
    #[track_caller]
    fn await_lines(place: &Place, thousands: u64) {
        let wanted = last_line(place) + thousands * 1_000;
        place.report(&format!("at {wanted}"));
    }

    fn heal(hale: &Hale<'_>) {
        let pid = hale.place.status("web")["pid"].as_i64().unwrap();
        send(i32::try_from(pid).unwrap(), Signal::KILL);
        hale.event("web", "detected: the process was ended by SIGKILL");
        hale.ready("web");
        hale.event("web", "recovered in");
    }

    /// How many bytes of `busy` the log says that it lost, and how many are missing. What is there is whole, in order, and there
    /// once.
    #[track_caller]
    fn told_and_missing(place: &Place) -> (u64, u64) {
        let (mut next, mut told, mut missing) = (1, 0, 0);
        for line in place.log("busy").lines() {
            if let Some(rest) = line.strip_prefix("hale: dropped ") {
                let (bytes, why) = rest.split_once(' ').unwrap();
                assert_eq!(why, "bytes while the log could not be written");
                told += bytes.parse::<u64>().unwrap();
            } else if !line.starts_with("hale: epoch ") {
                assert_eq!(line.len(), 99, "torn: {line}");
                let number: u64 = line[..8].parse().unwrap();
                assert!(number >= next, "{number} comes twice or late, after {}", next - 1);
                missing += (number - next) * 100;
                next = number + 1;
            }
        }
        let last = last_line(place);
        assert!(next > last, "{last} was written, and the log ends before {next}");
        (told, missing)
    }

    /// The log says of each byte that is missing that it is, and of no other. Gives how many.
    #[track_caller]
    fn assert_gaps_are_told(place: &Place) -> u64 {
        let (told, missing) = told_and_missing(place);
        assert_eq!(told, missing);
        told
    }

    #[track_caller]
    fn assert_quiet_is_whole(place: &Place) {
        let log = place.log("quiet");
        let lines: Vec<&str> = log.lines().filter(|line| !line.starts_with("hale: epoch ")).collect();
        for (number, line) in (1..).zip(&lines) {
            assert_eq!(*line, format!("quiet {number}"));
        }
        assert!(lines.len() > 10);
    }

    /// Once more in a mount namespace of its own, which goes away with the test; `false` outside of it.
    fn inside(test: &str) -> bool {
        rerun(&format!("hung_disk::needs_loop::{test}"), &["unshare", "--mount", "--propagation", "private"])
    }

    fn freeze_and_thaw(mount: &str, others: &[&str]) {
        let place = Place::new();
        let disk = Disk::new(&place, mount, others);
        let hale = place.hale(SERVICES);
        // Thawed first when the test fails.
        let disk = disk;
        hale.ready("web");
        await_lines(&place, 2);
        disk.freeze();
        hale.says("the keeper hangs in the kernel");
        // A hundred kilobytes each, and the pipe holds 64.
        await_lines(&place, 10);
        heal(&hale);
        hale.event("busy", "dropped");
        disk.thaw();
        hale.says("the disk answers again");
        heal(&hale);
        await_lines(&place, 3);
        hale.stop();
        let told = assert_gaps_are_told(&place);
        assert!(told > 500_000, "{told}");
        assert_quiet_is_whole(&place);
        let counted = place.records("busy", "output_dropped");
        let counted = counted.iter().map(|record| record["bytes"].as_u64().unwrap()).sum::<u64>();
        assert_eq!(counted, told);
        assert_eq!(place.causes("web").len(), 2);
    }

    /// Services go on, output that nobody can take is counted to the byte, in the log and in the ledger, and nothing else is
    /// lost, before or after.
    #[test]
    fn output_is_drained_around_a_hung_log_disk_and_counted() {
        if inside("output_is_drained_around_a_hung_log_disk_and_counted") {
            freeze_and_thaw("log", &[]);
        }
    }

    /// The same with the ledger on that disk, too.
    #[test]
    fn healing_goes_on_while_the_disk_of_ledger_and_logs_hangs() {
        if inside("healing_goes_on_while_the_disk_of_ledger_and_logs_hangs") {
            freeze_and_thaw("state", &["log"]);
        }
    }

    fn end_while_it_hangs(mount: &str, others: &[&str]) {
        let place = Place::new();
        let disk = Disk::new(&place, mount, others);
        let mut hale = place.hale(SERVICES);
        let disk = disk;
        hale.ready("web");
        let stuck = hale.keeper();
        await_lines(&place, 1);
        disk.freeze();
        hale.says("the keeper hangs in the kernel");
        hale.signal(Signal::TERM);
        assert_eq!(hale.wait(), Some(0));
        assert!(is_alive(stuck));
        disk.thaw();
        await_end(stuck);
        place.assert_nobody_left();
        let next = place.hale_again();
        next.ready("web");
        next.stop();
        place.done(&["ledger", "verify"]);
        // The first Hale's end stood nowhere but in its journal where the ledger hung, too.
        assert_eq!(place.records("", "ending").len(), 2);
    }

    /// SIGTERM ends everything in order while nobody can write: what hangs ends by itself once it can.
    #[test]
    fn hale_ends_while_its_log_disk_hangs() {
        if inside("hale_ends_while_its_log_disk_hangs") {
            end_while_it_hangs("log", &[]);
        }
    }

    /// The same with the ledger on that disk, too: what it did not take is in the journal, for the next Hale to write.
    #[test]
    fn hale_ends_while_the_disk_of_ledger_and_logs_hangs() {
        if inside("hale_ends_while_the_disk_of_ledger_and_logs_hangs") {
            end_while_it_hangs("state", &["log"]);
        }
    }

    /// A supervisor that dies while its ledger's disk hangs is replaced: the next one heals, and writes once the disk answers.
    #[test]
    fn a_supervisor_is_replaced_while_the_disk_of_the_ledger_hangs() {
        if !inside("a_supervisor_is_replaced_while_the_disk_of_the_ledger_hangs") {
            return;
        }
        let place = Place::new();
        let disk = Disk::new(&place, "state", &[]);
        let hale = place.hale(SERVICES);
        let disk = disk;
        hale.ready("web");
        // A fifth failure of the service would be a crash loop.
        for _ in 0..2 {
            disk.freeze();
            send(hale.supervisor(), Signal::KILL);
            hale.says("the supervisor was ended by signal 9: replacing it");
            heal(&hale);
            disk.thaw();
            heal(&hale);
        }
        hale.stop();
        assert_eq!(place.causes("web").len(), 4);
        place.done(&["ledger", "verify"]);
    }

    /// The same with a guardian, whose descriptors are kept by a stand-in for systemd.
    #[test]
    fn a_guardian_is_replaced_while_the_disk_of_the_ledger_hangs() {
        if !inside("a_guardian_is_replaced_while_the_disk_of_the_ledger_hangs") {
            return;
        }
        let mut place = Place::new();
        let disk = Disk::new(&place, "state", &[]);
        under_init(&mut place);
        let hale = place.hale(SERVICES);
        let disk = disk;
        let web = hale.ready("web");
        place.report("READY=1");
        disk.freeze();
        let guardian = hale.guardian();
        send(guardian, Signal::KILL);
        await_end(guardian);
        place.report("lost");
        place.open_gate();
        place.report("READY=1");
        assert_eq!((place.status("web")["pid"].as_i64(), is_alive(web)), (Some(web.into()), true));
        heal(&hale);
        disk.thaw();
        hale.stop();
        place.done(&["ledger", "verify"]);
    }

    /// Whoever drains can die, too: the next one drains, and writes nothing before the one that hangs is gone.
    #[test]
    fn the_keeper_that_drains_can_be_replaced() {
        if !inside("the_keeper_that_drains_can_be_replaced") {
            return;
        }
        let place = Place::new();
        let disk = Disk::new(&place, "log", &[]);
        let hale = place.hale(SERVICES);
        let disk = disk;
        hale.ready("web");
        await_lines(&place, 2);
        let stuck = hale.keeper();
        disk.freeze();
        hale.says("the keeper hangs in the kernel");
        let keepers = || children(hale.guardian()).into_iter().filter(|&pid| is_own(pid) && pid != hale.supervisor());
        for _ in 0..5 {
            await_lines(&place, 3);
            keepers().filter(|&pid| pid != stuck).for_each(|pid| send(pid, Signal::KILL));
        }
        await_lines(&place, 10);
        assert!(keepers().any(|pid| pid == stuck), "it hangs until the disk answers");
        disk.thaw();
        await_end(stuck);
        // Whoever drains learns of it when the guardian asks next, twice a second.
        let thawed = last_line(&place);
        let written = || place.log("busy").lines().rev().find_map(|line| line.get(..8)?.parse().ok()).unwrap_or(0);
        place.until(|| if written() > thawed { Ok(()) } else { Err(format!("the log ends at {}", written())) });
        await_lines(&place, 3);
        hale.stop();
        // A keeper that is killed takes what it did not report with it; nothing is torn, twice or in another order.
        let (_, missing) = told_and_missing(&place);
        assert!(missing > 1_000_000, "{missing}");
        assert_quiet_is_whole(&place);
    }
}
