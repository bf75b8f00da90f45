//! Where values come from: the flag, or the file's line.

use std::path::Path;

use super::{
    flags::ConfigArgs,
    locate::{self, Key},
    problem::{Origin, Problem, Unusable},
};

/// Where values come from.
pub(super) struct Places<'a> {
    pub args: &'a ConfigArgs,
    pub file: &'a Path,
    /// The file's text; empty if it is not TOML.
    pub text: &'a str,
}

impl Places<'_> {
    /// Of a key's value, or of the key if the value is not found as it is.
    fn of(&self, key: &Key, value: &str) -> Origin {
        if let Some(flag) = self.args.flag_of(&key.to_string()) {
            return self.args.layers.origin(flag);
        }
        let line =
            locate::line_of_value(self.text, key, value).or_else(|| locate::line_of_key(self.text, key));
        line.map_or(Origin::Default, |line| Origin::File(self.file.to_owned(), line))
    }

    pub fn problem(&self, key: &str, value: &str, message: String) -> Problem {
        Problem { origin: self.of(&key.into(), value), key: key.to_owned(), message }
    }

    /// What a service cannot use, and where it stands.
    pub fn of_unusable(&self, unusable: &Unusable) -> Problem {
        let Unusable { key, message } = unusable;
        Problem { origin: self.of(key, ""), key: key.to_string(), message: message.clone() }
    }
}

/// Where a path that a key is set to stands, and the key; nothing if it stands nowhere for sure.
pub(super) fn place_of(places: &Places<'_>, key: &str, path: &Path) -> Option<String> {
    let shown = path.display().to_string();
    let is_there = || locate::line_of_value(places.text, &key.into(), &shown).is_some();
    match places.of(&key.into(), &shown) {
        Origin::Default => None,
        Origin::File(..) if !is_there() => None,
        origin => Some(format!("{origin}: {key}")),
    }
}
