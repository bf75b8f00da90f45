//! What a ring is made as, and the names that rings can have.

use crate::units::ByteSize;

/// The version of the layout and protocol that this build writes and reads.
pub const VERSION: u32 = 1;

/// What a ring is made as; `[ring]` of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Name of the shared-memory objects.
    pub name: String,
    /// Bytes for records; rounded up to pages.
    pub size: ByteSize,
    /// The group that may attach besides the owner.
    pub group: Option<String>,
}

/// Where Linux keeps POSIX shared memory (shm_overview(7)).
pub const SEGMENT_DIR: &str = "/dev/shm";

/// Whether a text can be a ring's name: 1 to 64 ASCII letters, digits, `-` or `_`.
pub fn name_is_valid(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}
