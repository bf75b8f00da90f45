//! What an error says about the data behind it.

use std::io::{self, ErrorKind};

use nix::errno::Errno;

use crate::faults::Fault;

/// What follows from an error for the data that could not be had.
///
/// Every error of something that holds events on disk or in memory has a class. Only [`Self::Damage`] is ever passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// Nothing is known of the data: the same is tried again, later and for ever.
    Retry,
    /// The data was read, and a check of it failed: trying again would give the same.
    Damage,
}

/// How often a disk may say EIO for the same bytes before they count as damaged: a path to a disk that was cut for a moment
/// is there again by then, a sector that cannot be read is not.
pub const EIO_TRIES: u32 = 3;

impl Class {
    /// The class of what the system said at the `tries`-th try, from 1 on, for the same bytes.
    ///
    /// The end of a file in front of bytes that it must have is damage: the file was read. No room, no descriptors, no
    /// memory, no right, a server that is gone say nothing of the bytes.
    pub fn of(error: &io::Error, tries: u32) -> Self {
        if error.kind() == ErrorKind::UnexpectedEof || error.kind() == ErrorKind::InvalidData {
            return Self::Damage;
        }
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EIO) if tries >= EIO_TRIES => Self::Damage,
            // Checksums of the filesystem's own (btrfs, XFS).
            Some(Errno::EBADMSG | Errno::EUCLEAN) => Self::Damage,
            _ if Fault::ErrorsAreDamage.is_back() => Self::Damage,
            _ => Self::Retry,
        }
    }

    /// Whether the data may be passed over.
    pub fn is_damage(self) -> bool {
        self == Self::Damage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(errno: Errno, tries: u32) -> Class {
        Class::of(&io::Error::from(errno), tries)
    }

    #[test]
    fn what_says_nothing_of_the_data_is_tried_again_however_often_it_is_said() {
        for errno in [
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ESTALE,
            Errno::EINTR,
            Errno::ENOMEM,
            Errno::ENOSPC,
            Errno::EDQUOT,
            Errno::EACCES,
            Errno::EROFS,
            Errno::ENOENT,
        ] {
            assert_eq!(class(errno, 1_000_000), Class::Retry, "{errno}");
        }
    }

    #[test]
    fn a_disk_that_cannot_read_is_believed_after_some_tries() {
        assert_eq!(
            [1, 2, 3].map(|tries| class(Errno::EIO, tries)),
            [Class::Retry, Class::Retry, Class::Damage]
        );
    }

    #[test]
    fn a_file_that_ends_too_early_was_read() {
        assert_eq!(Class::of(&io::Error::from(ErrorKind::UnexpectedEof), 1), Class::Damage);
    }
}
