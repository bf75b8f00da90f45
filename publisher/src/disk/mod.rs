//! What the spool and the dead letters ask of a disk: few calls, so that a simulated disk can take the real one's place.

mod interface;
mod system;

pub use bywash_common::make::Access;
pub use interface::{Disk, Open, Stored, TEMPORARY, read_all, read_up_to_at, replace, write_all_at};
pub use system::SystemDisk;
