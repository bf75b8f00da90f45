//! What stands for a template's placeholders.

use std::{ffi::OsStr, fs, os::unix::ffi::OsStrExt, path::Path};

use bywash_common::config::{Config, NO_VALUE, Piece, Placeholder, Template, is_name_byte};

/// Stands for each byte of a value that the name of a topic or stream cannot have.
const REPLACEMENT: char = '-';

/// What does not depend on the event.
pub struct Constants {
    host: String,
    tags: String,
    /// The most bytes of the name of a topic or stream.
    name_bytes_max: usize,
}

impl Constants {
    /// Those of a configuration.
    pub fn new(config: &Config) -> Self {
        // proc_sys_kernel(5)
        let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        Self {
            host: host.trim_end().to_owned(),
            tags: config.event.tags.join("-"),
            name_bytes_max: config.name_bytes_max(),
        }
    }

    /// The name of a topic or stream: what brokers do not allow in it is replaced, and what is too much is cut off.
    pub fn name(&self, template: &Template, config: &Config, path: &[u8], user: Option<&str>) -> String {
        let mut name = String::new();
        for piece in template.pieces() {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Value(value) => {
                    let value = self.value(value, config, path, user);
                    name.extend(
                        value
                            .iter()
                            .map(|byte| if is_name_byte(*byte) { char::from(*byte) } else { REPLACEMENT }),
                    );
                }
            }
        }
        name.truncate(self.name_bytes_max);
        // The only ones that a topic cannot have.
        if name == "." || name == ".." { name.replace('.', "-") } else { name }
    }

    /// A key, of any bytes.
    pub fn key(&self, template: &Template, config: &Config, path: &[u8], user: Option<&str>) -> Vec<u8> {
        let mut key = Vec::new();
        for piece in template.pieces() {
            match piece {
                Piece::Text(text) => key.extend_from_slice(text.as_bytes()),
                Piece::Value(value) => key.extend_from_slice(self.value(value, config, path, user)),
            }
        }
        key
    }

    /// What stands for a placeholder; never empty.
    fn value<'v>(
        &'v self,
        value: &Placeholder,
        config: &'v Config,
        path: &'v [u8],
        user: Option<&'v str>,
    ) -> &'v [u8] {
        let found: Option<&[u8]> = match value {
            Placeholder::Path => Some(path),
            Placeholder::Directory => watched(config, path).and_then(|watched| names_of(watched).last()),
            Placeholder::Dir(number) => dir(watched(config, path), path, *number),
            Placeholder::File => names_of(path).last(),
            Placeholder::Stem => names_of(path).last().map(stem),
            Placeholder::User => user.map(str::as_bytes),
            Placeholder::Host => Some(self.host.as_bytes()),
            Placeholder::Tags => Some(self.tags.as_bytes()),
            Placeholder::Field(name) => config.event.fields.get(name).map(String::as_bytes),
        };
        found.filter(|value| !value.is_empty()).unwrap_or(NO_VALUE.as_bytes())
    }
}

/// The watched directory that a file is below, or the directory that a FIFO is in.
fn watched<'p>(config: &'p Config, path: &'p [u8]) -> Option<&'p [u8]> {
    let path = Path::new(OsStr::from_bytes(path));
    let found = match config.directory_of(path) {
        Some(directory) => Some(directory.path.as_path()),
        None => path.parent(),
    };
    found.map(|found| found.as_os_str().as_bytes())
}

fn names_of(path: &[u8]) -> impl Iterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty())
}

/// The so-manieth directory of a path below the watched one; none where the file lies above it.
fn dir<'p>(watched: Option<&[u8]>, path: &'p [u8], number: usize) -> Option<&'p [u8]> {
    let above = watched.map_or(0, |watched| names_of(watched).count());
    let below: Vec<&[u8]> = names_of(path).skip(above).collect();
    let (_, directories) = below.split_last()?;
    directories.get(number.checked_sub(1)?).copied()
}

/// A file's name up to its first dot, which a leading one is not: rotated files have it in common.
fn stem(file: &[u8]) -> &[u8] {
    let dot = file.iter().skip(1).position(|byte| *byte == b'.');
    dot.map_or(file, |at| &file[..=at])
}
