//! Standard output of the commands that print.
//!
//! That the reader is gone is no error: `publisher ... | head`. So each function gives whether anyone still reads, and fails
//! with what else the system says.

use std::io::{self, ErrorKind, IsTerminal, Write};

use crate::escape::{in_json, in_lines};

/// Moves to the top left corner, and clears what is below (ECMA-48: CUP, ED).
const HOME_AND_CLEAR: &[u8] = b"\x1b[H\x1b[J";

/// Prints text for people, laid out by newlines and tabs. What others have chosen in it is to be a line of its own
/// ([`crate::escape::in_line`]), lest it forge one; nothing else in it reaches a terminal as more than text.
pub fn print(text: &str) -> io::Result<bool> {
    write(in_lines(text, "\n").to_string().as_bytes())
}

/// Prints the same in place of what is on a terminal; behind it where there is none.
pub fn print_over(text: &str) -> io::Result<bool> {
    let mut bytes = if is_terminal() { HOME_AND_CLEAR.to_vec() } else { Vec::new() };
    bytes.extend_from_slice(in_lines(text, "\n").to_string().as_bytes());
    write(&bytes)
}

/// Prints JSON.
pub fn print_json(json: &str) -> io::Result<bool> {
    write(in_json(json).to_string().as_bytes())
}

/// Prints what a program reads: as it is, unless there is a terminal at the other end.
pub fn print_exact(bytes: &[u8]) -> io::Result<bool> {
    if is_terminal() { write(in_lines(bytes, "\n").to_string().as_bytes()) } else { write(bytes) }
}

/// Tells people on standard error what is wrong, where there is no log yet.
pub fn complain(text: &str) {
    // There is nobody else to tell.
    let _ = io::stderr().write_all(in_lines(text, "\n").to_string().as_bytes());
}

/// Whether people look at what is printed.
pub fn is_terminal() -> bool {
    io::stdout().is_terminal()
}

fn write(bytes: &[u8]) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}
