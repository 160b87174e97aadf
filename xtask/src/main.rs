//! The only entry to Hale's checks and tools: `cargo xtask test`, `gen`, `bench`, `vm`, `fuzz` and `dist`.

mod bench;
mod dist;
mod edges;
mod filter;
mod fuzz;
mod generate;
mod host;
mod lines;
mod markdown;
mod purity;
mod report;
mod source;
mod test;
mod tidy;
mod tools;
mod transcript;
mod vm;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask COMMAND

  test          all that continuous integration checks; as root it installs the Debian packages that tests use
  tidy          only the checks that read files: a second
  lines [FOLDER...]  counts code without tests, comments and blank lines; by default the guardian's
  gen [--check] writes what programs generate: docs/hale.schema.json and the transcripts in README.md
  bench [NAME]  measures Hale against a plain spawn-and-wait loop and the peers that are installed (runit, s6)
  vm [SCENARIO...] [--full]  Hale in emulated machines: power cuts, resets; --full has the large counts
  fuzz [TARGET] [SECONDS | FILE... | merge]  looks for inputs that break Hale, or runs these; merge: keeps the new ones
  dist          builds the static binary, target/x86_64-unknown-linux-musl/release/hale
";

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => return test::run(),
        ["tidy"] => tools::repository().and_then(|root| test::read_only_gates(&root)),
        ["lines", folders @ ..] => tools::repository().and_then(|root| lines::print(&root, folders)),
        ["gen"] => tools::repository().and_then(|root| generate::generate(&root, false)),
        ["gen", "--check"] => tools::repository().and_then(|root| generate::generate(&root, true)),
        ["vm", words @ ..] => tools::repository().and_then(|root| vm::run(&root, words)),
        ["fuzz", words @ ..] => tools::repository().and_then(|root| fuzz::command(&root, words)),
        ["dist"] => tools::repository().and_then(|root| dist::build(&root)).map(|file| println!("{}", file.display())),
        ["bench", figures @ ..] => tools::repository().and_then(|root| bench::measure(&root, figures)),
        _ => Err(USAGE.to_owned()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
