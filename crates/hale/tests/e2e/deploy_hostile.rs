//! Archives that want more than to be a release, uploads that do not end, and a disk that is full: one clear line, nothing left of
//! them, and the service runs on.

use crate::deploying::{LIVES, PASSES, SERVICE, begin, deploy, release, runs, text};
use crate::harness::Place;
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Output, Stdio};
use tar::{EntryType, Header};

/// An archive of one file that is fine, and then this.
fn with(kind: EntryType, name: &[u8], change: impl Fn(&mut Header)) -> Vec<u8> {
    let mut archive = Vec::new();
    entry(&mut archive, EntryType::Regular, b"fine", |_| {});
    entry(&mut archive, kind, name, change);
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn entry(archive: &mut Vec<u8>, kind: EntryType, name: &[u8], change: impl Fn(&mut Header)) {
    let mut header = Header::new_gnu();
    header.as_old_mut().name[..name.len()].copy_from_slice(name);
    header.set_mode(0o644);
    header.set_entry_type(kind);
    for set in [Header::set_size, Header::set_uid, Header::set_gid, Header::set_mtime] {
        set(&mut header, 0);
    }
    change(&mut header);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
}

fn to(target: &'static str) -> impl Fn(&mut Header) {
    move |header| header.set_link_name_literal(target).unwrap()
}

/// `hale deploy app -` of this.
fn send_archive(place: &Place, archive: &[u8]) -> Output {
    let mut client = place.command();
    client.args(["deploy", "app", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut client = client.spawn().unwrap();
    // It may have heard enough before it was sent all.
    let _ = client.stdin.take().unwrap().write_all(archive);
    client.wait_with_output().unwrap()
}

/// What is in the store of the service, without what belongs to the releases that are there.
fn left(place: &Place) -> Vec<String> {
    let dir = place.path("state/releases/app");
    let names: Vec<String> =
        fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let releases: Vec<&String> = names.iter().filter(|name| name.len() == 64 && dir.join(name).is_dir()).collect();
    let belongs = |name: &&String| releases.iter().any(|release| name.contains(&***release)) || *name == "current";
    names.iter().filter(|name| !belongs(name)).cloned().collect()
}

#[test]
fn archives_that_want_more_are_refused_and_leave_nothing() {
    let place = Place::new();
    let hale = begin(&place, SERVICE);
    release(&place, "good", LIVES, PASSES);
    deploy(&place, "good", 0);
    let (good, before) = (runs(&place), fs::read_dir(place.path("state/releases/app")).unwrap().count());
    let nothing = |_: &mut Header| {};
    let huge = |header: &mut Header| header.set_size(5 << 30);
    let set_id = |header: &mut Header| header.set_mode(0o4755);
    let device = |header: &mut Header| {
        header.set_device_major(1).unwrap();
        header.set_device_minor(3).unwrap();
    };
    let cases: [(&str, Vec<u8>, &str); 12] = [
        ("upwards", with(EntryType::Regular, b"../../../etc/cron.d/x", nothing), "goes upwards by `..`"),
        ("absolute", with(EntryType::Regular, b"/etc/cron.d/x", nothing), "is absolute"),
        ("a link out", with(EntryType::Symlink, b"out", to("../../../../etc")), "leaves the release"),
        ("a link to an absolute name", with(EntryType::Symlink, b"out", to("/etc/shadow")), "leaves the release"),
        ("a hard link out", with(EntryType::Link, b"out", to("/etc/shadow")), "out"),
        ("a device", with(EntryType::Char, b"null", device), "null cannot be part of a release"),
        ("a fifo", with(EntryType::Fifo, b"pipe", nothing), "pipe cannot be part of a release"),
        ("set-user-id", with(EntryType::Regular, b"su", set_id), "set-user-id"),
        ("twice", with(EntryType::Regular, b"fine", nothing), "is in the archive twice"),
        ("below a file", with(EntryType::Regular, b"fine/below", nothing), "lies below fine"),
        ("too large", with(EntryType::Regular, b"huge", huge), "the limit of a release"),
        ("no archive", b"#!/bin/sh\n".repeat(200), "neither a tar"),
    ];
    for (what, archive, why) in cases {
        let refused = send_archive(&place, &archive);
        assert_refused(what, &refused, why);
    }
    // Gigabytes are announced, as many as a release may have, and it ends before they are there. Where the disk has no room for them
    // it is refused for that.
    let mut bomb = GzEncoder::new(Vec::new(), Compression::fast());
    let mut head = Vec::new();
    entry(&mut head, EntryType::Regular, b"zeros", |header| header.set_size(4 << 30));
    bomb.write_all(&head).unwrap();
    bomb.write_all(&vec![0; 32 << 20]).unwrap();
    let refused = send_archive(&place, &bomb.finish().unwrap());
    let said = text(&refused);
    let is_so = |code, why| refused.status.code() == Some(code) && said.contains(why);
    assert!(is_so(6, "it ends in the middle") || is_so(1, "not enough space"), "{refused:?}");
    assert_eq!(left(&place), [""; 0]);
    assert_eq!(fs::read_dir(place.path("state/releases/app")).unwrap().count(), before);
    assert_eq!(runs(&place), good);
    hale.stop();
}

#[track_caller]
fn assert_refused(what: &str, refused: &Output, why: &str) {
    let said = text(refused);
    assert!(refused.status.code() == Some(6) && said.contains(why), "{what}: {refused:?}");
    assert!(said.trim_end().lines().count() <= 2, "{what}: {said}");
    assert!(!said.trim_end().contains(|letter: char| letter.is_control() && letter != '\n'), "{what}: {said:?}");
}

/// Names are bytes: what a terminal would obey is no reason to refuse a file, and it is never sent to one.
#[test]
fn names_that_a_terminal_would_obey_are_taken_or_refused_and_never_shown_as_they_are() {
    let place = Place::new();
    let hale = begin(&place, SERVICE);
    let name = b"a\nb\x1b[2J\x07\xff";
    let set_id = |header: &mut Header| header.set_mode(0o2755);
    let refused = send_archive(&place, &with(EntryType::Regular, name, set_id));
    assert_refused("set-group-id", &refused, "a%0Ab%1B[2J%07%FF");
    // It is a release, that has no program.
    let taken = send_archive(&place, &with(EntryType::Regular, name, |_| {}));
    assert_eq!(taken.status.code(), Some(1), "{taken:?}");
    let said = text(&taken);
    assert!(!said.contains(|letter: char| letter.is_control() && letter != '\n'), "{said:?}");
    hale.stop();
}

/// Begins to send as a client does, says that there is more, and stops.
fn begin_upload(place: &Place, archive: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(place.path("run/control.sock")).unwrap();
    let head = "POST /v1/services/app/releases HTTP/1.1\r\nhost: hale\r\ncontent-length: 99999999\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(archive).unwrap();
    stream
}

#[test]
fn uploads_that_do_not_end_hold_up_nobody_and_leave_nothing() {
    let place = Place::new();
    let hale = begin(&place, SERVICE);
    for (name, app) in [("good", LIVES), ("bad", "exit 3")] {
        release(&place, name, app, PASSES);
    }
    deploy(&place, "good", 0);
    let good = runs(&place);
    // One that stalls: meanwhile another is told that it is busy, and orders are carried out.
    let mut archive = Vec::new();
    entry(&mut archive, EntryType::Regular, b"big", |header| header.set_size(50_000_000));
    archive.resize(1 << 20, b'x');
    let stalls = begin_upload(&place, &archive);
    place.until(|| match left(&place).is_empty() {
        true => Err("nothing has begun".into()),
        false => Ok(()),
    });
    let busy = deploy(&place, "bad", 7);
    assert!(text(&busy).contains("another release of app is being imported"), "{}", text(&busy));
    place.done(&["restart", "app"]);
    assert_eq!(runs(&place), good);
    // It dies, and nothing is left of it.
    drop(stalls);
    place.until(|| match left(&place) {
        left if left.is_empty() => Ok(()),
        left => Err(left.join(" ")),
    });
    deploy(&place, "bad", 4);
    // Hale dies amidst one: the next one clears up.
    let mut stalls = begin_upload(&place, &archive);
    place.until(|| match left(&place).is_empty() {
        true => Err("nothing has begun".into()),
        false => Ok(()),
    });
    hale.kill_all();
    let _ = stalls.read(&mut [0; 16]);
    let hale = place.hale_again();
    hale.event("app", "ready");
    place.until(|| match left(&place) {
        left if left.is_empty() => Ok(()),
        left => Err(left.join(" ")),
    });
    assert_eq!(runs(&place), good);
    hale.stop();
}
