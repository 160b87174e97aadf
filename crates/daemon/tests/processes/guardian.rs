//! The guardian's promises: exact statuses, exact failures, nobody left behind, never stuck.

use crate::Test;
use crate::hale::{Hale, Slot, children, order, signal, text, wait_readable};
use hale_core::ids::Epoch;
use hale_daemon::protocol::{GuardianEvent, HostSignal, Identity, SpawnFailure, SpawnOrder, StoreKey};
use hale_daemon::sys::child::Step;
use hale_daemon::sys::packet::{Sent, send};
use hale_daemon::sys::wait::Exit;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

pub const TESTS: &[Test] = &[
    ("guardian::exits_are_told_exactly_and_once", exits_are_told_exactly_and_once),
    ("guardian::a_core_dump_is_told_as_the_kernel_tells_it", a_core_dump_is_told_as_the_kernel_tells_it),
    ("guardian::a_failed_start_names_step_and_errno", a_failed_start_names_step_and_errno),
    (
        "guardian::what_is_in_the_store_is_passed_on_and_nothing_else",
        what_is_in_the_store_is_passed_on_and_nothing_else,
    ),
    ("guardian::a_service_starts_clean", a_service_starts_clean),
    (
        "guardian::beside_many_others_a_service_starts_and_fails_as_ever",
        beside_many_others_a_service_starts_and_fails_as_ever,
    ),
    ("guardian::a_slot_is_for_one_process_and_epochs_only_grow", a_slot_is_for_one_process_and_epochs_only_grow),
    ("guardian::nonsense_is_refused_and_changes_nothing", nonsense_is_refused_and_changes_nothing),
    ("guardian::a_full_pipe_keeps_no_program_from_running", a_full_pipe_keeps_no_program_from_running),
    ("guardian::strays_are_reaped", strays_are_reaped),
    ("guardian::a_supervisor_that_does_not_read_stops_nothing", a_supervisor_that_does_not_read_stops_nothing),
    (
        "guardian::without_a_supervisor_the_operator_can_end_everything",
        without_a_supervisor_the_operator_can_end_everything,
    ),
    ("guardian::one_more_word_of_the_operator_is_hurry", one_more_word_of_the_operator_is_hurry),
    (
        "guardian::a_supervisor_that_dies_is_replaced_and_the_next_one_is_told_everything",
        a_supervisor_that_dies_is_replaced_and_the_next_one_is_told_everything,
    ),
    (
        "guardian::a_supervisor_that_makes_no_progress_is_replaced_with_what_the_kernel_says_of_it",
        a_supervisor_that_makes_no_progress_is_replaced_with_what_the_kernel_says_of_it,
    ),
    (
        "guardian::a_signal_that_a_dying_supervisor_was_told_is_told_to_the_next_one",
        a_signal_that_a_dying_supervisor_was_told_is_told_to_the_next_one,
    ),
    (
        "guardian::systemd_keeps_what_runs_and_nothing_else_however_late_it_reads",
        systemd_keeps_what_runs_and_nothing_else_however_late_it_reads,
    ),
    (
        "guardian::a_supervisor_that_cannot_start_ends_hale_with_its_code",
        a_supervisor_that_cannot_start_ends_hale_with_its_code,
    ),
    ("guardian::signals_reach_the_supervisor", signals_reach_the_supervisor),
    ("guardian::an_ordered_end_has_the_supervisors_code", an_ordered_end_has_the_supervisors_code),
    ("guardian::the_supervisors_last_word_counts", the_supervisors_last_word_counts),
    ("guardian::a_second_hale_is_refused", a_second_hale_is_refused),
    ("guardian::needs_root::a_service_gets_its_identity", a_service_gets_its_identity),
    ("guardian::needs_root::the_directory_is_entered_as_the_user", the_directory_is_entered_as_the_user),
    ("guardian::needs_root::only_the_guardian_is_spared_by_the_kernel", only_the_guardian_is_spared_by_the_kernel),
    ("guardian::needs_root::needs_cgroup2::a_service_is_born_in_its_cgroup", a_service_is_born_in_its_cgroup),
];

fn exits_are_told_exactly_and_once() {
    let mut hale = Hale::start();
    let signalled = |signal| Exit::Signal { signal, core_dumped: false };
    let cases = [
        ("exit 0", Exit::Code(0)),
        ("exit 1", Exit::Code(1)),
        ("exit 255", Exit::Code(255)),
        ("kill -KILL $$", signalled(9)),
        ("kill -TERM $$", signalled(15)),
        ("ulimit -c 0; kill -SEGV $$", signalled(11)),
        ("kill -40 $$", signalled(40)),
    ];
    for (epoch, (script, expected)) in (1..).zip(cases) {
        hale.spawn_script(3, epoch, script);
        hale.expect_running(3);
        match hale.event() {
            GuardianEvent::Exited { slot: Slot(3), epoch: told, exit } => {
                assert_eq!((told, exit), (Epoch(epoch), expected), "{script}");
            }
            other => panic!("{script}: {other:?}"),
        }
    }
    hale.round_trip();
}

fn a_core_dump_is_told_as_the_kernel_tells_it() {
    let mut hale = Hale::start();
    let script = "ulimit -c unlimited; cd $D; kill -ABRT $$";
    let expected =
        Command::new("sh").args(["-c", script]).env("D", hale.directory.path()).status().unwrap().core_dumped();
    hale.spawn_script(0, 1, script);
    hale.expect_running(0);
    let GuardianEvent::Exited { exit, .. } = hale.event() else { panic!("not ended") };
    assert_eq!(exit, Exit::Signal { signal: 6, core_dumped: expected });
}

fn expect_failure(hale: &mut Hale, expected: Step, errno: i32) {
    hale.expect_spawned(0);
    match hale.event() {
        GuardianEvent::SpawnFailed { failure, .. } => assert_eq!(failure, SpawnFailure { step: expected, errno }),
        other => panic!("{expected:?}: {other:?}"),
    }
}

fn a_failed_start_names_step_and_errno() {
    let mut hale = Hale::start();
    let file = |name: &str, content: &str, mode: u32| {
        let path = hale.directory.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        CString::new(path.to_str().unwrap()).unwrap()
    };
    let programs = [
        (text(c"/does/not/exist"), libc::ENOENT),
        (file("not-executable", "#!/bin/sh\n", 0o644), libc::EACCES),
        (file("bad-interpreter", "#!/does/not/exist\n", 0o755), libc::ENOENT),
        (file("not-a-program", "text\n", 0o755), libc::ENOEXEC),
        (text(c"/"), libc::EACCES),
    ];
    let argv = [text(c"x")];
    let mut epochs = 1..;
    for (program, errno) in &programs {
        hale.guardian.spawn(&SpawnOrder { program, ..order(0, epochs.next().unwrap(), &argv, &[]) }).unwrap();
        expect_failure(&mut hale, Step::Exec, *errno);
    }
    hale.guardian
        .spawn(&SpawnOrder { directory: c"/does/not/exist", ..order(0, epochs.next().unwrap(), &argv, &[]) })
        .unwrap();
    expect_failure(&mut hale, Step::Directory, libc::ENOENT);
    hale.guardian
        .spawn(&SpawnOrder { open_files_limit: Some(u64::MAX - 1), ..order(0, epochs.next().unwrap(), &argv, &[]) })
        .unwrap();
    expect_failure(&mut hale, Step::Limits, libc::EPERM);

    // No child at all: something that is not a cgroup.
    let not_a_cgroup = fs::File::open("/").unwrap();
    let epoch = epochs.next().unwrap();
    let changed = SpawnOrder { cgroup: Some(not_a_cgroup.as_fd()), ..order(0, epoch, &argv, &[]) };
    hale.guardian.spawn(&changed).unwrap();
    match hale.event() {
        GuardianEvent::SpawnFailed { failure: SpawnFailure { step: Step::Cgroup, .. }, .. } => {}
        other => panic!("{other:?}"),
    }
    // And it goes on as if nothing had been.
    hale.spawn_script(0, epoch + 1, "exit 3");
    hale.expect_running(0);
    assert!(matches!(hale.event(), GuardianEvent::Exited { exit: Exit::Code(3), .. }));
}

fn what_is_in_the_store_is_passed_on_and_nothing_else() {
    let mut hale = Hale::start();
    let files = ["zero", "one"].map(|name| {
        let path = hale.directory.path().join(name);
        fs::write(&path, name).unwrap();
        fs::File::open(&path).unwrap()
    });
    let keys = [0, 1].map(|index| StoreKey::Listen(Slot(0), index));
    let script = r#"[ "$LISTEN_PID" = $$ ] && [ "$(cat <&4)$(cat <&3)" = zeroone ] && ! [ -e /proc/$$/fd/5 ]"#;
    let (argv, environment) = ([c"sh", c"-c"].map(text).to_vec(), [text(c"PATH=/usr/bin:/bin")]);
    let argv = [argv, vec![CString::new(script).unwrap()]].concat();
    // The other way round, to see that it is the order's order that counts.
    let passed = [keys[1], keys[0]];
    hale.guardian.store(keys[0], files[0].as_fd()).unwrap();
    hale.guardian.spawn(&SpawnOrder { passed: &passed, ..order(0, 1, &argv, &environment) }).unwrap();
    match hale.event() {
        GuardianEvent::SpawnFailed { failure, .. } => {
            assert_eq!(failure, SpawnFailure { step: Step::Listen, errno: libc::EMFILE });
        }
        other => panic!("{other:?}"),
    }
    hale.guardian.store(keys[1], files[1].as_fd()).unwrap();
    hale.guardian.spawn(&SpawnOrder { passed: &passed, ..order(0, 2, &argv, &environment) }).unwrap();
    hale.expect_running(0);
    let end = hale.event();
    assert!(matches!(end, GuardianEvent::Exited { exit: Exit::Code(0), .. }), "{end:?}");
}

fn a_service_starts_clean() {
    let mut hale = Hale::start();
    hale.configure(0, 1 << 20, 1, 1 << 20);
    let script = text(
        c"echo pid $$; cat /proc/$$/stat; ls /proc/$$/fd; umask; pwd; ulimit -n; ulimit -Hn
          grep -E 'SigBlk|SigIgn|NoNewPrivs' /proc/self/status; readlink /proc/$$/fd/0; echo $D >&2",
    );
    let argv = [text(c"argument-zero"), text(c"-c"), script];
    hale.guardian
        .spawn(&SpawnOrder {
            umask: 0o027,
            directory: c"/usr",
            open_files_limit: Some(77),
            ..order(0, 1, &argv, &hale.environment())
        })
        .unwrap();
    let (pid, _) = hale.expect_running(0);
    assert!(matches!(hale.event(), GuardianEvent::Exited { exit: Exit::Code(0), .. }));
    hale.flush(0);
    let (log, _) = hale.read_log(0);
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines[0], format!("hale: epoch 1, pid {pid} started"));
    assert_eq!(lines[1], format!("pid {pid}"));
    let stat: Vec<&str> = lines[2].rsplit_once(") ").unwrap().1.split(' ').collect();
    assert_eq!(stat[1], hale.pid().to_string(), "the parent");
    assert_eq!((stat[2], stat[3]), (&*pid.to_string(), &*pid.to_string()), "process group and session");
    assert_eq!(lines[3..6], ["0", "1", "2"], "descriptors");
    assert_eq!(lines[6..10], ["0027", "/usr", "77", "77"]);
    let none = "0000000000000000";
    assert_eq!(lines[10..13], [format!("SigBlk:\t{none}"), format!("SigIgn:\t{none}"), "NoNewPrivs:\t1".into()]);
    assert_eq!(lines[13..15], ["/dev/null", hale.directory.path().to_str().unwrap()]);
    assert_eq!(lines[15], format!("hale: epoch 1, pid {pid} ended: exit code 0"));
    assert_eq!(lines.len(), 16);
}

/// Children of a guardian with many descriptors leave those behind, instead of copying them.
fn beside_many_others_a_service_starts_and_fails_as_ever() {
    const OTHERS: u32 = 50;
    let mut hale = Hale::start();
    let low = |hale: &Hale| {
        let names = fs::read_dir(format!("/proc/{}/fd", hale.pid())).unwrap();
        names.filter(|name| name.as_ref().unwrap().file_name().to_str().unwrap().len() == 1).count()
    };
    let before = low(&hale);
    for slot in 0..OTHERS {
        hale.spawn_script(slot, 1, "exec sleep 1000");
        hale.expect_running(slot);
    }
    hale.spawn_script(OTHERS, 1, "for fd in 3 4 5 6 7 64 65 99 300; do [ -e /proc/$$/fd/$fd ] && exit 1; done; exit 0");
    hale.expect_running(OTHERS);
    let end = hale.event();
    assert!(matches!(end, GuardianEvent::Exited { slot: Slot(OTHERS), exit: Exit::Code(0), .. }), "{end:?}");
    let argv = [text(c"x")];
    hale.guardian.spawn(&SpawnOrder { program: c"/does/not/exist", ..order(OTHERS, 2, &argv, &[]) }).unwrap();
    hale.expect_spawned(OTHERS);
    let end = hale.event();
    let expected = SpawnFailure { step: Step::Exec, errno: libc::ENOENT };
    assert!(matches!(end, GuardianEvent::SpawnFailed { failure, .. } if failure == expected), "{end:?}");
    assert_eq!(low(&hale), before, "what was made for the children is closed");
}

fn expect_refusal(hale: &mut Hale, errno: i32) {
    match hale.event() {
        GuardianEvent::SpawnFailed { failure, .. } => {
            assert_eq!(failure, SpawnFailure { step: Step::Order, errno });
        }
        other => panic!("{other:?}"),
    }
}

fn a_slot_is_for_one_process_and_epochs_only_grow() {
    let mut hale = Hale::start();
    hale.spawn_script(0, 5, "exec sleep 1000");
    let (pid, pidfd) = hale.expect_running(0);
    hale.spawn_script(0, 6, "exit 0");
    expect_refusal(&mut hale, libc::EBUSY);
    signal(pid, Signal::KILL);
    wait_readable(&pidfd);
    assert!(matches!(hale.event(), GuardianEvent::Exited { epoch: Epoch(5), .. }));
    hale.guardian.ack(Slot(0), Epoch(5)).unwrap();
    hale.spawn_script(0, 5, "exit 0");
    expect_refusal(&mut hale, libc::ESTALE);
    hale.guardian.release(Slot(0)).unwrap();
    hale.spawn_script(0, 6, "exit 0");
    hale.expect_running(0);
}

fn nonsense_is_refused_and_changes_nothing() {
    let mut hale = Hale::start();
    for nonsense in [&b"\x01"[..], b"\xff\x00\x00\x00\x00", b"\x02\x00", &[1; 4096]] {
        assert_eq!(send(&hale.raw, nonsense, None).unwrap(), Sent::Yes);
        expect_refusal(&mut hale, libc::EBADMSG);
    }
    // Longer than any order may be.
    assert_eq!(send(&hale.raw, &vec![1; 150_000], None).unwrap(), Sent::Yes);
    expect_refusal(&mut hale, libc::EBADMSG);
    hale.guardian.ack(Slot(77), Epoch(1)).unwrap();
    hale.guardian.release(Slot(u32::MAX)).unwrap();
    hale.spawn_script(0, 1, "exit 0");
    hale.expect_running(0);
}

fn a_full_pipe_keeps_no_program_from_running() {
    let mut hale = Hale::start();
    // The keeper reads nothing from a slot that was not configured. The pipe is opened once more, so that the one that
    // the next program gets still waits.
    hale.spawn_script(0, 1, "dd if=/dev/zero of=/proc/self/fd/1 oflag=nonblock bs=4096 2>/dev/null; exit 2");
    hale.expect_running(0);
    assert!(matches!(hale.event(), GuardianEvent::Exited { exit: Exit::Code(2), .. }));
    hale.spawn_script(0, 2, "exit 3");
    hale.expect_running(0);
    assert!(matches!(hale.event(), GuardianEvent::Exited { epoch: Epoch(2), exit: Exit::Code(3), .. }));
}

fn make_fifo(path: &Path) {
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

fn strays_are_reaped() {
    let mut hale = Hale::start();
    let (gate, told) = (hale.directory.path().join("gate"), hale.directory.path().join("told"));
    make_fifo(&gate);
    make_fifo(&told);
    hale.spawn_script(0, 1, "(setsid sh -c 'echo $$ > $D/told; read x < $D/gate' &) ; exit 0");
    hale.expect_running(0);
    let stray: i32 = fs::read_to_string(&told).unwrap().trim().parse().unwrap();
    assert!(matches!(hale.event(), GuardianEvent::Exited { exit: Exit::Code(0), .. }));
    assert!(children(hale.pid()).contains(&stray), "it became the guardian's");
    let pid = rustix::process::Pid::from_raw(stray).unwrap();
    let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).unwrap();
    fs::write(&gate, "go\n").unwrap();
    wait_readable(&pidfd);
    hale.round_trip();
    assert!(!Path::new(&format!("/proc/{stray}")).exists(), "no zombie is left");
}

fn a_supervisor_that_does_not_read_stops_nothing() {
    const SERVICES: u32 = 1500;
    let mut hale = Hale::start();
    let argv = [text(c"true")];
    for round in 1..=2 {
        for slot in 0..SERVICES {
            hale.guardian.spawn(&SpawnOrder { program: c"/bin/true", ..order(slot, round, &argv, &[]) }).unwrap();
            hale.guardian.flush().unwrap();
        }
        // Only orders are sent until all processes have ended: the answers have to wait.
        while hale.guardian.wants_to_write() {
            let mut ready = [rustix::event::PollFd::new(&hale.guardian, rustix::event::PollFlags::OUT)];
            rustix::event::poll(&mut ready, None).unwrap();
            hale.guardian.flush().unwrap();
        }
        let mut told: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
        while told.values().filter(|events| events.len() == 3).count() < SERVICES as usize {
            let (slot, what) = match hale.event() {
                GuardianEvent::Spawned { slot, .. } => (slot, "spawned"),
                GuardianEvent::Executed { slot, .. } => (slot, "executed"),
                GuardianEvent::Exited { slot, exit: Exit::Code(0), .. } => (slot, "exited"),
                other => panic!("{other:?}"),
            };
            told.entry(slot.0).or_default().push(what);
        }
        assert!(told.values().all(|events| events == &["spawned", "executed", "exited"]));
    }
}

/// Nobody is in control, and the operator wants the end: the guardian does it alone.
fn without_a_supervisor_the_operator_can_end_everything() {
    let mut hale = Hale::start();
    hale.configure(0, 1 << 20, 1, 1 << 20);
    let told = hale.directory.path().join("told");
    make_fifo(&told);
    hale.spawn_script(
        0,
        1,
        "trap 'echo stopping; exit 0' TERM; (setsid sh -c 'trap \"\" TERM; echo $$ > $D/told; exec sleep 1000' &)
         while :; do sleep 0.01; done",
    );
    hale.expect_running(0);
    let stray: i32 = fs::read_to_string(&told).unwrap().trim().parse().unwrap();
    // Once it is told, once more means now.
    signal(hale.pid().cast_signed(), Signal::TERM);
    assert!(matches!(hale.event(), GuardianEvent::Signalled(HostSignal::Terminate)));
    signal(hale.pid().cast_signed(), Signal::TERM);
    let (status, said) = hale.wait();
    assert_eq!(status.code(), Some(1));
    assert!(said.contains("hale: no supervisor is in control"), "{said}");
    assert!(!Path::new(&format!("/proc/{stray}")).exists(), "strays end too");
    assert!(hale.read_log(0).0.contains("stopping\n"), "asked before it was killed, and its answer kept");
}

fn one_more_word_of_the_operator_is_hurry() {
    let mut hale = Hale::start();
    hale.spawn_script(0, 1, "trap '' TERM; echo ready > $D/ready; while :; do sleep 1000; done");
    hale.configure(0, 1 << 20, 1, 1 << 20);
    let (_, pidfd) = hale.expect_running(0);
    // Told, told again, and hurry: each is seen before the next is sent.
    signal(hale.pid().cast_signed(), Signal::TERM);
    assert!(matches!(hale.event(), GuardianEvent::Signalled(HostSignal::Terminate)));
    signal(hale.pid().cast_signed(), Signal::TERM);
    while !matches!(hale.event(), GuardianEvent::Gone) {}
    signal(hale.pid().cast_signed(), Signal::TERM);
    let (status, _) = hale.wait();
    assert_eq!(status.code(), Some(1));
    wait_readable(&pidfd);
}

fn a_supervisor_that_dies_is_replaced_and_the_next_one_is_told_everything() {
    let mut hale = Hale::start();
    hale.proves = true;
    hale.configure(0, 1 << 20, 1, 1 << 20);
    make_fifo(&hale.directory.path().join("go"));
    hale.spawn_script(0, 1, "read line < $D/go; exit 7");
    let (pid, _) = hale.expect_running(0);
    hale.spawn_script(1, 4, "exit 3");
    hale.expect_running(1);
    assert!(matches!(hale.event(), GuardianEvent::Exited { slot: Slot(1), .. }));
    hale.spawn_script(2, 9, "exit 0");
    hale.expect_running(2);
    assert!(matches!(hale.event(), GuardianEvent::Exited { slot: Slot(2), .. }));
    hale.guardian.ack(Slot(2), Epoch(9)).unwrap();
    let kept = fs::File::open("/proc/self/comm").unwrap();
    hale.guardian.store(StoreKey::Notify(Slot(0)), kept.as_fd()).unwrap();
    // Everything so far was read, and progress was proven.
    hale.round_trip();
    hale.supervisor = None;
    hale.next_supervisor();
    let told: Vec<String> = (0..8).map(|_| format!("{:?}", hale.event())).collect();
    let expected = [
        "Lost { exit: Code(78), evidence: None }".to_owned(),
        "Stored { key: Notify(Slot(0)), fd: Some(".to_owned(),
        format!("Spawned {{ slot: Slot(0), epoch: Epoch(1), pid: {pid}, pidfd: Some("),
        "Executed { slot: Slot(0), epoch: Epoch(1) }".to_owned(),
        "Spawned { slot: Slot(1), epoch: Epoch(4), pid: ".to_owned(),
        "Executed { slot: Slot(1), epoch: Epoch(4) }".to_owned(),
        "Exited { slot: Slot(1), epoch: Epoch(4), exit: Code(3) }".to_owned(),
        "Over { slot: Slot(2), epoch: Epoch(9) }".to_owned(),
    ];
    for (told, expected) in told.iter().zip(&expected) {
        assert!(told.starts_with(expected.as_str()), "{told} where {expected} was due");
    }
    // The process goes on under the new one.
    fs::write(hale.directory.path().join("go"), "\n").unwrap();
    let Some(GuardianEvent::Exited { slot: Slot(0), exit: Exit::Code(7), .. }) = Some(hale.event()) else {
        panic!("its end was not told")
    };
}

fn a_supervisor_that_makes_no_progress_is_replaced_with_what_the_kernel_says_of_it() {
    let mut hale = Hale::start();
    hale.proves = true;
    hale.spawn_script(0, 1, "exec sleep 1000");
    let (pid, _) = hale.expect_running(0);
    hale.round_trip();
    // From here on nobody answers the guardian's numbers.
    hale.proves = false;
    hale.next_supervisor();
    let GuardianEvent::Lost { exit: Exit::Signal { signal: ended_by, .. }, evidence: Some(evidence) } = hale.event()
    else {
        panic!("it was not lost for lack of progress")
    };
    assert_eq!(ended_by, 6, "it was asked to abort first");
    assert!(evidence.to_string().starts_with("state S, in "), "{evidence}");
    let GuardianEvent::Spawned { pid: told, .. } = hale.event() else { panic!("the service was not told") };
    assert_eq!(told, pid);
    assert!(Path::new(&format!("/proc/{pid}")).exists());
}

fn a_signal_that_a_dying_supervisor_was_told_is_told_to_the_next_one() {
    let mut hale = Hale::start();
    hale.proves = true;
    hale.round_trip();
    signal(hale.pid().cast_signed(), Signal::TERM);
    // It was told, and has not proven that it took it.
    hale.proves = false;
    assert!(matches!(hale.event(), GuardianEvent::Signalled(HostSignal::Terminate)));
    hale.supervisor = None;
    hale.next_supervisor();
    assert!(matches!(hale.event(), GuardianEvent::Lost { .. }));
    assert!(matches!(hale.event(), GuardianEvent::Signalled(HostSignal::Terminate)));
}

fn systemd_keeps_what_runs_and_nothing_else_however_late_it_reads() {
    const SERVICES: u32 = 40;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify");
    let systemd = UnixDatagram::bind(&path).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut hale = Hale::start_in(directory, &[("NOTIFY_SOCKET", &path)]);
    hale.proves = true;
    let shared = ["hale.began"].map(String::from).into_iter().chain((0..5).map(|n| format!("hale.keepers.{n}")));
    let mut expected: BTreeSet<String> = shared.collect();
    for slot in 0..SERVICES {
        hale.spawn_script(slot, 1, "exec sleep 1000");
        let (pid, _) = hale.expect_running(slot);
        expected.insert(format!("hp.{slot}.1.{pid}"));
        expected.insert(format!("ho.{slot}"));
    }
    // One that is over, one that was started again, one whose slot is gone, and two where nobody acknowledged the end before:
    // the slot of one of them is used again.
    for slot in (0..5).map(|n| SERVICES + n) {
        hale.spawn_script(slot, 1, "exit 3");
        hale.expect_running(slot);
        assert!(matches!(hale.event(), GuardianEvent::Exited { .. }));
    }
    hale.guardian.ack(Slot(SERVICES), Epoch(1)).unwrap();
    hale.spawn_script(SERVICES + 1, 2, "exec sleep 1000");
    let (pid, _) = hale.expect_running(SERVICES + 1);
    hale.guardian.ack(Slot(SERVICES + 2), Epoch(1)).unwrap();
    hale.guardian.release(Slot(SERVICES + 2)).unwrap();
    expected.insert(format!("hp.{}.2.{pid}", SERVICES + 1));
    hale.guardian.release(Slot(SERVICES + 3)).unwrap();
    hale.guardian.release(Slot(SERVICES + 4)).unwrap();
    hale.spawn_script(SERVICES + 4, 2, "exec sleep 1000");
    let (pid, _) = hale.expect_running(SERVICES + 4);
    expected.insert(format!("hp.{}.2.{pid}", SERVICES + 4));
    expected.extend([0, 1, 4].map(|n| format!("ho.{}", SERVICES + n)));
    let kept = fs::File::open("/proc/self/comm").unwrap();
    for key in [StoreKey::ReadApi, StoreKey::ControlApi, StoreKey::ReadApi] {
        hale.guardian.store(key, kept.as_fd()).unwrap();
    }
    hale.guardian.unstore(StoreKey::ControlApi).unwrap();
    expected.insert("hs.0.0.0".into());
    hale.round_trip();

    let (mut kept, mut ready) = (BTreeSet::new(), 0);
    let mut message = [0; 256];
    while kept != expected || ready == 0 {
        let length = systemd.recv(&mut message).unwrap_or_else(|_| panic!("{kept:?} instead of {expected:?}"));
        let text = std::str::from_utf8(&message[..length]).unwrap();
        match text.split('\n').collect::<Vec<_>>()[..] {
            ["READY=1"] => ready += 1,
            ["FDSTORE=1", "FDPOLL=0", name] => {
                assert!(kept.insert(name["FDNAME=".len()..].to_owned()), "{name} is kept twice");
            }
            ["FDSTOREREMOVE=1", name] => assert!(kept.remove(&name["FDNAME=".len()..]), "{name} was not kept"),
            _ => panic!("{text:?}"),
        }
    }
    assert_eq!(ready, 1);
}

fn a_supervisor_that_cannot_start_ends_hale_with_its_code() {
    let mut hale = Hale::start();
    hale.supervisor = None;
    let (status, _) = hale.wait();
    assert_eq!(status.code(), Some(78), "the code of the one that ended before it proved anything");
}

fn signals_reach_the_supervisor() {
    let mut hale = Hale::start();
    hale.proves = true;
    hale.round_trip();
    let cases = [
        (Signal::TERM, HostSignal::Terminate),
        (Signal::INT, HostSignal::Interrupt),
        (Signal::HUP, HostSignal::Hangup),
        (Signal::TERM, HostSignal::Terminate),
    ];
    for (sent, expected) in cases {
        signal(hale.pid().cast_signed(), sent);
        assert!(matches!(hale.event(), GuardianEvent::Signalled(told) if told == expected));
    }
}

fn an_ordered_end_has_the_supervisors_code() {
    let mut hale = Hale::start();
    hale.configure(0, 1 << 20, 1, 1 << 20);
    hale.spawn_script(0, 1, "seq 1 2000");
    hale.expect_running(0);
    assert!(matches!(hale.event(), GuardianEvent::Exited { .. }));
    hale.guardian.shutdown_done(5).unwrap();
    let (status, said) = hale.wait();
    assert_eq!((status.code(), &*said), (Some(5), ""));
    assert!(hale.read_log(0).0.contains("\n2000\nhale: epoch 1, "), "all output is kept");
}

fn the_supervisors_last_word_counts() {
    let mut hale = Hale::start();
    let keeper = hale.keeper_pid();
    let supervisor = children(hale.pid()).into_iter().find(|&pid| pid != keeper).unwrap();
    let supervisor = rustix::process::Pid::from_raw(supervisor).unwrap();
    let pidfd = rustix::process::pidfd_open(supervisor, rustix::process::PidfdFlags::empty()).unwrap();
    // The guardian sees its end first, and only then what it had said.
    signal(hale.pid().cast_signed(), Signal::STOP);
    hale.supervisor = None;
    wait_readable(&pidfd);
    hale.guardian.shutdown_done(5).unwrap();
    signal(hale.pid().cast_signed(), Signal::CONT);
    let (status, said) = hale.wait();
    assert_eq!((status.code(), &*said), (Some(5), ""));
}

fn a_second_hale_is_refused() {
    let hale = Hale::start();
    let second = Hale::command(hale.directory.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(7));
    let said = String::from_utf8(second.stderr).unwrap();
    assert!(said.contains(&format!("another Hale (pid {})", hale.pid())), "{said}");
}

fn a_service_gets_its_identity() {
    let mut hale = Hale::start();
    hale.configure(0, 1 << 20, 1, 1 << 20);
    let argv = [text(c"sh"), text(c"-c"), text(c"grep -E 'Uid|Gid|Groups' /proc/self/status")];
    hale.guardian
        .spawn(&SpawnOrder {
            identity: Some(Identity { uid: 65_534, gid: 65_533, groups: &[12, 4] }),
            ..order(0, 1, &argv, &[])
        })
        .unwrap();
    hale.expect_running(0);
    assert!(matches!(hale.event(), GuardianEvent::Exited { exit: Exit::Code(0), .. }));
    hale.flush(0);
    let (log, _) = hale.read_log(0);
    assert!(log.contains("Uid:\t65534\t65534\t65534\t65534\n"), "{log}");
    assert!(log.contains("Gid:\t65533\t65533\t65533\t65533\n"), "{log}");
    assert!(log.contains("Groups:\t4 12 \n"), "{log}");
}

fn the_directory_is_entered_as_the_user() {
    let mut hale = Hale::start();
    let private = hale.directory.path().join("private");
    fs::create_dir(&private).unwrap();
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).unwrap();
    let private = CString::new(private.to_str().unwrap()).unwrap();
    hale.guardian
        .spawn(&SpawnOrder {
            identity: Some(Identity { uid: 65_534, gid: 65_534, groups: &[] }),
            directory: &private,
            ..order(0, 1, &[text(c"sh")], &[])
        })
        .unwrap();
    expect_failure(&mut hale, Step::Directory, libc::EACCES);
}

fn only_the_guardian_is_spared_by_the_kernel() {
    let mut hale = Hale::start();
    hale.configure(0, 1 << 20, 1, 1 << 20);
    let own = fs::read_to_string("/proc/self/oom_score_adj").unwrap();
    hale.spawn_script(0, 1, "cat /proc/self/oom_score_adj");
    hale.expect_running(0);
    assert!(matches!(hale.event(), GuardianEvent::Exited { .. }));
    hale.flush(0);
    assert_eq!(hale.read_log(0).0.lines().nth(1), Some(own.trim()));
    // Some sandboxes take this right from root.
    let may = Command::new("sh").args(["-c", "echo -1000 > /proc/self/oom_score_adj"]).output().unwrap();
    let expected = if may.status.success() { "-1000" } else { own.trim() };
    let guardians = fs::read_to_string(format!("/proc/{}/oom_score_adj", hale.pid())).unwrap();
    assert_eq!(guardians.trim(), expected);
}

fn a_service_is_born_in_its_cgroup() {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let mount = mounts.lines().find(|line| line.split(' ').nth(2) == Some("cgroup2")).unwrap();
    let cgroup = Path::new(mount.split(' ').nth(1).unwrap()).join(format!("hale-test-{}", std::process::id()));
    fs::create_dir(&cgroup).unwrap();
    let mut hale = Hale::start();
    hale.configure(0, 1 << 20, 1, 1 << 20);
    let directory = fs::File::open(&cgroup).unwrap();
    let told = hale.directory.path().join("told");
    make_fifo(&told);
    // Its children share its cgroup only: they left its session and are nobody's children.
    let argv = [
        text(c"sh"),
        text(c"-c"),
        text(c"cat /proc/self/cgroup; (setsid sleep 1000 &) ; echo > $D/told; exec sleep 1000"),
    ];
    let environment = hale.environment();
    let changed = SpawnOrder { cgroup: Some(directory.as_fd()), ..order(0, 1, &argv, &environment) };
    hale.guardian.spawn(&changed).unwrap();
    let (pid, _) = hale.expect_running(0);
    fs::read(&told).unwrap();
    assert!(fs::read_to_string(cgroup.join("cgroup.procs")).unwrap().lines().any(|line| line == pid.to_string()));
    signal(pid, Signal::KILL);
    assert!(matches!(hale.event(), GuardianEvent::Exited { .. }));
    hale.flush(0);
    let name = cgroup.file_name().unwrap().to_str().unwrap();
    assert!(hale.read_log(0).0.contains(&format!("/{name}\nhale: ")), "it was there before its program");
    // Nobody is in control: the second word means now.
    signal(hale.pid().cast_signed(), Signal::TERM);
    assert!(matches!(hale.event(), GuardianEvent::Signalled(HostSignal::Terminate)));
    signal(hale.pid().cast_signed(), Signal::TERM);
    hale.wait();
    assert_eq!(fs::read_to_string(cgroup.join("cgroup.procs")).unwrap(), "", "the whole cgroup was killed");
    fs::remove_dir(&cgroup).unwrap();
}
