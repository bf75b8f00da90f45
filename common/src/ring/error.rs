//! Errors of making and attaching rings.

use std::{io, path::PathBuf};

use super::config::{SEGMENT_DIR, VERSION};

/// Why a ring cannot be made or attached to.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// There is no such ring.
    #[error("there is no ring `{name}`: is fs-agent running, with the same ring.name?")]
    Missing {
        /// The ring's name.
        name: String,
    },
    /// Another agent writes to it.
    #[error(
        "the ring `{name}` is held by another fs-agent{}: stop that one, or give this one another ring.name",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    AgentHolds {
        /// The ring's name.
        name: String,
        /// Who holds it, if known.
        pid: Option<u64>,
    },
    /// Another publisher drains it.
    #[error(
        "the ring `{name}` is held by another publisher{}: stop that one, or give this one another ring.name",
        pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    PublisherHolds {
        /// The ring's name.
        name: String,
        /// Who holds it, if known.
        pid: Option<u64>,
    },
    /// It is of another layout version.
    #[error(
        "the ring segment `{name}` is of layout version {found}, this program is of version {VERSION}: \
         run the publisher of the version that wrote it until it is drained"
    )]
    Version {
        /// The segment's name.
        name: String,
        /// The version that it has.
        found: u32,
    },
    /// It was made before this machine started, and its agent's last stores may not be in it.
    #[error("the ring segment `{name}` is of an earlier boot")]
    OtherBoot {
        /// The segment's name.
        name: String,
    },
    /// Its size is not the configured one.
    #[error("the ring segment `{name}` has {found} bytes for records instead of {wanted}")]
    OtherSize {
        /// The segment's name.
        name: String,
        /// Bytes for records in it.
        found: u64,
        /// Bytes for records as configured.
        wanted: u64,
    },
    /// Its content is impossible.
    #[error("the ring segment `{name}` is damaged: {what}; remove {SEGMENT_DIR}/{name} if it is of no use")]
    Corrupt {
        /// The segment's name.
        name: String,
        /// What is impossible.
        what: &'static str,
    },
    /// One of its two objects is missing.
    #[error(
        "the ring segment `{name}` has lost what belongs to it: somebody has removed {SEGMENT_DIR}/{ack}"
    )]
    Halved {
        /// The segment's name.
        name: String,
        /// The missing object.
        ack: String,
    },
    /// Somebody has taken it away under the agent that writes to it.
    #[error("the ring segment `{name}` is of no more use: {what}")]
    Broken {
        /// The segment's name.
        name: String,
        /// What was done to it.
        what: &'static str,
    },
    /// Somebody who may only read it holds a lock on it.
    #[error("somebody who may read the ring segment `{name}` holds a lock on it (see lslocks)")]
    Blocked {
        /// The segment's name.
        name: String,
    },
    /// The shared-memory filesystem has no room for it.
    #[error(
        "there is no room for a ring of {bytes} bytes in {SEGMENT_DIR}: \
         make ring.size smaller, or give that filesystem more (mount -o remount,size=...)"
    )]
    NoRoom {
        /// The segment's size.
        bytes: u64,
    },
    /// The name cannot be part of a file's name.
    #[error("`{name}` cannot be a ring.name: use 1 to 64 letters, digits, `-` or `_`")]
    Name {
        /// The name.
        name: String,
    },
    /// The group that shall have access does not exist.
    #[error(
        "the group `{0}` of ring.group does not exist: create it (groupadd --system {0}) or leave ring.group out"
    )]
    Group(String),
    /// The system said no.
    #[error("cannot {action} {}: {error}{}", path.display(), way_in(error))]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        error: io::Error,
    },
}

/// Who has to ask where the system refuses.
fn way_in(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => ": root, the ring's owner, and the members of `ring.group` may",
        _ => "",
    }
}

impl RingError {
    /// What was found; none where there is no ring.
    ///
    /// # Errors
    /// Every other one.
    pub fn or_none<T>(found: Result<T, Self>) -> Result<Option<T>, Self> {
        match found {
            Ok(found) => Ok(Some(found)),
            Err(Self::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether the ring is there and cannot be read: an agent begins another one instead of it.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Halved { .. })
    }
}
