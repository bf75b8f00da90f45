//! Values with their places in the file, and the checks that several sections share.

use std::path::Path;

use serde::Deserialize;
use toml::Spanned;

use crate::units::ByteSize;

use super::{
    locate,
    problem::{Origin, Problem},
};

/// A value and its place in the file.
pub(super) type Placed<T> = Option<At<T>>;

/// The same where it has to be there.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct At<T>(Spanned<T>);

impl<T> At<T> {
    /// Where in the text it is.
    pub(super) fn span(&self) -> std::ops::Range<usize> {
        self.0.span()
    }

    pub(super) fn get_ref(&self) -> &T {
        self.0.get_ref()
    }

    pub(super) fn into_inner(self) -> T {
        self.0.into_inner()
    }
}

/// Collects what is wrong, with the place of each value.
pub(super) struct Context<'a> {
    path: &'a Path,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Context<'a> {
    /// For the file at `path` with `text`.
    pub(super) fn new(path: &'a Path, text: &'a str, problems: &'a mut Vec<Problem>) -> Self {
        Self { path, text, problems }
    }

    pub(super) fn refuse(&mut self, at: usize, message: impl Into<String>) {
        let origin = Origin::File(self.path.to_owned(), locate::line_of(self.text, at));
        let key = locate::key_of(self.text, at);
        self.problems.push(Problem { origin, key, message: message.into() });
    }

    /// Puts a value where it belongs unless `check` finds something wrong with it.
    pub(super) fn set<T, U>(
        &mut self,
        to: &mut U,
        from: Placed<T>,
        check: impl FnOnce(T) -> Result<U, String>,
    ) {
        let Some(value) = from else { return };
        let at = value.span().start;
        match check(value.into_inner()) {
            Ok(value) => *to = value,
            Err(message) => self.refuse(at, message),
        }
    }
}

pub(super) fn positive(n: u32) -> Result<u32, String> {
    if n == 0 { Err("`0` is too small: use 1 or more".to_owned()) } else { Ok(n) }
}

pub(super) fn positive_size(size: ByteSize) -> Result<ByteSize, String> {
    if size.0 == 0 { Err("`0` is too small: use 1 or more".to_owned()) } else { Ok(size) }
}

pub(super) fn checked_ring_name(name: String) -> Result<String, String> {
    let bare = name.strip_prefix('/').unwrap_or(&name).to_owned();
    if crate::ring::name_is_valid(&bare) {
        Ok(bare)
    } else {
        Err(format!("`{name}` cannot name a ring: use 1 to 64 letters, digits, `-` or `_`"))
    }
}

pub(super) fn checked_ring_size(size: ByteSize) -> Result<ByteSize, String> {
    let (min, max) = (ByteSize(crate::ring::CAPACITY_MIN), ByteSize(crate::ring::CAPACITY_MAX));
    if size < min || size > max {
        return Err(format!("`{size}` cannot be a ring's size: use {min} to {max}"));
    }
    Ok(size)
}
