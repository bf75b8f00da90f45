//! What programs write, and what an event says of it.

use std::cell::RefCell;

use base64_simd::STANDARD;

/// The files that are written to.
pub const PATHS: [&str; 4] = ["/even/0", "/odd/1", "/even/2", "/odd/3"];

/// The byte at an offset of a file. No two places of some length have the same bytes.
fn byte(file: usize, offset: u64) -> u8 {
    let mixed = (offset ^ (file as u64 + 1) << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    if mixed.is_multiple_of(61) { b'\n' } else { b'a' + (mixed % 26) as u8 }
}

thread_local! {
    /// The files' beginnings, as far as this thread has asked for them: all runs have the same.
    static BEGINNINGS: RefCell<[Vec<u8>; PATHS.len()]> = const { RefCell::new([const { Vec::new() }; PATHS.len()]) };
}

/// No run writes so far. An event that says so says something wrong.
const FILE_BYTES_MAX: usize = 64 << 20;

/// Gives the bytes of a file from an offset on to `see`, unless no file has so many.
fn with_bytes<T>(file: usize, offset: u64, len: usize, see: impl FnOnce(&[u8]) -> T) -> Option<T> {
    let begin = usize::try_from(offset).ok()?;
    let end = begin.checked_add(len).filter(|end| *end <= FILE_BYTES_MAX)?;
    BEGINNINGS.with_borrow_mut(|beginnings| {
        let beginning = &mut beginnings[file];
        beginning.extend((beginning.len()..end).map(|offset| byte(file, offset as u64)));
        Some(see(&beginning[begin..end]))
    })
}

/// The bytes of a file from an offset on.
pub fn bytes(file: usize, offset: u64, len: usize) -> Vec<u8> {
    with_bytes(file, offset, len, <[u8]>::to_vec).expect("a file of a run")
}

/// Whether these are the bytes of a file from an offset on.
fn are_written(file: usize, offset: u64, bytes: &[u8]) -> bool {
    with_bytes(file, offset, bytes.len(), |written| written == bytes) == Some(true)
}

/// Some bytes of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Piece {
    pub file: usize,
    pub begin: u64,
    pub end: u64,
}

impl Piece {
    /// Whether it is never taken, where there is poison.
    pub fn is_poison(&self) -> bool {
        (self.begin ^ (self.file as u64) << 20).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & 15 == 0
    }

    pub fn meets(&self, other: &Self) -> bool {
        self.file == other.file && self.begin < other.end && other.begin < self.end
    }
}

/// What an event says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Some bytes were written.
    Bytes(Piece),
    /// So many writes were lost, for that reason.
    Lost { reason: String, events: u64 },
}

impl Event {
    /// The bytes of which it is.
    pub fn piece(&self) -> Option<Piece> {
        match self {
            Self::Bytes(piece) => Some(*piece),
            Self::Lost { .. } => None,
        }
    }

    pub fn is_poison(&self) -> bool {
        self.piece().is_some_and(|piece| piece.is_poison())
    }
}

/// What follows a key, up to a character that ends it.
fn field<'a>(text: &'a str, key: &str, end: &[char]) -> Option<&'a str> {
    let at = text.find(key)? + key.len();
    text[at..].split(end).next()
}

fn number(text: &str, key: &str) -> Option<u64> {
    field(text, key, &[',', '}'])?.parse().ok()
}

/// Reads an event in either of the formats `logstash` and `logstash_base64`, and looks whether its message is what was
/// written there.
///
/// # Errors
/// What is wrong with it.
pub fn read(payload: &[u8]) -> Result<Event, String> {
    let text = std::str::from_utf8(payload).map_err(|error| error.to_string())?;
    let read = || {
        if let Some(at) = text.find("\"lost\":{") {
            let reason = field(&text[at..], "\"reason\":\"", &['"'])?.to_owned();
            return Some(Ok(Event::Lost { reason, events: number(&text[at..], "\"events\":")? }));
        }
        let path = field(text, "\"path\":\"", &['"'])?;
        let file = PATHS.iter().position(|known| *known == path)?;
        let (begin, message) = (number(text, "\"offset\":")?, field(text, "\"@message\":\"", &['"'])?);
        let decoded = STANDARD.decode_to_vec(message).unwrap_or_default();
        // An empty message is what either format makes of no bytes.
        let len = if !decoded.is_empty() && are_written(file, begin, &decoded) {
            decoded.len()
        } else {
            let plain = message.replace("\\n", "\n");
            if !are_written(file, begin, plain.as_bytes()) {
                return Some(Err(format!("{path} has other bytes at {begin} than `{message}`")));
            }
            plain.len()
        };
        Some(Ok(Event::Bytes(Piece { file, begin, end: begin + len as u64 })))
    };
    read().unwrap_or_else(|| Err(format!("an event that nobody understands: {text}")))
}

/// Bytes of files: pieces that do not meet.
#[derive(Clone, Debug, Default)]
pub struct Cover([std::collections::BTreeMap<u64, u64>; PATHS.len()]);

impl Cover {
    /// Adds bytes. Gives whether some of them are new.
    pub fn add(&mut self, piece: Piece) -> bool {
        if self.holds(piece) {
            return false;
        }
        let covered = &mut self.0[piece.file];
        let (mut begin, mut end) = (piece.begin, piece.end);
        while let Some((&at, &to)) = covered.range(..=end).next_back()
            && to >= begin
        {
            covered.remove(&at);
            (begin, end) = (begin.min(at), end.max(to));
        }
        covered.insert(begin, end);
        true
    }

    /// Whether it has all of these bytes.
    pub fn holds(&self, piece: Piece) -> bool {
        let before = self.0[piece.file].range(..=piece.begin).next_back();
        piece.begin == piece.end || before.is_some_and(|(_, end)| *end >= piece.end)
    }

    /// The first of these bytes that it does not have.
    pub fn missing(&self, piece: Piece) -> Option<u64> {
        let before = self.0[piece.file].range(..=piece.begin).next_back();
        let at = before.map_or(piece.begin, |(_, end)| (*end).max(piece.begin));
        (at < piece.end).then_some(at)
    }
}
