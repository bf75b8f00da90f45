//! Configurations of the programs that bywash replaces, taken as they are.
//!
//! fuse_kafka's file has a key and a JSON value a line, `fuse_kafka_topic=["logs"]`; what its launcher made of each is
//! in its `src/fuse_kafka.py`, what its program did with that in its `src/arguments.c` and `src/output.c`.

pub mod fifo2kinesis;
mod keys;
mod properties;
#[cfg(test)]
mod tests;
pub(super) mod words;

use std::path::Path;

use super::{effective::Config, problem::Problem};

pub use keys::{KEYS, Key};

/// Whether a configuration file is one of fuse_kafka's: its name ends in `.properties`, or its first line that is
/// neither empty nor a comment begins with the name of a key of fuse_kafka's. No key of bywash begins like that.
pub(super) fn is_fuse_kafka(path: &Path, text: &str) -> bool {
    path.extension().is_some_and(|extension| extension == "properties")
        || text
            .lines()
            .map(str::trim)
            .find(|line| !line.is_empty() && !line.starts_with('#'))
            .is_some_and(properties::begins_with_a_key)
}

/// Takes over what fuse_kafka's file says.
pub(super) fn apply(path: &Path, text: &str, config: &mut Config, problems: &mut Vec<Problem>) {
    keys::apply(properties::parse(path, text, problems), path, config, problems);
}
