//! Open files: how many descriptors the process has that has most.

use super::is_gone;
use crate::execute::tree::Handle;
use rustix::fs::{AtFlags, Dir, Mode, OFlags, openat, statat};
use std::io;

/// The process with most descriptors.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct OpenFiles {
    pub count: u64,
    /// 0: of none it could be told.
    pub pid: i32,
    /// Processes that this user may not ask.
    pub unreadable: usize,
}

/// Finds it.
#[derive(Debug, Default)]
pub(super) struct Most(OpenFiles);

impl Most {
    pub fn add(&mut self, handle: &Handle) {
        match count(handle) {
            Ok(count) if count > self.0.count || self.0.pid == 0 => {
                (self.0.count, self.0.pid) = (count, handle.pid());
            }
            Ok(_) => {}
            Err(error) if is_gone(&error) => {}
            Err(_) => self.0.unreadable += 1,
        }
    }

    pub fn found(self) -> OpenFiles {
        self.0
    }
}

fn count(handle: &Handle) -> io::Result<u64> {
    // Since Linux 6.2 the size is the number of descriptors; before it is 0, as it is for a process without any.
    let told = u64::try_from(statat(handle.dir(), "fd", AtFlags::empty())?.st_size).unwrap_or(0);
    if told > 0 { Ok(told) } else { count_each(handle) }
}

fn count_each(handle: &Handle) -> io::Result<u64> {
    let dir = openat(handle.dir(), "fd", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let names = Dir::new(dir)?.flatten().filter(|entry| !entry.file_name().to_bytes().starts_with(b"."));
    Ok(names.count() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ways_count_the_same() {
        let own = Handle::open(std::process::id().cast_signed()).unwrap().unwrap();
        let files: Vec<_> = (0..50).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        let told = count(&own).unwrap();
        assert!(told > files.len() as u64, "{told}");
        // The descriptor that it reads them by is one more.
        assert_eq!(count_each(&own).unwrap(), told + 1);
    }
}
