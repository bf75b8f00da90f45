//! What is wrong with a configuration, and where the value comes from.

use std::path::PathBuf;

use super::locate::Key;

/// One thing that is wrong with the configuration.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{origin}: {key}{}{message}", if key.is_empty() { "" } else { ": " })]
pub struct Problem {
    /// Where the value comes from.
    pub origin: Origin,
    /// The key, dotted; empty where the text is no TOML and names none.
    pub key: String,
    /// What is wrong, with the value, and the way out.
    pub message: String,
}

/// A value that can be read, and that what works with it cannot use.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{key}: {message}")]
pub struct Unusable {
    /// The key.
    pub key: Key,
    /// Why, and the way out.
    pub message: String,
}

impl Unusable {
    /// A key whose parts hold no dots, and why.
    pub fn new(key: &str, message: impl Into<String>) -> Self {
        Self { key: key.into(), message: message.into() }
    }
}

/// Where a value of the configuration comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A line of a file, from 1.
    File(PathBuf, usize),
    /// A flag.
    Flag(&'static str),
    /// The environment variable that stands for a flag.
    Environment(&'static str),
    /// An environment variable that stands for no flag of its own.
    Variable(&'static str),
    /// Nobody has set it.
    Default,
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path, line) => write!(f, "{}:{line}", path.display()),
            Self::Flag(flag) => write!(f, "--{flag}"),
            Self::Environment(flag) => {
                write!(f, "BYWASH_{}", flag.to_ascii_uppercase().replace('-', "_"))
            }
            Self::Variable(name) => write!(f, "{name}"),
            Self::Default => write!(f, "default"),
        }
    }
}

/// The configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration {}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        error: std::io::Error,
    },
    /// What the file and the flags say is wrong.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Wrong(Vec<Problem>),
}
