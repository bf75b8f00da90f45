//! What a record in the ring says. The only place that knows bincode.
//!
//! A write's payload is the encoded [`Write`] followed by the bytes that were written; a loss's is the encoded
//! [`Loss`], followed by the path of the file where it concerns one. Integers are variable-length, so a typical description takes 60 to 150 bytes.

use bincode::{
    BorrowDecode, Decode, Encode,
    config::{Configuration, Limit},
};

/// The longest path in bytes that a record carries; PATH_MAX of linux/limits.h.
pub const PATH_BYTES_MAX: usize = 4096;
/// Stands in a path that is longer than that where something was left out. No other path has it: names are not empty.
pub const PATH_CUT: &[u8] = b"//";
/// The longest command line in bytes that a record carries; what is longer is cut.
pub const COMMAND_BYTES_MAX: usize = 4096;

/// Both texts at their longest and every integer at its widest. Lengths beyond it are refused, so a hostile record
/// cannot ask for memory.
const ENCODED_BYTES_MAX: usize = PATH_BYTES_MAX + COMMAND_BYTES_MAX + 128;

const BINCODE: Configuration<
    bincode::config::LittleEndian,
    bincode::config::Varint,
    Limit<ENCODED_BYTES_MAX>,
> = bincode::config::standard().with_limit::<ENCODED_BYTES_MAX>();

/// Whether something was left out of `path`.
pub fn is_cut(path: &[u8]) -> bool {
    path.windows(PATH_CUT.len()).any(|window| window == PATH_CUT)
}

/// How a write came to the agent, and so what it knows of the writer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Origin {
    /// By write(2) on a file: the kernel says who wrote.
    Write,
    /// The kernel wrote the pages of a shared mapping back: nobody knows who stored into them.
    Mapping,
    /// Through a FIFO, which does not say who wrote.
    Fifo,
}

/// One captured write, or a line or chunk from a FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, BorrowDecode)]
pub struct Write<'a> {
    /// The absolute path that the writer sees.
    pub path: &'a [u8],
    /// The writing process; 0 where nobody knows (see `origin`), as are the next two.
    pub pid: u32,
    /// The writer's effective user.
    pub uid: u32,
    /// The writer's effective group.
    pub gid: u32,
    /// When the bytes were in the file, in nanoseconds since the epoch.
    pub time_ns: u64,
    /// The writer's arguments, each followed by a space.
    pub command: &'a [u8],
    /// Where in the file the bytes begin; in a FIFO, how many bytes came through it before, since the agent opened it.
    pub offset: u64,
    /// Which open of the file wrote them: equal for writes through one open, unique in an agent's life. 0 for a FIFO.
    pub handle: u64,
    /// How they came.
    pub origin: Origin,
    /// Which part of the write this record holds, from 0.
    pub part: u32,
    /// How many records hold the write. 0 where that is not known yet: the parts of a line that is longer than a FIFO's
    /// limit leave as they come, and the last of them alone has the number.
    pub parts: u32,
}

/// Why a write is not in the ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
#[repr(u8)]
pub enum LossReason {
    /// There was no room: nothing drained the ring for too long.
    RingFull = 0,
    /// It is larger than the ring can ever take.
    TooLarge = 1,
    /// The agent failed while it copied it.
    Discarded = 2,
    /// Its file is written faster than its quota allows: withheld on purpose.
    Quota = 3,
    /// It was in a ring that somebody cut short, damaged or removed before it was delivered.
    RingGone = 4,
}

impl LossReason {
    /// All reasons; their numbers are their places in the segment.
    pub const ALL: [Self; 5] = [Self::RingFull, Self::TooLarge, Self::Discarded, Self::Quota, Self::RingGone];

    /// The name under which users meet it in events, `status` and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::RingFull => "ring_full",
            Self::TooLarge => "too_large",
            Self::Discarded => "discarded",
            Self::Quota => "quota",
            Self::RingGone => "ring_gone",
        }
    }
}

/// Writes that were not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Loss {
    /// Why.
    pub reason: LossReason,
    /// How many writes.
    pub events: u64,
    /// How many bytes they had.
    pub bytes: u64,
    /// When the first was written, in nanoseconds since the epoch.
    pub first_ns: u64,
    /// When the last was written.
    pub last_ns: u64,
}

/// A record's payload cannot be read.
#[derive(Clone, Copy, Debug, thiserror::Error, PartialEq, Eq)]
#[error("the record's payload cannot be decoded")]
pub struct Malformed;

impl<'a> Write<'a> {
    /// Appends the encoded description to `out`; the written bytes follow it in the payload.
    /// A path or command over its limit is cut.
    pub fn encode_into(&self, out: &mut Vec<u8>) {
        let cut = Self {
            path: &self.path[..self.path.len().min(PATH_BYTES_MAX)],
            command: &self.command[..self.command.len().min(COMMAND_BYTES_MAX)],
            ..*self
        };
        encode_into(cut, out);
    }

    /// Takes a payload apart into the description and the written bytes.
    ///
    /// # Errors
    /// [`Malformed`] if it does not begin with a description.
    pub fn decode(payload: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (write, used) = bincode::borrow_decode_from_slice(payload, BINCODE).map_err(|_| Malformed)?;
        Ok((write, payload.get(used..).ok_or(Malformed)?))
    }
}

impl Loss {
    /// The payload of a loss record that concerns no file in particular.
    pub fn encode(&self) -> Vec<u8> {
        self.encode_of_file(&[])
    }

    /// The payload of a loss record that concerns the file at `path`, which follows the description. A path over its
    /// limit is cut.
    pub fn encode_of_file(&self, path: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode_into(self, &mut out);
        out.extend_from_slice(&path[..path.len().min(PATH_BYTES_MAX)]);
        out
    }

    /// Takes a loss record's payload apart into the description and the file's path, empty if it concerns none.
    ///
    /// # Errors
    /// [`Malformed`] if it does not begin with a description.
    pub fn decode(payload: &[u8]) -> Result<(Self, &[u8]), Malformed> {
        let (loss, used) = bincode::decode_from_slice(payload, BINCODE).map_err(|_| Malformed)?;
        Ok((loss, payload.get(used..).ok_or(Malformed)?))
    }
}

fn encode_into<T: Encode>(value: T, out: &mut Vec<u8>) {
    /// Lets bincode append to a vector.
    struct Appender<'v>(&'v mut Vec<u8>);
    impl bincode::enc::write::Writer for Appender<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }
    }
    // Appending to a vector cannot fail, and neither do these types.
    let encoded = bincode::encode_into_writer(value, Appender(out), BINCODE);
    debug_assert!(encoded.is_ok());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_write_is_read_back(
            path in prop::collection::vec(any::<u8>(), 0..200),
            command in prop::collection::vec(any::<u8>(), 0..200),
            data in prop::collection::vec(any::<u8>(), 0..200),
            (pid, uid, gid, time_ns) in any::<(u32, u32, u32, u64)>(),
            (offset, handle, part, parts) in any::<(u64, u64, u32, u32)>(),
            origin in prop::sample::select(vec![Origin::Write, Origin::Mapping, Origin::Fifo]),
        ) {
            let write = Write {
                path: &path, pid, uid, gid, time_ns, command: &command, offset, handle, origin, part, parts,
            };
            let mut payload = Vec::new();
            write.encode_into(&mut payload);
            payload.extend_from_slice(&data);
            prop_assert_eq!(Write::decode(&payload), Ok((write, &data[..])));
        }

        #[test]
        fn any_bytes_are_decoded_or_refused(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = Write::decode(&payload);
            let _ = Loss::decode(&payload);
        }
    }

    #[test]
    fn texts_over_their_limits_are_cut() {
        let long = vec![b'x'; 10_000];
        let write = Write {
            path: &long,
            pid: 1,
            uid: 2,
            gid: 3,
            time_ns: 4,
            command: &long,
            offset: 5,
            handle: 6,
            origin: Origin::Write,
            part: 0,
            parts: 1,
        };
        let mut payload = Vec::new();
        write.encode_into(&mut payload);
        let (read, rest) = Write::decode(&payload).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!((read.path.len(), read.command.len(), rest.len()), (PATH_BYTES_MAX, COMMAND_BYTES_MAX, 0));
    }
}
