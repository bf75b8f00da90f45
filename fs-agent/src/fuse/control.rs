//! ioctl(2): flags and generations of inodes, and nothing else.
//!
//! What the kernel answers itself, or turns into other requests, never comes here: FIONREAD, FICLONE, FIEMAP.

use rustix::{
    io::Errno,
    ioctl::{Opcode, opcode},
};

use super::Adapter;
use crate::{
    overlay::{Caller, Result},
    sys::ExtendedFlags,
};

// Of linux/fs.h. The first three are declared with `long` and carry an `int`.
const GET_VERSION: Opcode = opcode::read::<std::ffi::c_long>(b'v', 1);
const GET_FLAGS: Opcode = opcode::read::<std::ffi::c_long>(b'f', 1);
const SET_FLAGS: Opcode = opcode::write::<std::ffi::c_long>(b'f', 2);
const GET_EXTENDED_FLAGS: Opcode = opcode::read::<ExtendedFlags>(b'X', 31);
const SET_EXTENDED_FLAGS: Opcode = opcode::write::<ExtendedFlags>(b'X', 32);

impl Adapter {
    /// Does what `command` asks for with `data`; gives what is to be handed back.
    ///
    /// # Errors
    /// `ENOTTY` for a command that regular files do not know.
    pub(super) fn control(
        &self,
        node: u64,
        handle: u64,
        command: u32,
        data: &[u8],
        caller: Caller,
    ) -> Result<Vec<u8>> {
        let overlay = &self.overlay;
        match Opcode::from(command) {
            GET_FLAGS => return Ok(overlay.flags(handle)?.to_ne_bytes().to_vec()),
            GET_VERSION => return Ok(overlay.version(handle)?.to_ne_bytes().to_vec()),
            GET_EXTENDED_FLAGS => {
                return Ok(overlay.extended_flags(handle)?.map(u32::to_ne_bytes).concat());
            }
            SET_FLAGS => overlay.set_flags(handle, number(data)?, caller)?,
            SET_EXTENDED_FLAGS => overlay.set_extended_flags(handle, &numbers(data)?, caller)?,
            _ => return Err(Errno::NOTTY),
        }
        // The time of change is another now.
        self.connection.forget_attributes(node);
        Ok(Vec::new())
    }
}

fn number(data: &[u8]) -> Result<u32> {
    data.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes)).ok_or(Errno::INVAL)
}

fn numbers(data: &[u8]) -> Result<ExtendedFlags> {
    let (words, _) = data.as_chunks();
    let words = words.first_chunk().ok_or(Errno::INVAL)?;
    Ok(words.map(u32::from_ne_bytes))
}
