//! Why the spool cannot be used, or not take something.

use std::{
    io,
    path::{Path, PathBuf},
};

use bywash_common::units::ByteSize;

use crate::{delivery::Class, state_dir::StateDirError};

use super::segment::HeaderError;

/// The spool cannot be used, or not take something.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// The directory cannot be used.
    #[error(transparent)]
    Dir(#[from] StateDirError),
    /// It holds records of another ring.
    #[error(
        "the spool {} holds records of the ring `{found}`, this publisher drains `{wanted}`: have them delivered by \
         a publisher of that ring, or give this one another spool.dir",
        path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The ring's name as found.
        found: String,
        /// The name of this publisher's ring.
        wanted: String,
    },
    /// A segment is of another version.
    #[error("{}: {error}", path.display())]
    Segment {
        /// The segment.
        path: PathBuf,
        /// What is wrong with it.
        error: HeaderError,
    },
    /// It would take more room than it may.
    #[error("the spool {} has reached spool.size_max ({max})", path.display())]
    Full {
        /// The directory.
        path: PathBuf,
        /// `spool.size_max`
        max: ByteSize,
    },
    /// The system said no.
    #[error("cannot {action} {}: {error}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

impl SpoolError {
    /// The system's error, where that says nothing of what is in the spool: the same may succeed later.
    pub fn to_try_again(&self) -> Option<&io::Error> {
        match self {
            Self::Io { error, .. } if Class::of(error, 1) == Class::Retry => Some(error),
            _ => None,
        }
    }
}

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    move |error| SpoolError::Io { action, path: path.to_owned(), error }
}
