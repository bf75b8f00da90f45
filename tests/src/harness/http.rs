//! As much of HTTP/1.1 as it takes to stand between a client and Kinesis: heads, and bodies of a length that is said.

use std::io::{self, BufRead, Error, ErrorKind, Write};

/// Nothing that is sent here is larger.
const BODY_BYTES_MAX: usize = 64 << 20;

/// A request or an answer.
#[derive(Clone, Debug)]
pub struct HttpMessage {
    /// The request's or status line.
    pub start: String,
    /// Names and values.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl HttpMessage {
    /// Reads a message; nothing at the end of the connection.
    ///
    /// # Errors
    /// What the system says, or that this is no such message.
    pub fn read(from: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut start = String::new();
        if from.read_line(&mut start)? == 0 {
            return Ok(None);
        }
        let mut message = Self { start: start.trim_end().to_owned(), headers: Vec::new(), body: Vec::new() };
        loop {
            let mut line = String::new();
            if from.read_line(&mut line)? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) =
                line.split_once(':').ok_or_else(|| Error::other(format!("a header: {line}")))?;
            message.headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let length = message.header("content-length").map_or(Ok(0), str::parse).map_err(Error::other)?;
        if length > BODY_BYTES_MAX || message.header("transfer-encoding").is_some() {
            return Err(Error::other("a body that this does not read"));
        }
        message.body.resize(length, 0);
        from.read_exact(&mut message.body)?;
        Ok(Some(message))
    }

    /// Writes the message, with the length that its body has.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut head = format!("{}\r\n", self.start);
        for (name, value) in &self.headers {
            if !name.eq_ignore_ascii_case("content-length") {
                head += &format!("{name}: {value}\r\n");
            }
        }
        head += &format!("Content-Length: {}\r\n\r\n", self.body.len());
        to.write_all(head.as_bytes())?;
        to.write_all(&self.body)?;
        to.flush()
    }

    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| &**value)
    }

    /// The status of an answer.
    pub fn status(&self) -> u16 {
        self.start.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default()
    }
}
