//! The keeper's promises: no byte is lost that is not counted, and nobody waits for it.

use crate::Test;
use crate::hale::{Hale, Slot, signal};
use hale_daemon::keeper::tail::{Follow, last_lines};
use hale_daemon::protocol::GuardianEvent;
use hale_daemon::sys::wait::Exit;
use rustix::process::Signal;
use std::process::Command;

pub const TESTS: &[Test] = &[
    ("keeper::rotation_loses_no_byte", rotation_loses_no_byte),
    ("keeper::what_is_above_the_rate_is_counted_exactly", what_is_above_the_rate_is_counted_exactly),
    ("keeper::killing_it_under_load_loses_no_line", killing_it_under_load_loses_no_line),
    ("keeper::the_next_one_finishes_what_was_staged", the_next_one_finishes_what_was_staged),
    ("keeper::a_stopped_keeper_stops_neither_guardian_nor_order", a_stopped_keeper_stops_neither_guardian_nor_order),
    ("keeper::one_that_was_stopped_is_replaced", one_that_was_stopped_is_replaced),
    ("keeper::followers_see_every_line", followers_see_every_line),
    ("keeper::needs_root::a_full_disk_is_drained_around", a_full_disk_is_drained_around),
];

fn expect_exit(hale: &mut Hale) {
    match hale.event() {
        GuardianEvent::Exited { exit: Exit::Code(0), .. } => {}
        other => panic!("{other:?}"),
    }
}

/// The lines of the service itself.
fn own_lines(log: &str) -> Vec<&str> {
    log.lines().filter(|line| !line.starts_with("hale: ")).collect()
}

fn assert_counts(lines: &[&str], last: usize) {
    for (expected, line) in (1..).zip(lines) {
        assert_eq!(line.parse(), Ok(expected));
    }
    assert_eq!(lines.len(), last);
}

fn rotation_loses_no_byte() {
    let mut hale = Hale::start();
    hale.configure(0, 10_000, 1_000, 1 << 30);
    hale.spawn_script(0, 1, "seq 1 50000");
    hale.expect_running(0);
    expect_exit(&mut hale);
    let flushed = hale.flush(0);
    let (log, sizes) = hale.read_log(0);
    assert_counts(&own_lines(&log), 50_000);
    assert_eq!(flushed.dropped_bytes, 0);
    let (current, older) = sizes.split_last().unwrap();
    assert!(older.len() > 20 && older.iter().all(|&size| size == 10_000));
    assert_eq!(*current, flushed.size_bytes);
    let last = last_lines(&hale.log(0), 3_000, 1 << 20).unwrap();
    let last: Vec<&str> = last.iter().map(|line| std::str::from_utf8(line).unwrap()).collect();
    assert_eq!(last[..2_999], own_lines(&log)[50_000 - 2_999..]);
}

fn what_is_above_the_rate_is_counted_exactly() {
    // Of each of two processes, in one flood.
    const BYTES: u64 = 5_000_000;
    let mut hale = Hale::start();
    hale.configure(0, 1 << 30, 1, 2_000);
    let mut pids = Vec::new();
    for epoch in [1, 2] {
        hale.spawn_script(0, epoch, "head -c 5000000 /dev/zero | tr '\\0' x");
        pids.push(hale.expect_running(0).0);
        expect_exit(&mut hale);
    }
    let flushed = hale.flush(0);
    let (log, _) = hale.read_log(0);
    let own = own_lines(&log);
    assert!(own.iter().all(|line| line.bytes().all(|byte| byte == b'x')), "torn");
    let kept: u64 = own.iter().map(|line| line.len() as u64).sum();
    let told: u64 = log
        .lines()
        .filter_map(|line| line.strip_prefix("hale: dropped ")?.split(' ').next()?.parse::<u64>().ok())
        .sum();
    assert!(flushed.dropped_bytes > BYTES / 2 && kept > 0, "{flushed:?}");
    assert_eq!(told, flushed.dropped_bytes);
    assert!(log.contains("bytes above the rate of 2000 bytes/s\n"));
    assert_eq!(kept + flushed.dropped_bytes, 2 * BYTES);
    // The borders between the processes are whole, on lines of their own, and none is missing.
    let markers: Vec<&str> = log.lines().filter(|line| line.contains("hale: epoch")).collect();
    let marker = |epoch: usize, what: &str| format!("hale: epoch {epoch}, pid {} {what}", pids[epoch - 1]);
    let ended = "ended: exit code 0";
    assert_eq!(markers, [marker(1, "started"), marker(1, ended), marker(2, "started"), marker(2, ended)]);
}

fn killing_it_under_load_loses_no_line() {
    let mut hale = Hale::start();
    hale.resends = true;
    hale.configure(0, 1 << 20, 1_000, 1 << 40);
    hale.spawn_script(0, 1, "seq 1 1000000");
    hale.expect_running(0);
    for _ in 0..5 {
        signal(hale.keeper_pid(), Signal::KILL);
        // The service may end in between.
        while !matches!(hale.event(), GuardianEvent::KeeperReplaced) {}
        hale.keeper.resend().unwrap();
        hale.flush(0);
    }
    hale.spawn_script(0, 2, "exit 0");
    loop {
        match hale.event() {
            GuardianEvent::SpawnFailed { .. } => hale.spawn_script(0, 2, "exit 0"),
            GuardianEvent::Exited { epoch, .. } if epoch.0 == 2 => break,
            _ => {}
        }
    }
    hale.flush(0);
    assert_counts(&own_lines(&hale.read_log(0).0), 1_000_000);
}

fn the_next_one_finishes_what_was_staged() {
    let mut hale = Hale::start();
    hale.resends = true;
    for slot in [0, 1] {
        hale.configure(slot, 1 << 20, 1, 1 << 30);
        hale.spawn_script(slot, 1, "echo before");
        hale.expect_running(slot);
        expect_exit(&mut hale);
        hale.flush(slot);
    }
    // As if it died between taking it out of the pipe and writing it.
    let old = hale.keeper_pid();
    signal(old, Signal::STOP);
    let write = |fd: u32, bytes: &[u8]| {
        let file = std::fs::File::options().write(true).open(format!("/proc/{old}/fd/{fd}")).unwrap();
        std::io::Write::write_all(&mut &file, bytes).unwrap();
    };
    write(6, b"staged\n");
    write(7, &1_u32.to_le_bytes());
    hale.spawn_script(1, 2, "echo after");
    hale.expect_running(1);
    expect_exit(&mut hale);
    signal(old, Signal::KILL);
    assert!(matches!(hale.event(), GuardianEvent::KeeperReplaced));
    hale.keeper.resend().unwrap();
    hale.flush(1);
    assert_eq!(own_lines(&hale.read_log(1).0), ["before", "staged", "after"]);
    assert_eq!(own_lines(&hale.read_log(0).0), ["before"]);
}

fn a_stopped_keeper_stops_neither_guardian_nor_order() {
    let mut hale = Hale::start();
    hale.configure(0, 1 << 20, 1, 1 << 30);
    hale.flush(0);
    signal(hale.keeper_pid(), Signal::STOP);
    // More than the pipe holds.
    hale.spawn_script(0, 1, "exec yes");
    let (pid, _) = hale.expect_running(0);
    let pipe = format!("/proc/{pid}/fd/1");
    let full = || rustix::io::ioctl_fionread(std::fs::File::open(&pipe).unwrap()).unwrap();
    // The first of its 16 pages holds the marker.
    while full() < 15 * 4096 {
        std::thread::yield_now();
    }
    signal(pid, Signal::KILL);
    let GuardianEvent::Exited { .. } = hale.event() else { panic!("not ended") };
    // There is no room for the next one's first line: it runs all the same, and so does a service beside it.
    hale.spawn_script(1, 1, "exec sleep 1000");
    hale.spawn_script(0, 2, "echo second");
    let (mut second, mut run) = (None, [false; 2]);
    while run != [true; 2] {
        match hale.event() {
            GuardianEvent::Spawned { slot: Slot(0), pid, .. } => second = Some(pid),
            GuardianEvent::Spawned { slot: Slot(1), .. } => {}
            GuardianEvent::Executed { slot: Slot(slot @ 0..2), .. } => run[slot as usize] = true,
            other => panic!("{other:?}"),
        }
    }
    let second = second.unwrap();
    hale.round_trip();
    signal(hale.keeper_pid(), Signal::CONT);
    expect_exit(&mut hale);
    hale.flush(0);
    let (log, _) = hale.read_log(0);
    let last: Vec<&str> = log.lines().rev().take(2).collect();
    assert_eq!(last[0], format!("hale: epoch 2, pid {second} ended: exit code 0"));
    // The last `y` may have been cut by its end.
    assert!(last[1].ends_with("second"), "{last:?}");
}

fn one_that_was_stopped_is_replaced() {
    let mut hale = Hale::start();
    hale.resends = true;
    hale.configure(0, 1 << 20, 1_000, 1 << 40);
    hale.flush(0);
    let stopped = hale.keeper_pid();
    signal(stopped, Signal::STOP);
    // More than its pipe holds: it is done only if somebody reads.
    hale.spawn_script(0, 1, "seq 1 100000");
    hale.expect_running(0);
    assert!(matches!(hale.event(), GuardianEvent::KeeperReplaced));
    assert_ne!(hale.keeper_pid(), stopped);
    hale.keeper.resend().unwrap();
    expect_exit(&mut hale);
    hale.flush(0);
    assert_counts(&own_lines(&hale.read_log(0).0), 100_000);
}

fn followers_see_every_line() {
    let mut hale = Hale::start();
    hale.configure(0, 20_000, 1_000, 1 << 30);
    hale.spawn_script(0, 1, "echo first");
    hale.expect_running(0);
    expect_exit(&mut hale);
    hale.flush(0);
    let mut follow = Follow::new(&hale.log(0)).unwrap();
    hale.spawn_script(0, 2, "seq 1 20000");
    let mut seen = Vec::new();
    while !seen.ends_with(b"ended: exit code 0\n") {
        assert!(follow.read(&mut seen, 20_000).unwrap() > 0, "nothing came");
    }
    assert_counts(&own_lines(std::str::from_utf8(&seen).unwrap()), 20_000);
}

fn a_full_disk_is_drained_around() {
    let mut hale = Hale::start();
    let log = hale.directory.path().join("log");
    std::fs::create_dir(&log).unwrap();
    let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=256k", "none"]).arg(&log).status().unwrap();
    assert!(mount.success());
    hale.configure(0, 1 << 30, 1, 1 << 30);
    hale.spawn_script(0, 1, "head -c 3000000 /dev/zero | tr '\\0' x");
    hale.expect_running(0);
    expect_exit(&mut hale);
    let flushed = hale.flush(0);
    let (text, _) = hale.read_log(0);
    let kept = text.bytes().filter(|&byte| byte == b'x').count() as u64;
    let unmount = Command::new("umount").arg("-l").arg(&log).status().unwrap();
    assert!(unmount.success());
    assert!(kept > 100_000, "{kept}");
    // The end marker may be among what was dropped.
    let dropped = 3_000_000 - kept;
    assert!((dropped..dropped + 100).contains(&flushed.dropped_bytes), "{kept} kept, {flushed:?}");
}
