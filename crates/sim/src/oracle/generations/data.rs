//! The guarantee about data that move forward, judged from what there is of them.

use crate::kernel::Fact;
use crate::oracle::{Oracle, Seen};
use hale_core::record::Record;

/// Nothing does harm to data that is too new for it.
#[derive(Default)]
pub struct Readable;

impl Oracle for Readable {
    fn name(&self) -> &'static str {
        "readable"
    }

    fn guarantee(&self) -> &'static str {
        "no process is made that cannot read the data that there is, and nothing is undone beside a process"
    }

    fn restart(&mut self, _ledger: &[Record]) {}

    fn see(&mut self, _now_us: u64, seen: Seen<'_>) -> Result<(), String> {
        match seen {
            Seen::Fact(Fact::Reads { service, format, data }) if format < data => Err(format!(
                "{service}: a process that reads format {format} is made, and the data is of format {data}"
            )),
            Seen::Fact(Fact::Undoes { service, beside }) if *beside > 0 => {
                Err(format!("{service}: its data is put back while a process of it lives"))
            }
            Seen::Fact(_) | Seen::Event(_) | Seen::Record(_) | Seen::Effect(_) | Seen::Policy(_) => Ok(()),
        }
    }
}
