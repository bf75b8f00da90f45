//! Why dead letters cannot be kept, or not be reached.

use std::{
    io,
    path::{Path, PathBuf},
};

use bywash_common::units::ByteSize;

use crate::state_dir::StateDirError;

/// Dead letters cannot be kept, or not be reached.
#[derive(Debug, thiserror::Error)]
pub enum FailedError {
    /// The directory cannot be used.
    #[error(transparent)]
    Dir(#[from] StateDirError),
    /// They would take more room than they may.
    #[error("{} holds {used} bytes of dead letters and may hold {max}: see to them (publisher failed list) or raise failed.size_max", dir.display())]
    Full {
        /// The directory.
        dir: PathBuf,
        /// What is in it.
        used: ByteSize,
        /// `failed.size_max`
        max: ByteSize,
    },
    /// Another process changes dead letters at this moment.
    #[error("another process changes the dead letters in {}", .0.display())]
    Busy(PathBuf),
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

pub(super) fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FailedError {
    move |error| FailedError::Io { action, path: path.to_owned(), error }
}
