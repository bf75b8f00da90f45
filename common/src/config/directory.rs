//! `[[directory]]`: what is watched, and how.

use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use toml::{Spanned, Value};

use super::{
    Config,
    file::Context,
    print::{table, text},
};

/// Directories of the system itself: an overlay there would take the machine down.
const SYSTEM: [&str; 3] = ["/dev", "/proc", "/sys"];

/// `[[directory]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryConfig {
    /// Absolute, without `.`, `..` and trailing slash.
    pub path: PathBuf,
    /// Replaces `kafka.topic` for what is written here.
    pub topic: Option<String>,
    /// Make the directory if it does not exist.
    pub create: bool,
}

impl DirectoryConfig {
    /// The directory at `path`, with every other key at its default.
    pub fn at(path: PathBuf) -> Self {
        Self { path, topic: None, create: false }
    }
}

/// The keys in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    path: Spanned<PathBuf>,
    topic: Option<String>,
    #[serde(default)]
    create: bool,
}

/// Takes over one section of the file.
pub(super) fn apply(table: Table, config: &mut Config, context: &mut Context<'_>) {
    let at = table.path.span().start;
    let Table { path, topic, create } = table;
    let new = DirectoryConfig { topic, create, ..DirectoryConfig::at(path.into_inner()) };
    config.add_directory(new, |message| context.refuse(at, message));
}

/// One section, as the file has it.
pub(super) fn print(directory: &DirectoryConfig) -> Value {
    Value::Table(table([
        ("path", text(directory.path.display())),
        ("topic", directory.topic.clone().map(Value::from)),
        ("create", Some(directory.create.into())),
    ]))
}

/// A path as sections compare it: without `.`, doubled and trailing slashes.
///
/// # Errors
/// If it is not absolute or contains `..`.
pub(super) fn checked_path(path: &Path) -> Result<PathBuf, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("`{shown}` is not an absolute path: begin it with `/`"));
    }
    if path.components().any(|c| c == Component::ParentDir) {
        return Err(format!("`{shown}` contains `..`: write the directory's own path"));
    }
    Ok(path.components().collect())
}

impl Config {
    /// Adds a directory, if it can be watched beside the others. The same one twice counts once.
    pub(super) fn add_directory(&mut self, new: DirectoryConfig, mut refuse: impl FnMut(String)) {
        let path = match checked_path(&new.path) {
            Ok(path) => path,
            Err(message) => return refuse(message),
        };
        let shown = new.path.display().to_string();
        let new = DirectoryConfig { path, ..new };
        for system in SYSTEM {
            if new.path.starts_with(system) || Path::new(system).starts_with(&new.path) {
                return refuse(format!("`{shown}` cannot be watched: it is, contains or lies in {system}"));
            }
        }
        for other in &self.directories {
            if other.path == new.path {
                return tracing::info!("{shown} is configured twice: the first one counts");
            }
            if other.path.starts_with(&new.path) || new.path.starts_with(&other.path) {
                let other = other.path.display();
                return refuse(format!("`{shown}` and `{other}` contain one another: keep the outer one"));
            }
        }
        self.directories.push(new);
    }
}
