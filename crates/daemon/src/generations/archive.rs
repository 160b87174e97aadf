//! Entries of a tar, each with one name and one meaning: what two readers could understand differently is refused.
//!
//! The crate `tar` knows the fields of a header. Its reader takes long names and PAX headers into memory as they come, ends
//! without a word where a stream was cut between two entries, and splits PAX records at line feeds, which names may contain.

use super::error::{ArchiveFault, EntryFault, StoreError, entry, shown};
use super::import::{DEPTH_MAX, ENTRIES_MAX, PATH_BYTES_MAX};
use super::stream::Stream;
use std::io::Read;
use tar::{EntryType, Header};

pub(super) const BLOCK: usize = 512;

/// 64 KiB: eight times the longest path and link together, also if each byte of them is escaped by somebody.
const EXTENSION_BYTES_MAX: u64 = 64 << 10;

/// What an entry is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Dir,
    /// Its content is read by [`Archive::read_content`].
    File {
        executable: bool,
        size: u64,
    },
    Link {
        target: Vec<u8>,
    },
    /// To an earlier file, by its path.
    HardLink {
        target: Vec<u8>,
    },
}

/// One entry. Its path has no `.`, no `..` and no empty parts; the root's is empty.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
}

/// What the headers before an entry say of it.
#[derive(Default)]
struct Said {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

pub(super) struct Archive<R> {
    from: Stream<R>,
    /// Of the content of the entry that was given last, and what fills its last block.
    content_left: u64,
    padding_left: u64,
    headers: usize,
}

impl<R: Read> Archive<R> {
    pub(super) fn new(from: Stream<R>) -> Self {
        Self { from, content_left: 0, padding_left: 0, headers: 0 }
    }

    /// The next entry. What is left of the content of the one before is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        let mut said = Said::default();
        let mut is_announced = false;
        loop {
            let Some(header) = self.header()? else {
                return if is_announced { Err(StoreError::Archive(ArchiveFault::Truncated)) } else { Ok(None) };
            };
            let name = header.path_bytes().into_owned();
            let unclear = |why| entry(&name, EntryFault::Unclear(why));
            let size = size(&header).ok_or_else(|| unclear("its size is no number"))?;
            self.content_left = size;
            self.padding_left = size.wrapping_neg() % BLOCK as u64;
            match header.entry_type() {
                EntryType::GNULongName => once(&mut said.path, without_nul(self.extension(&name)?)).map_err(unclear)?,
                EntryType::GNULongLink => once(&mut said.link, without_nul(self.extension(&name)?)).map_err(unclear)?,
                EntryType::XHeader => said.pax(&self.extension(&name)?).map_err(|why| entry(&name, why))?,
                EntryType::XGlobalHeader => {
                    let mut all = Said::default();
                    all.pax(&self.extension(&name)?).map_err(|why| entry(&name, why))?;
                    if all.path.is_some() || all.link.is_some() || all.size.is_some() {
                        return Err(unclear("it names all files alike"));
                    }
                    continue;
                }
                kind => return self.entry(&header, kind, said, size).map(Some),
            }
            is_announced = true;
        }
    }

    fn entry(&mut self, header: &Header, kind: EntryType, said: Said, size: u64) -> Result<Entry, StoreError> {
        let name = said.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let refuse = |why| entry(&name, why);
        let unclear = |why| refuse(EntryFault::Unclear(why));
        if said.size.is_some_and(|said| said != size) {
            return Err(unclear("it has two sizes"));
        }
        let path = path(&name).map_err(refuse)?;
        let mode = header.mode().map_err(|_| unclear("its permissions are no number"))?;
        let target = || said.link.clone().or_else(|| header.link_name_bytes().map(|link| link.into_owned()));
        let ends_as_dir = name.ends_with(b"/");
        let kind = match kind {
            // Before POSIX a directory was a file whose name ends with a slash.
            EntryType::Directory => Kind::Dir,
            EntryType::Regular if ends_as_dir && size == 0 => Kind::Dir,
            EntryType::Regular | EntryType::Continuous => Kind::File { executable: mode & 0o111 != 0, size },
            EntryType::Symlink => Kind::Link { target: link(target()).map_err(refuse)? },
            EntryType::Link => {
                let named = link(target()).map_err(refuse)?;
                let target = self::path(&named).map_err(|_| refuse(EntryFault::HardLink(shown(&named))))?;
                Kind::HardLink { target }
            }
            EntryType::Char | EntryType::Block => return Err(refuse(EntryFault::Special("device"))),
            EntryType::Fifo => return Err(refuse(EntryFault::Special("fifo"))),
            EntryType::GNUSparse => return Err(refuse(EntryFault::Sparse)),
            other => return Err(refuse(EntryFault::UnknownKind(char::from(other.as_byte())))),
        };
        let is_file = matches!(kind, Kind::File { .. });
        if !is_file && size > 0 {
            return Err(unclear("it has a content, and is no file"));
        }
        if kind != Kind::Dir {
            if path.is_empty() {
                return Err(refuse(EntryFault::NoName));
            }
            if ends_as_dir {
                return Err(unclear("its name is that of a directory"));
            }
        }
        // On directories the set-group-id bit is a custom of shared ones, and says nothing about programs.
        if (is_file || matches!(kind, Kind::HardLink { .. })) && mode & 0o7000 != 0 {
            return Err(refuse(EntryFault::SetId));
        }
        Ok(Entry { path, kind })
    }

    /// Of the content of the last entry; 0 at its end.
    pub(super) fn read_content(&mut self, buffer: &mut [u8]) -> Result<usize, StoreError> {
        let bytes = usize::try_from(self.content_left).unwrap_or(usize::MAX).min(buffer.len());
        if bytes == 0 {
            return Ok(0);
        }
        let read = self.from.read(&mut buffer[..bytes])?;
        if read == 0 {
            return Err(StoreError::Archive(ArchiveFault::Truncated));
        }
        self.content_left -= read as u64;
        Ok(read)
    }

    fn extension(&mut self, name: &[u8]) -> Result<Vec<u8>, StoreError> {
        if self.content_left > EXTENSION_BYTES_MAX {
            return Err(entry(name, EntryFault::TooLong));
        }
        let mut all = vec![0; usize::try_from(self.content_left).unwrap_or(0)];
        let mut filled = 0;
        while filled < all.len() {
            filled += self.read_content(&mut all[filled..])?;
        }
        Ok(all)
    }

    /// The next header; `None` at the archive's end, behind which there is nothing.
    fn header(&mut self) -> Result<Option<Header>, StoreError> {
        let mut skipped = [0; 8 << 10];
        while self.read_content(&mut skipped)? > 0 {}
        let padding = usize::try_from(self.padding_left).unwrap_or(0);
        self.fill(&mut skipped[..padding])?;
        self.padding_left = 0;
        let mut header = Header::new_old();
        let read = self.fill_some(header.as_mut_bytes())?;
        let not_a_tar = self.headers == 0;
        if read < BLOCK {
            let why = if not_a_tar && read > 0 { ArchiveFault::NotATar } else { ArchiveFault::Truncated };
            return Err(StoreError::Archive(why));
        }
        if *header.as_bytes() == [0; BLOCK] {
            return self.end().map(|()| None);
        }
        if !is_header(header.as_bytes()) {
            let why = if not_a_tar { ArchiveFault::NotATar } else { ArchiveFault::BadHeader(self.headers) };
            return Err(StoreError::Archive(why));
        }
        self.headers += 1;
        // Also those that add nothing to the tree take time.
        if self.headers > ENTRIES_MAX {
            return Err(StoreError::Archive(ArchiveFault::TooMany));
        }
        Ok(Some(header))
    }

    /// The rest is zeros: what some would read and others not is in no release. Read to its end, so that the checksums at the
    /// end of a compressed stream are compared.
    fn end(&mut self) -> Result<(), StoreError> {
        let mut rest = [0; 8 << 10];
        loop {
            match self.from.read(&mut rest)? {
                0 => return Ok(()),
                read if rest[..read].iter().all(|&byte| byte == 0) => {}
                _ => return Err(StoreError::Archive(ArchiveFault::Trailing)),
            }
        }
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<(), StoreError> {
        if self.fill_some(buffer)? < buffer.len() {
            return Err(StoreError::Archive(ArchiveFault::Truncated));
        }
        Ok(())
    }

    fn fill_some(&mut self, buffer: &mut [u8]) -> Result<usize, StoreError> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.from.read(&mut buffer[filled..])? {
                0 => break,
                read => filled += read,
            }
        }
        Ok(filled)
    }
}

/// The length of an entry's content: octal, or binary where that is too short (GNU). The crate reads the last 8 bytes of a
/// binary one, and takes a sign, with which GNU tar began a third form.
fn size(header: &Header) -> Option<u64> {
    let field = &header.as_bytes()[124..136];
    let is_clear = if field[0] & 0x80 == 0 { !field.contains(&b'+') } else { field[..4] == [0x80, 0, 0, 0] };
    header.entry_size().ok().filter(|_| is_clear)
}

/// Whether the sum of all bytes, those of the sum itself taken as spaces, is in its place.
pub(super) fn is_header(block: &[u8]) -> bool {
    let sum = |bytes: &[u8]| bytes.iter().map(|&byte| u32::from(byte)).sum::<u32>();
    block.len() == BLOCK
        && Header::from_byte_slice(block).cksum().ok()
            == Some(sum(&block[..148]) + 8 * u32::from(b' ') + sum(&block[156..]))
}

impl Said {
    /// Takes what PAX records say that matters here.
    fn pax(&mut self, mut records: &[u8]) -> Result<(), EntryFault> {
        const DAMAGED: EntryFault = EntryFault::Unclear("its extended header is damaged");
        while !records.is_empty() {
            let (key, value, rest) = record(records).ok_or(DAMAGED)?;
            records = rest;
            let taken = match key {
                b"path" => once(&mut self.path, value.to_vec()),
                b"linkpath" => once(&mut self.link, value.to_vec()),
                b"size" => {
                    let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(DAMAGED)?;
                    once(&mut self.size, size)
                }
                _ if key.starts_with(b"GNU.sparse.") || key == b"SCHILY.realsize" => return Err(EntryFault::Sparse),
                // Owners, times, comments, extended attributes: nothing of a release.
                _ => Ok(()),
            };
            taken.map_err(EntryFault::Unclear)?;
        }
        Ok(())
    }
}

/// The first of the records `<length> <key>=<value>\n`, and the others. The length counts all of it.
fn record(records: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let digits = records.iter().position(|&byte| byte == b' ')?;
    let is_number = records[..digits].iter().all(u8::is_ascii_digit);
    let length: usize = std::str::from_utf8(&records[..digits]).ok().filter(|_| is_number)?.parse().ok()?;
    let (record, rest) = records.split_at_checked(length)?;
    let pair = record.get(digits + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|&byte| byte == b'=')?;
    Some((&pair[..equals], &pair[equals + 1..], rest))
}

fn once<T>(place: &mut Option<T>, value: T) -> Result<(), &'static str> {
    if place.replace(value).is_some() { Err("it is named twice") } else { Ok(()) }
}

/// GNU tar ends a long name with a NUL.
fn without_nul(mut name: Vec<u8>) -> Vec<u8> {
    if name.last() == Some(&0) {
        name.pop();
    }
    name
}

fn link(target: Option<Vec<u8>>) -> Result<Vec<u8>, EntryFault> {
    let target = target.filter(|target| !target.is_empty()).ok_or(EntryFault::Unclear("it is a link to nothing"))?;
    if target.contains(&0) {
        return Err(EntryFault::Nul);
    }
    if target.len() >= PATH_BYTES_MAX {
        return Err(EntryFault::TooLong);
    }
    Ok(target)
}

/// The parts of a name that lead somewhere, if it may be in a release.
fn path(name: &[u8]) -> Result<Vec<u8>, EntryFault> {
    const NAME_BYTES_MAX: usize = 255;
    if name.is_empty() {
        return Err(EntryFault::NoName);
    }
    if name.contains(&0) {
        return Err(EntryFault::Nul);
    }
    if name.starts_with(b"/") {
        return Err(EntryFault::Absolute);
    }
    if name.len() >= PATH_BYTES_MAX {
        return Err(EntryFault::TooLong);
    }
    let parts: Vec<&[u8]> = name.split(|&byte| byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    if parts.contains(&&b".."[..]) {
        return Err(EntryFault::Upwards);
    }
    if parts.iter().any(|part| part.len() > NAME_BYTES_MAX) {
        return Err(EntryFault::TooLong);
    }
    if parts.len() > DEPTH_MAX + 1 {
        return Err(EntryFault::TooDeep);
    }
    Ok(parts.join(&b'/'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations::testing::{Again, Tar};
    use std::io::repeat;

    fn entries(from: impl Read) -> Result<Vec<(Entry, Vec<u8>)>, StoreError> {
        let mut archive = Archive::new(Stream::new(from, 1 << 30)?);
        let mut all = Vec::new();
        while let Some(entry) = archive.next()? {
            let (mut content, mut buffer) = (Vec::new(), [0; 100]);
            loop {
                match archive.read_content(&mut buffer)? {
                    0 => break,
                    read => content.extend_from_slice(&buffer[..read]),
                }
            }
            all.push((entry, content));
        }
        Ok(all)
    }

    fn paths(tar: Tar) -> Vec<Vec<u8>> {
        entries(&tar.end()[..]).unwrap().into_iter().map(|(entry, _)| entry.path).collect()
    }

    #[track_caller]
    fn refused(tar: Tar) -> (String, EntryFault) {
        match entries(&tar.end()[..]) {
            Err(StoreError::Entry { name, why }) => (name, why),
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn fault(from: impl Read) -> ArchiveFault {
        match entries(from) {
            Err(StoreError::Archive(fault)) => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn kinds_and_contents_are_told() {
        let tar = Tar::default()
            .dir("./")
            .dir("bin/")
            .entry(EntryType::Regular, b"bin/bot", &[b'x'; 700], |header| header.set_mode(0o755))
            .file("./etc//./conf", "a=1")
            .link("bin/start", "bot")
            .hard("bin/same", "./bin/bot")
            .entry(EntryType::Continuous, b"seven", b"7", |_| {})
            .entry(EntryType::new(0), b"old/", b"", |_| {});
        let file = |executable, size| Kind::File { executable, size };
        let wanted: [(&str, Kind, &[u8]); 8] = [
            ("", Kind::Dir, b""),
            ("bin", Kind::Dir, b""),
            ("bin/bot", file(true, 700), &[b'x'; 700]),
            ("etc/conf", file(false, 3), b"a=1"),
            ("bin/start", Kind::Link { target: b"bot".to_vec() }, b""),
            ("bin/same", Kind::HardLink { target: b"bin/bot".to_vec() }, b""),
            ("seven", file(false, 1), b"7"),
            ("old", Kind::Dir, b""),
        ];
        let wanted = wanted.map(|(path, kind, content)| (Entry { path: path.into(), kind }, content.to_vec()));
        assert_eq!(entries(&tar.end()[..]).unwrap(), wanted);
    }

    #[test]
    fn long_and_strange_names_are_read_from_each_form() {
        let strange = b"line\nfeed/\xff\xfe=%";
        let long = ["d".repeat(200), "f\n".repeat(100)].join("/").into_bytes();
        let ustar = |header: &mut Header| {
            *header = Header::new_ustar();
            header.as_old_mut().name[..4].copy_from_slice(b"file");
            header.as_ustar_mut().unwrap().prefix[..3].copy_from_slice(b"a/b");
            header.set_mode(0o644);
            header.set_size(0);
            header.set_entry_type(EntryType::Regular);
        };
        let tar = Tar::default()
            .entry(EntryType::Regular, strange, b"", |_| {})
            .entry(EntryType::GNULongName, b"././@LongLink", &[&long[..], b"\0"].concat(), |_| {})
            .file("cut", "")
            .pax(EntryType::XHeader, &[("mtime", b"1.5"), ("path", strange), ("SCHILY.xattr.user.a", b"\0\n=")])
            .file("other", "")
            .pax(EntryType::XGlobalHeader, &[("comment", b"of git archive")])
            .entry(EntryType::Regular, b"", b"", ustar);
        assert_eq!(paths(tar), [strange.to_vec(), long.clone(), strange.to_vec(), b"a/b/file".to_vec()]);
        let tar = Tar::default()
            .entry(EntryType::GNULongLink, b"././@LongLink", &long, |_| {})
            .link("first", "cut")
            .pax(EntryType::XHeader, &[("linkpath", &long)])
            .link("second", "cut");
        let targets = entries(&tar.end()[..]).unwrap().into_iter().map(|(entry, _)| entry.kind);
        assert!(targets.eq([Kind::Link { target: long.clone() }, Kind::Link { target: long }]));
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (name, why) in [
            ("/etc/passwd", EntryFault::Absolute),
            ("//x", EntryFault::Absolute),
            ("..", EntryFault::Upwards),
            ("a/../b", EntryFault::Upwards),
            ("./..", EntryFault::Upwards),
            ("", EntryFault::NoName),
            (".", EntryFault::NoName),
            ("./.", EntryFault::NoName),
        ] {
            assert_eq!(refused(Tar::default().file(name, "x")), (name.to_owned(), why.clone()), "{name}");
            // By way of each other place for a name.
            let pax = Tar::default().pax(EntryType::XHeader, &[("path", name.as_bytes())]).file("fine", "x");
            assert_eq!(refused(pax), (name.to_owned(), why.clone()), "{name}");
            let long = Tar::default().entry(EntryType::GNULongName, b"long", name.as_bytes(), |_| {}).file("fine", "x");
            assert_eq!(refused(long), (name.to_owned(), why), "{name}");
        }
        assert_eq!(refused(Tar::default().dir("../")).1, EntryFault::Upwards);
        assert_eq!(refused(Tar::default().dir("/")).1, EntryFault::Absolute);
    }

    #[test]
    fn nuls_are_refused() {
        let pax = |key| Tar::default().pax(EntryType::XHeader, &[(key, b"a\0b")]).link("fine", "x");
        assert_eq!(refused(pax("path")), ("a%00b".to_owned(), EntryFault::Nul));
        assert_eq!(refused(pax("linkpath")), ("fine".to_owned(), EntryFault::Nul));
        let long = Tar::default().entry(EntryType::GNULongName, b"long", b"a\0\0", |_| {}).file("fine", "");
        assert_eq!(refused(long).1, EntryFault::Nul);
    }

    #[test]
    fn what_is_too_long_or_too_deep_is_refused_and_never_in_memory() {
        let named = |name: &[u8]| Tar::default().pax(EntryType::XHeader, &[("path", name)]).file("x", "");
        let fits = ["a/".repeat(DEPTH_MAX), "b".to_owned()].concat();
        assert_eq!(paths(named(fits.as_bytes())), [fits.clone().into_bytes()]);
        assert_eq!(refused(named(["a/", &fits].concat().as_bytes())).1, EntryFault::TooDeep);
        assert_eq!(refused(named(&[b'a'; 256])).1, EntryFault::TooLong);
        let long = ["a".repeat(255), "/".to_owned()].concat().repeat(16);
        assert_eq!(paths(named(&long.as_bytes()[..4095 - 1])).len(), 1);
        assert_eq!(refused(named(long.as_bytes())).1, EntryFault::TooLong);
        let link = |length| Tar::default().pax(EntryType::XHeader, &[("linkpath", &vec![b'a'; length])]).link("x", "y");
        assert_eq!(paths(link(4095)).len(), 1);
        assert_eq!(refused(link(4096)).1, EntryFault::TooLong);
        // By what the header says alone: nothing of 8 EiB is read.
        for kind in [b'L', b'K', b'x', b'g'] {
            let huge = |header: &mut Header| header.set_size(1 << 62);
            let tar = Tar::default().entry(EntryType::new(kind), b"huge", b"", huge);
            match entries(tar.0.chain(repeat(b'a'))) {
                Err(StoreError::Entry { name, why }) => assert_eq!((name.as_str(), why), ("huge", EntryFault::TooLong)),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn what_is_no_file_directory_or_link_is_refused() {
        for (kind, why) in [
            (b'3', EntryFault::Special("device")),
            (b'4', EntryFault::Special("device")),
            (b'6', EntryFault::Special("fifo")),
            (b'S', EntryFault::Sparse),
            (b'V', EntryFault::UnknownKind('V')),
            (b'D', EntryFault::UnknownKind('D')),
            (0xff, EntryFault::UnknownKind('ÿ')),
        ] {
            let tar = Tar::default().entry(EntryType::new(kind), b"dev/x y", b"", |_| {});
            assert_eq!(refused(tar), ("dev/x%20y".to_owned(), why));
        }
        for key in ["GNU.sparse.major", "GNU.sparse.map", "SCHILY.realsize"] {
            let tar = Tar::default().pax(EntryType::XHeader, &[(key, b"1")]).file("x", "");
            assert_eq!(refused(tar).1, EntryFault::Sparse, "{key}");
        }
    }

    #[test]
    fn rights_are_refused_on_files_alone() {
        for bit in [0o4000, 0o2000, 0o1000] {
            let set = |header: &mut Header| header.set_mode(0o755 | bit);
            assert_eq!(refused(Tar::default().entry(EntryType::Regular, b"su", b"", set)).1, EntryFault::SetId);
            let hard = |header: &mut Header| {
                set(header);
                header.set_link_name_literal("a").unwrap();
            };
            assert_eq!(
                refused(Tar::default().file("a", "").entry(EntryType::Link, b"su", b"", hard)).1,
                EntryFault::SetId
            );
            assert_eq!(paths(Tar::default().entry(EntryType::Directory, b"dir", b"", set)), [b"dir"]);
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        let long = |tar: Tar| tar.entry(EntryType::GNULongName, b"long", b"a", |_| {});
        let pax = |tar: Tar, key: &str, value: &str| tar.pax(EntryType::XHeader, &[(key, value.as_bytes())]);
        let start = Tar::default;
        let content = |kind, name: &[u8]| {
            start().entry(kind, name, b"content", |header| header.set_link_name_literal("a").unwrap())
        };
        let cases = [
            long(long(start())).file("x", ""),
            pax(long(start()), "path", "b").file("x", ""),
            pax(pax(start(), "path", "a"), "path", "b").file("x", ""),
            start().pax(EntryType::XHeader, &[("path", b"a"), ("path", b"b")]).file("x", ""),
            pax(start(), "size", "600").file("x", "1"),
            pax(start(), "size", "x").file("x", "1"),
            start().pax(EntryType::XGlobalHeader, &[("path", b"a")]).file("x", ""),
            start().pax(EntryType::XGlobalHeader, &[("size", b"1")]).file("x", ""),
            start().entry(EntryType::XHeader, b"pax", b"9 path=a\nx", |_| {}).file("x", ""),
            start().entry(EntryType::XHeader, b"pax", b"99 path=a\n", |_| {}).file("x", ""),
            start().entry(EntryType::XHeader, b"pax", b"+9 path=a\n", |_| {}).file("x", ""),
            start().entry(EntryType::XHeader, b"pax", b"0 path=a\n", |_| {}).file("x", ""),
            start().entry(EntryType::XHeader, b"pax", b"99999999999999999999999 p=a\n", |_| {}).file("x", ""),
            content(EntryType::Directory, b"x"),
            content(EntryType::Symlink, b"x"),
            content(EntryType::Link, b"x"),
            content(EntryType::Regular, b"x/"),
            start().link("x/", "a"),
            start().link("x", ""),
            start().entry(EntryType::Regular, b"x", b"", |header| header.as_old_mut().mode = *b"rwxr-xr\0"),
            start().entry(EntryType::Regular, b"x", b"", |header| header.as_old_mut().size = *b"twelve     \0"),
            start().entry(EntryType::Regular, b"x", b"", |header| header.as_old_mut().size = *b"+0000000000\0"),
            start().entry(EntryType::Regular, b"x", b"", |header| {
                header.as_old_mut().size = *b"\x80\0\0\x01\0\0\0\0\0\0\0\0";
            }),
        ];
        for (at, tar) in cases.into_iter().enumerate() {
            let (name, why) = refused(tar);
            assert!(matches!(why, EntryFault::Unclear(_)), "{at}: {name} {why:?}");
        }
        assert_eq!(paths(pax(start(), "size", "1").file("x", "1")), [b"x"]);
        let binary = |header: &mut Header| header.as_old_mut().size = *b"\x80\0\0\0\0\0\0\0\0\0\0\x01";
        assert_eq!(paths(start().entry(EntryType::Regular, b"x", b"1", binary)), [b"x"]);
    }

    #[test]
    fn a_tar_that_was_cut_anywhere_is_refused() {
        let whole = Tar::default()
            .file("a", "content")
            .dir("b")
            .pax(EntryType::XHeader, &[("path", b"c")])
            .file("x", "1")
            .end();
        let end = whole.len() - 1024;
        for cut in (0..=end).step_by(64).chain([end + 511]) {
            let why = fault(&whole[..cut]);
            let wanted = if (1..512).contains(&cut) { ArchiveFault::NotATar } else { ArchiveFault::Truncated };
            assert_eq!(why, wanted, "{cut}");
        }
        assert!(entries(&whole[..end + 512]).is_ok());
        let announced = Tar::default().pax(EntryType::XHeader, &[("path", b"c")]).end();
        assert_eq!(fault(&announced[..]), ArchiveFault::Truncated);
    }

    #[test]
    fn what_follows_the_end_is_refused() {
        let whole = Tar::default().file("a", "").end();
        assert!(entries(&[&whole[..], &[0; 10_000]].concat()[..]).is_ok());
        for rest in [vec![1], Tar::default().file("b", "").end(), [vec![0; 20_000], vec![1]].concat()] {
            assert_eq!(fault(&[&whole[..], &rest].concat()[..]), ArchiveFault::Trailing);
        }
    }

    #[test]
    fn what_is_no_tar_is_told_from_a_damaged_one() {
        for text in [&b"PK\x03\x04"[..], &[b'x'; 10_000], b"\xfd7zXZ\0"] {
            assert_eq!(fault(text), ArchiveFault::NotATar);
        }
        let mut damaged = Tar::default().file("a", "").file("b", "").end();
        damaged[512] ^= 1;
        assert_eq!(fault(&damaged[..]), ArchiveFault::BadHeader(1));
    }

    #[test]
    fn a_million_entries_that_add_nothing_end_at_the_bound() {
        for header in [Tar::default().dir("./").0, Tar::default().pax(EntryType::XGlobalHeader, &[("comment", b"a")]).0]
        {
            assert_eq!(fault(Again::new(header, 1_000_000)), ArchiveFault::TooMany);
        }
    }
}
