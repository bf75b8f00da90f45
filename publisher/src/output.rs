//! Standard output of the commands that print.

use std::io::{self, ErrorKind, Write};

/// Prints `bytes` and gives whether anyone still reads: `publisher ... | head` is no error.
///
/// # Errors
/// What the system says, other than that the reader is gone.
pub fn print(bytes: &[u8]) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        result => result.map(|()| true),
    }
}
