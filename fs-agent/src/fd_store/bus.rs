//! As much of D-Bus as it takes to ask a systemd manager something, over its own socket: by far sooner answered than by
//! systemctl(1), while callers wait for the next agent.
//!
//! The protocol is that of the D-Bus specification, version 1: a method call with texts as arguments, and of the answer the
//! one value that is wanted. Messages are little-endian; an answer may be either.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use rustix::process::geteuid;

/// How long the manager may take for each step.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// The longest message that is taken, in bytes: what is asked for is much shorter.
const MESSAGE_BYTES_MAX: usize = 1 << 16;

/// The most messages that are passed over until the answer comes.
const OTHERS_MAX: usize = 64;

/// Kinds of messages.
mod kind {
    pub const CALL: u8 = 1;
    pub const RETURN: u8 = 2;
    pub const ERROR: u8 = 3;
}

/// Fields of a message's header.
mod field {
    pub const PATH: u8 = 1;
    pub const INTERFACE: u8 = 2;
    pub const MEMBER: u8 = 3;
    pub const REPLY_SERIAL: u8 = 5;
    pub const DESTINATION: u8 = 6;
    pub const SIGNATURE: u8 = 8;
}

/// What is called.
#[derive(Clone, Copy)]
pub struct Method<'a> {
    /// Who is to hear it: a manager is silent otherwise, although nobody else is there.
    pub destination: &'a str,
    /// The object.
    pub path: &'a str,
    /// The interface.
    pub interface: &'a str,
    /// The method.
    pub member: &'a str,
}

/// A connection to a manager.
pub struct Bus {
    socket: UnixStream,
    serial: u32,
}

impl Bus {
    /// Connects to the manager at `path` and says who this is.
    ///
    /// # Errors
    /// If nobody listens there, or this user is not let in.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let mut socket = UnixStream::connect(path)?;
        socket.set_read_timeout(Some(ANSWER_TIME_MAX))?;
        socket.set_write_timeout(Some(ANSWER_TIME_MAX))?;
        let user: String = geteuid().as_raw().to_string().bytes().map(|b| format!("{b:02x}")).collect();
        // All at once, as systemctl(1) does: a manager that reads BEGIN together with a call does not see the call.
        socket.write_all(format!("\0AUTH EXTERNAL {user}\r\nBEGIN\r\n").as_bytes())?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            socket.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.len() > MESSAGE_BYTES_MAX {
                return Err(bad("an endless line"));
            }
        }
        if !line.starts_with(b"OK ") {
            return Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                String::from_utf8_lossy(&line).trim(),
            ));
        }
        Ok(Self { socket, serial: 0 })
    }

    /// Calls a method with texts; gives what it answers.
    ///
    /// # Errors
    /// If the manager does not answer in time, or with an error.
    pub fn call(&mut self, method: Method<'_>, arguments: &[&str]) -> io::Result<Answer> {
        self.serial += 1;
        self.socket.write_all(&call(self.serial, method, arguments)?)?;
        for _ in 0..OTHERS_MAX {
            let answer = self.receive()?;
            if answer.reply_serial == Some(self.serial) {
                return match answer.kind {
                    kind::RETURN => Ok(answer),
                    _ => Err(io::Error::other(answer.reader().text().unwrap_or_default())),
                };
            }
        }
        Err(bad("no answer among what came"))
    }

    fn receive(&mut self) -> io::Result<Answer> {
        /// What every message begins with, up to the length of the header's fields.
        const HEAD: usize = 16;
        let mut bytes = vec![0; HEAD];
        self.socket.read_exact(&mut bytes)?;
        let is_big = bytes[0] == b'B';
        let number = |at: usize| number(&bytes, at, is_big).and_then(|n| usize::try_from(n).ok());
        let (body_len, fields_len) = number(4).zip(number(12)).ok_or_else(|| bad("a header"))?;
        let body_at = aligned(HEAD + fields_len.min(MESSAGE_BYTES_MAX), 8);
        let len = body_at + body_len.min(MESSAGE_BYTES_MAX);
        if fields_len > MESSAGE_BYTES_MAX || body_len > MESSAGE_BYTES_MAX {
            return Err(bad("a message that is too long"));
        }
        bytes.resize(len, 0);
        self.socket.read_exact(&mut bytes[HEAD..])?;
        let kind = bytes[1];
        let reply_serial = reply_serial(&bytes[..HEAD + fields_len], is_big);
        if kind == kind::ERROR && reply_serial.is_none() {
            return Err(bad("an error without a call"));
        }
        Ok(Answer { kind, reply_serial, is_big, body: bytes.split_off(body_at) })
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not what D-Bus says: {what}"))
}

fn aligned(at: usize, to: usize) -> usize {
    at.next_multiple_of(to)
}

fn number(bytes: &[u8], at: usize, is_big: bool) -> Option<u32> {
    let bytes = *bytes.get(at..)?.first_chunk()?;
    Some(if is_big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
}

/// A message of this process's.
fn call(serial: u32, method: Method<'_>, arguments: &[&str]) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    arguments.iter().try_for_each(|text| push_text(&mut body, text))?;
    let mut bytes = vec![b'l', kind::CALL, 0, 1];
    push_number(&mut bytes, body.len())?;
    bytes.extend(serial.to_le_bytes());
    // The length of the fields, which is known in the end.
    let fields_at = bytes.len() + 4;
    bytes.extend([0; 4]);
    let fields = [
        (field::PATH, b'o', method.path),
        (field::INTERFACE, b's', method.interface),
        (field::MEMBER, b's', method.member),
        (field::DESTINATION, b's', method.destination),
    ];
    for (code, signature, text) in fields {
        bytes.resize(aligned(bytes.len(), 8), 0);
        bytes.extend([code, 1, signature, 0]);
        push_text(&mut bytes, text)?;
    }
    if !arguments.is_empty() {
        bytes.resize(aligned(bytes.len(), 8), 0);
        bytes.extend([field::SIGNATURE, 1, b'g', 0]);
        bytes.push(u8::try_from(arguments.len()).map_err(|_| bad("too many arguments"))?);
        bytes.extend(arguments.iter().map(|_| b's'));
        bytes.push(0);
    }
    let fields_len = u32::try_from(bytes.len() - fields_at).map_err(|_| bad("a call that is too long"))?;
    bytes[fields_at - 4..fields_at].copy_from_slice(&fields_len.to_le_bytes());
    bytes.resize(aligned(bytes.len(), 8), 0);
    bytes.extend(body);
    Ok(bytes)
}

fn push_number(bytes: &mut Vec<u8>, number: usize) -> io::Result<()> {
    let number = u32::try_from(number).map_err(|_| bad("a call that is too long"))?;
    bytes.extend(number.to_le_bytes());
    Ok(())
}

fn push_text(bytes: &mut Vec<u8>, text: &str) -> io::Result<()> {
    bytes.resize(aligned(bytes.len(), 4), 0);
    push_number(bytes, text.len())?;
    bytes.extend(text.bytes().chain([0]));
    Ok(())
}

/// Which call it answers. Fields that come before are passed over by their signatures.
fn reply_serial(header: &[u8], is_big: bool) -> Option<u32> {
    const FIELDS_AT: usize = 16;
    let mut at = FIELDS_AT;
    while at < header.len() {
        at = aligned(at, 8);
        let (code, len, signature) = (*header.get(at)?, *header.get(at + 1)?, *header.get(at + 2)?);
        if len != 1 {
            return None;
        }
        at += 4;
        match signature {
            b'u' if code == field::REPLY_SERIAL => return number(header, aligned(at, 4), is_big),
            b'u' => at = aligned(at, 4) + 4,
            b's' | b'o' => {
                at = aligned(at, 4);
                at += 4 + usize::try_from(number(header, at, is_big)?).ok()? + 1;
            }
            b'g' => at += 1 + usize::from(*header.get(at)?) + 1,
            _ => return None,
        }
    }
    None
}

/// What a manager has answered.
#[derive(Debug)]
pub struct Answer {
    kind: u8,
    reply_serial: Option<u32>,
    is_big: bool,
    body: Vec<u8>,
}

impl Answer {
    /// Reads its values, one after the other.
    pub fn reader(&self) -> Reader<'_> {
        Reader { answer: self, at: 0 }
    }
}

/// Where the values of an answer are read.
pub struct Reader<'a> {
    answer: &'a Answer,
    at: usize,
}

impl<'a> Reader<'a> {
    /// Passes the signature of a variant, if it is this one.
    pub fn variant(mut self, signature: &str) -> Option<Self> {
        let body = &self.answer.body;
        let len = usize::from(*body.get(self.at)?);
        let found = body.get(self.at + 1..self.at + 1 + len)?;
        self.at += len + 2;
        (found == signature.as_bytes()).then_some(self)
    }

    /// Goes to where a structure begins.
    pub fn structure(mut self) -> Self {
        self.at = aligned(self.at, 8);
        self
    }

    /// A number of 4 bytes.
    pub fn number(&mut self) -> Option<u32> {
        self.at = aligned(self.at, 4);
        let number = number(&self.answer.body, self.at, self.answer.is_big)?;
        self.at += 4;
        Some(number)
    }

    /// A text or the path of an object.
    pub fn text(&mut self) -> Option<String> {
        let len = usize::try_from(self.number()?).ok()?;
        let text = self.answer.body.get(self.at..self.at.checked_add(len)?)?;
        self.at += len + 1;
        String::from_utf8(text.to_vec()).ok()
    }

    /// A list of numbers of 4 bytes.
    pub fn numbers(&mut self) -> Option<Vec<u32>> {
        let len = self.number()? / 4;
        (0..len).map(|_| self.number()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const METHOD: Method<'_> = Method { destination: "e.f", path: "/a", interface: "b.c", member: "D" };

    /// An answer to the call number 1, as a manager sends it.
    fn answer(is_big: bool, body: &[u8]) -> Vec<u8> {
        let four = |n: u32| if is_big { n.to_be_bytes() } else { n.to_le_bytes() };
        let mut bytes = vec![if is_big { b'B' } else { b'l' }, kind::RETURN, 1, 1];
        bytes.extend(four(u32::try_from(body.len()).unwrap()));
        bytes.extend(four(7));
        // A sender before the number, and a signature behind.
        let mut fields = vec![7, 1, b's', 0];
        fields.extend(four(3));
        fields.extend(b":1\x2e\0");
        fields.resize(16, 0);
        fields.extend([field::REPLY_SERIAL, 1, b'u', 0]);
        fields.extend(four(1));
        fields.extend([field::SIGNATURE, 1, b'g', 0, 1, b'v', 0]);
        bytes.extend(four(u32::try_from(fields.len()).unwrap()));
        bytes.extend(fields);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes.extend(body);
        bytes
    }

    /// What a manager that sends `said` after the handshake makes of a call.
    fn called(said: Vec<u8>) -> io::Result<Answer> {
        let (ours, mut theirs) = UnixStream::pair()?;
        let manager = thread::spawn(move || {
            let mut call = [0; 16];
            theirs.read_exact(&mut call).and_then(|()| theirs.write_all(&said))
        });
        let result = Bus { socket: ours, serial: 0 }.call(METHOD, &["x"]);
        manager.join().unwrap()?;
        result
    }

    #[test]
    fn answers_are_read_in_either_byte_order() {
        for is_big in [false, true] {
            let four = |n: u32| if is_big { n.to_be_bytes() } else { n.to_le_bytes() };
            // A variant that holds a structure of a number and a path.
            let mut body = b"\x04(uo)\0\0\0".to_vec();
            body.extend(four(42));
            body.extend(four(2));
            body.extend(b"/j\0");
            let answer = called(answer(is_big, &body)).unwrap();
            let mut values = answer.reader().variant("(uo)").unwrap().structure();
            assert_eq!((values.number(), values.text().as_deref()), (Some(42), Some("/j")));
            assert!(answer.reader().variant("s").is_none());
        }
    }

    #[test]
    fn what_comes_before_the_answer_is_passed_over() {
        let mut other = answer(false, b"");
        // Another call's.
        let at = other.windows(4).position(|four| four == [field::REPLY_SERIAL, 1, b'u', 0]).unwrap() + 4;
        other[at] = 9;
        let said = [other, answer(false, b"\x01u\0\0\x05\0\0\0")].concat();
        assert_eq!(called(said).unwrap().reader().variant("u").and_then(|mut value| value.number()), Some(5));
    }

    #[test]
    fn a_call_is_what_the_specification_says() {
        let bytes = call(1, METHOD, &["xy"]).unwrap();
        assert_eq!(bytes[..4], [b'l', kind::CALL, 0, 1]);
        assert_eq!((number(&bytes, 4, false), number(&bytes, 8, false)), (Some(7), Some(1)));
        let fields_len = usize::try_from(number(&bytes, 12, false).unwrap()).unwrap();
        let body_at = (16 + fields_len).next_multiple_of(8);
        assert_eq!(&bytes[body_at..], b"\x02\0\0\0xy\0");
        assert_eq!(&bytes[16..24], b"\x01\x01o\0\x02\0\0\0");
    }

    proptest! {
        #[test]
        fn whatever_comes_is_an_answer_or_an_error(said in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(answer) = called(said) {
                let _ = answer.reader().text();
                let _ = answer.reader().numbers();
                let _ = answer.reader().variant("s").map(|value| value.structure().text());
            }
        }
    }
}
