//! The bytes of a tar, out of whatever it was compressed by, and never more of them than allowed.

use super::archive::{BLOCK, is_header};
use super::error::{ArchiveFault, StoreError, io};
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};
use std::io::{self as std_io, BufRead, BufReader, Chain, Cursor, Error, ErrorKind, Read};

/// 8 MiB: what RFC 8878 (3.1.1.1.2) asks of each decoder, and what `zstd -19` needs. It is allocated at once.
pub(super) const WINDOW_BYTES_MAX: u64 = 8 << 20;

/// First bytes of a file (RFC 1952; RFC 8878, 3.1.1 and 3.1.2).
const GZIP: [u8; 2] = [0x1f, 0x8b];
const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
const ZSTD_SKIPPED: [u8; 3] = [0x2a, 0x4d, 0x18];

/// The tar in a stream.
pub(super) struct Stream<R> {
    form: Form<R>,
    /// Of what is read.
    left: u64,
    max_bytes: u64,
}

enum Form<R> {
    Plain(Input<R>),
    Gzip(Box<MultiGzDecoder<Input<R>>>),
    Zstd(Box<Zstd<Input<R>>>),
}

/// What comes in, with its first bytes again.
type Input<R> = BufReader<Chain<Cursor<Vec<u8>>, Bounded<R>>>;

impl<R: Read> Stream<R> {
    /// Recognises the form by the first bytes.
    pub(super) fn new(from: R, max_bytes: u64) -> Result<Self, StoreError> {
        // What does not get smaller by compression gets larger by less than a sixteenth. Without a bound, what unpacks to
        // nothing (empty gzip members, skipped frames) could go on for ever.
        let left = max_bytes.saturating_add(max_bytes / 16).saturating_add(64 << 10);
        let mut from = Bounded { from, left, fault: None };
        let mut first = Vec::with_capacity(BLOCK);
        let read = (&mut from).take(BLOCK as u64).read_to_end(&mut first);
        let is_skipped = first.first().is_some_and(|byte| byte >> 4 == 5) && first[1..].starts_with(&ZSTD_SKIPPED);
        // A tar begins with a name, which can be any bytes.
        let is_packed = !is_header(&first);
        let is_zstd = is_packed && (first.starts_with(&ZSTD) || is_skipped);
        let is_gzip = is_packed && first.starts_with(&GZIP);
        let input = BufReader::with_capacity(64 << 10, Cursor::new(first).chain(from));
        let form = if is_gzip {
            Form::Gzip(Box::new(MultiGzDecoder::new(input)))
        } else if is_zstd {
            Form::Zstd(Box::new(Zstd::new(input)))
        } else {
            Form::Plain(input)
        };
        let mut stream = Self { form, left: max_bytes, max_bytes };
        match read {
            Ok(_) => Ok(stream),
            Err(error) => Err(stream.why(&error)),
        }
    }

    /// As [`Read::read`].
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, StoreError> {
        let read = loop {
            let read = match &mut self.form {
                Form::Plain(input) => input.read(buffer),
                Form::Gzip(decoder) => decoder.read(buffer),
                Form::Zstd(decoder) => decoder.read(buffer),
            };
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Ok(read) => break read,
                Err(error) => return Err(self.why(&error)),
            }
        };
        self.left = self.left.checked_sub(read as u64).ok_or_else(|| self.too_large())?;
        Ok(read)
    }

    fn too_large(&self) -> StoreError {
        StoreError::Archive(ArchiveFault::TooLarge { max_bytes: self.max_bytes })
    }

    /// A decoder's error can come from what it reads.
    fn why(&mut self, error: &Error) -> StoreError {
        let input = match &mut self.form {
            Form::Plain(input) => input,
            Form::Gzip(decoder) => decoder.get_mut(),
            Form::Zstd(decoder) => &mut decoder.from,
        };
        match input.get_mut().get_mut().1.fault.take() {
            Some(Fault::TooLarge) => return self.too_large(),
            Some(Fault::Read(error)) => return io("read the archive", error),
            None => {}
        }
        let window = error.get_ref().and_then(|inner| inner.downcast_ref::<FrameDecoderError>());
        StoreError::Archive(match window {
            Some(FrameDecoderError::WindowSizeTooBig { requested, .. }) => {
                ArchiveFault::Window { requested_bytes: *requested }
            }
            _ if error.kind() == ErrorKind::UnexpectedEof => ArchiveFault::Truncated,
            _ => ArchiveFault::Compression(error.to_string()),
        })
    }
}

/// Bytes up to a bound; remembers why no more came, which decoders hide in errors of their own.
struct Bounded<R> {
    from: R,
    left: u64,
    fault: Option<Fault>,
}

enum Fault {
    TooLarge,
    Read(Error),
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std_io::Result<usize> {
        match self.from.read(buffer) {
            Ok(read) => {
                if let Some(left) = self.left.checked_sub(read as u64) {
                    self.left = left;
                    return Ok(read);
                }
                self.fault = Some(Fault::TooLarge);
                Err(ErrorKind::FileTooLarge.into())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Err(error),
            Err(error) => {
                let kind = error.kind();
                self.fault = Some(Fault::Read(error));
                Err(kind.into())
            }
        }
    }
}

/// All frames of a stream, one after the other, as zstd itself reads them.
struct Zstd<R> {
    from: R,
    decoder: FrameDecoder,
    in_frame: bool,
}

impl<R: BufRead> Zstd<R> {
    fn new(from: R) -> Self {
        let mut decoder = FrameDecoder::new();
        decoder.set_max_window_size(WINDOW_BYTES_MAX);
        Self { from, decoder, in_frame: false }
    }

    /// Begins the next frame; `false` at the end.
    fn begin(&mut self) -> std_io::Result<bool> {
        if self.from.fill_buf()?.is_empty() {
            return Ok(false);
        }
        match self.decoder.reset(&mut self.from) {
            Ok(()) => self.in_frame = true,
            Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame { length, .. })) => {
                let length = u64::from(length);
                if std_io::copy(&mut (&mut self.from).take(length), &mut std_io::sink())? < length {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            }
            Err(error) => return Err(Error::other(error)),
        }
        Ok(true)
    }

    fn end(&mut self) -> std_io::Result<()> {
        self.in_frame = false;
        let written = self.decoder.get_checksum_from_data();
        if written.is_some() && written != self.decoder.get_calculated_checksum() {
            return Err(Error::other("the checksum is another one"));
        }
        Ok(())
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std_io::Result<usize> {
        loop {
            if !self.in_frame {
                if !self.begin()? {
                    return Ok(0);
                }
                continue;
            }
            // One block at a time, which has at most 128 KiB.
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                self.decoder.decode_blocks(&mut self.from, one).map_err(Error::other)?;
            }
            let read = self.decoder.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            self.end()?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generations::testing::{Again, gzip, zstd};
    use std::io::repeat;

    const MIB: u64 = 1 << 20;

    fn all(from: impl Read, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let mut stream = Stream::new(from, max_bytes)?;
        let (mut all, mut buffer) = (Vec::new(), vec![0; 10_000]);
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(all),
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    #[track_caller]
    fn refused(from: impl Read, max_bytes: u64) -> ArchiveFault {
        match all(from, max_bytes) {
            Err(StoreError::Archive(fault)) => fault,
            other => panic!("{:?}", other.map(|bytes| bytes.len())),
        }
    }

    fn text() -> Vec<u8> {
        (0..30_000).flat_map(|n: u32| n.to_string().into_bytes()).collect()
    }

    #[test]
    fn each_form_is_recognised() {
        let text = text();
        for packed in [text.clone(), gzip(&text), zstd(&text)] {
            assert_eq!(all(&packed[..], MIB).unwrap(), text);
        }
        for short in [&b""[..], b"a", b"abc"] {
            assert_eq!(all(short, MIB).unwrap(), short);
        }
    }

    /// As pigz, pzstd and `cat a.gz b.gz` make them.
    #[test]
    fn several_members_and_frames_are_one_stream() {
        let text = text();
        let (first, second) = text.split_at(10_000);
        assert_eq!(all(&[gzip(first), gzip(b""), gzip(second)].concat()[..], MIB).unwrap(), text);
        let skipped = b"\x5a\x2a\x4d\x18\x03\0\0\0abc".to_vec();
        let frames = [skipped.clone(), zstd(first), skipped.clone(), zstd(b""), zstd(second), skipped.clone()];
        assert_eq!(all(&frames.concat()[..], MIB).unwrap(), text);
        assert_eq!(refused(&skipped[..9], MIB), ArchiveFault::Truncated);
    }

    #[test]
    fn damage_and_cuts_are_found() {
        for packed in [gzip(&text()), zstd(&text())] {
            for cut in [5, packed.len() / 2, packed.len() - 1] {
                let fault = refused(&packed[..cut], MIB);
                assert!(matches!(fault, ArchiveFault::Truncated | ArchiveFault::Compression(_)), "{fault:?}");
            }
            let mut damaged = packed.clone();
            // The checksum at the end.
            let last = damaged.len() - if packed.starts_with(&GZIP) { 6 } else { 1 };
            damaged[last] ^= 1;
            assert!(matches!(refused(&damaged[..], MIB), ArchiveFault::Compression(_)));
            let garbage = [&packed[..], b"no header of either"].concat();
            assert!(matches!(refused(&garbage[..], MIB), ArchiveFault::Compression(_)));
        }
    }

    #[test]
    fn a_bomb_ends_at_the_limit() {
        let too_large = ArchiveFault::TooLarge { max_bytes: MIB };
        assert_eq!(refused(repeat(b'a'), MIB), too_large);
        assert_eq!(refused(&gzip(&vec![0; 8 << 20])[..], MIB), too_large);
        // A frame without end: 128 KiB of zeros from each 4 bytes.
        let window = [0x28, 0xb5, 0x2f, 0xfd, 0, 7 << 3];
        let block = (128u32 << 10 << 3 | 1 << 1).to_le_bytes();
        let blocks: Vec<u8> = [block[0], block[1], block[2], 0].repeat(1 << 16);
        assert_eq!(refused(window.chain(&blocks[..]), MIB), too_large);
        // What unpacks to nothing, for ever.
        for nothing in [gzip(b""), zstd(b""), b"\x5a\x2a\x4d\x18\0\0\0\0".to_vec()] {
            assert_eq!(refused(Again::for_ever(nothing), MIB), too_large);
        }
    }

    #[test]
    fn what_has_the_limit_exactly_is_taken() {
        let text = text();
        for packed in [text.clone(), gzip(&text), zstd(&text)] {
            assert_eq!(all(&packed[..], text.len() as u64).unwrap(), text);
            let less = text.len() as u64 - 1;
            assert_eq!(refused(&packed[..], less), ArchiveFault::TooLarge { max_bytes: less });
        }
    }

    #[test]
    fn a_window_that_is_too_long_is_refused_before_it_is_allocated() {
        // Window descriptor (RFC 8878, 3.1.1.1.2): 2^(10 + exponent).
        for (exponent, allowed) in [(13, true), (14, false), (21, false)] {
            let frame = [0x28, 0xb5, 0x2f, 0xfd, 0, exponent << 3, 1, 0, 0];
            match all(&frame[..], MIB) {
                Ok(bytes) => assert!(allowed && bytes.is_empty()),
                Err(StoreError::Archive(ArchiveFault::Window { requested_bytes })) => {
                    assert!(!allowed && requested_bytes == 1024 << exponent);
                }
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn a_client_that_fails_is_no_damaged_archive() {
        struct Fails;
        impl Read for Fails {
            fn read(&mut self, _: &mut [u8]) -> std_io::Result<usize> {
                Err(ErrorKind::ConnectionReset.into())
            }
        }
        for begin in [text(), gzip(&text())[..100].to_vec(), zstd(&text())[..100].to_vec(), vec![]] {
            match all(begin.chain(Fails), MIB) {
                Err(StoreError::Io { what, source }) => {
                    assert_eq!((what.as_str(), source.kind()), ("read the archive", ErrorKind::ConnectionReset));
                }
                other => panic!("{other:?}"),
            }
        }
    }
}
