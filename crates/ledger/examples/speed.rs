//! How fast a ledger is written (without the disk) and verified, in memory, beside plain SHA-256 of the same bytes.
//! `cargo run --release -p hale-ledger --example speed`

use hale_ledger::{Hash, Position, Verifier};
use std::error::Error;
use std::time::Instant;

/// 256 MiB: long enough for half a second, short enough for any machine.
const BYTES: u64 = 256 * 1024 * 1024;

fn main() -> Result<(), Box<dyn Error>> {
    let tail = "x".repeat(300);
    let payload = |n: u64| format!(r#"{{"kind":"sample","at":{{"wall_us":{n}}},"service":"web","tail":"{tail}"}}"#);
    let (mut position, mut file) = (Position::default(), Vec::with_capacity(BYTES as usize + 4096));
    let start = Instant::now();
    while position.bytes() < BYTES {
        let next = position.chain().next_seq();
        position.append(payload(next).as_bytes(), &mut file)?;
    }
    let records = position.chain().next_seq();
    report("append", start, file.len(), records);
    for _ in 0..3 {
        let start = Instant::now();
        std::hint::black_box(Hash::of(&file));
        report("sha256 alone", start, file.len(), records);
        let start = Instant::now();
        Verifier::default().open(&file[..])?;
        report("verify", start, file.len(), records);
    }
    Ok(())
}

fn report(what: &str, start: Instant, bytes: usize, records: u64) {
    let seconds = start.elapsed().as_secs_f64();
    let (speed, rate) = (bytes as f64 / 1e6 / seconds, records as f64 / 1e3 / seconds);
    println!("{what:<14}{speed:>6.0} MB/s{rate:>7.0} k records/s of {} bytes", bytes as u64 / records);
}
