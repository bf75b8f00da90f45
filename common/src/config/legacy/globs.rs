//! Patterns of fuse_kafka as patterns of bywash.

use crate::glob::Globs;

/// The most `*` that a pattern may have: each doubles what stands for it.
const STARS_MAX: usize = 6;

/// The patterns that together match what `pattern` matched by fnmatch(3) without flags, which was given a path below
/// the directory behind a `/`: there a `*` stands for any bytes, `/` too. None if that was nothing.
///
/// # Errors
/// If there are none, and why.
pub(super) fn of_fnmatch(pattern: &str) -> Result<Vec<String>, String> {
    let mut below: Vec<String> = Vec::new();
    let whole = pieces(pattern);
    // The slash in front of the path.
    match whole.split_first() {
        Some((Piece::Star, rest)) => {
            below.extend(expanded(&whole, pattern)?);
            if let Some((Piece::Text(text), _)) = rest.split_first()
                && text.starts_with('/')
            {
                below.extend(expanded(rest, pattern)?.into_iter().map(|p| p[1..].to_owned()));
            }
        }
        Some((Piece::Text(text), _)) if text.starts_with(['/', '?']) => {
            below.extend(expanded(&whole, pattern)?.into_iter().map(|p| p[1..].to_owned()));
        }
        _ => {}
    }
    // No file is named by nothing, or by a path that ends with a slash.
    below.retain(|pattern| !pattern.is_empty() && !pattern.ends_with('/'));
    let anchored: Vec<String> = below.into_iter().map(|pattern| format!("/{pattern}")).collect();
    Globs::new(anchored.clone())?;
    Ok(anchored)
}

enum Piece {
    Text(String),
    Star,
}

/// The texts between the stars; several in a row are one.
fn pieces(pattern: &str) -> Vec<Piece> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut characters = pattern.chars();
    while let Some(c) = characters.next() {
        match c {
            '*' => {
                if !text.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut text)));
                }
                if !matches!(pieces.last(), Some(Piece::Star)) {
                    pieces.push(Piece::Star);
                }
            }
            // fnmatch(3) knows no alternatives.
            '{' | '}' => text.extend(['\\', c]),
            '\\' => text.extend([c].into_iter().chain(characters.next())),
            c => text.push(c),
        }
    }
    if !text.is_empty() {
        pieces.push(Piece::Text(text));
    }
    pieces
}

/// A star is any bytes without a slash, or such, any directories, and such.
fn expanded(pieces: &[Piece], pattern: &str) -> Result<Vec<String>, String> {
    if pieces.iter().filter(|piece| matches!(piece, Piece::Star)).count() > STARS_MAX {
        return Err(format!(
            "`{pattern}` has more than {STARS_MAX} `*`: write what it stands for into directory.exclude of a bywash.toml"
        ));
    }
    let mut all = vec![String::new()];
    for piece in pieces {
        match piece {
            Piece::Text(text) => all.iter_mut().for_each(|pattern| pattern.push_str(text)),
            Piece::Star => {
                all = all.into_iter().flat_map(|p| [format!("{p}*"), format!("{p}*/**/*")]).collect();
            }
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// fnmatch(3) without flags, of patterns of letters, `/` and `*`.
    fn fnmatch(pattern: &[u8], path: &[u8]) -> bool {
        match pattern.split_first() {
            None => path.is_empty(),
            Some((b'*', rest)) => (0..=path.len()).any(|skipped| fnmatch(rest, &path[skipped..])),
            Some((b, rest)) => {
                path.split_first().is_some_and(|(first, path)| first == b && fnmatch(rest, path))
            }
        }
    }

    proptest! {
        #[test]
        fn the_same_files_are_matched(
            pattern in "[ab/*]{1,6}",
            path in prop::collection::vec("[ab]{1,2}", 1..4).prop_map(|parts| parts.join("/")),
        ) {
            // With an empty part it matches nothing, and is refused.
            prop_assume!(!pattern.contains("//"));
            let globs = Globs::new(of_fnmatch(&pattern).unwrap()).unwrap();
            let expected = fnmatch(pattern.as_bytes(), format!("/{path}").as_bytes());
            prop_assert_eq!(globs.match_path(path.as_bytes()), expected, "{:?}", globs.patterns());
        }
    }

    #[test]
    fn usual_patterns() {
        for (pattern, path, expected) in [
            ("*.gz", "a/b.gz", true),
            ("*.gz", "b.gz", true),
            ("/core", "core", true),
            ("core", "core", false),
            ("*core.[0-9]", "a/core.7", true),
            ("*/cache/*", "cache/x/y", true),
            ("*/*/*", "a", false),
            ("*/*/*", "a/b/c", true),
            ("*{a}", "x{a}", true),
        ] {
            let globs = Globs::new(of_fnmatch(pattern).unwrap()).unwrap();
            assert_eq!(
                globs.match_path(path.as_bytes()),
                expected,
                "{pattern} {path}: {:?}",
                globs.patterns()
            );
        }
        assert!(of_fnmatch("*a*a*a*a*a*a*a").is_err_and(|message| message.contains("directory.exclude")));
    }
}
