//! Values that stand elsewhere: `${NAME}` in the environment, `${file:PATH}` in a file, `${credential:NAME}` among the credentials that
//! systemd gives a unit (`LoadCredential=`). They are read by whoever needs them, so that fs-agent need not have the publisher's.

use std::{env, fs, path::PathBuf};

/// A file with a secret in it has no more bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// Where systemd puts credentials (systemd.exec(5)).
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// A value with what it refers to in place of each reference; `$${` stands for `${` itself. None if it has none of both.
///
/// # Errors
/// What was looked for and where, and the way out.
pub(super) fn resolve(value: &str) -> Result<Option<String>, String> {
    let Some(first) = value.find("${") else { return Ok(None) };
    let (mut resolved, mut rest) = (String::new(), value);
    let mut at = Some(first);
    while let Some(begin) = at {
        if let Some(before) = rest[..begin].strip_suffix('$') {
            resolved.push_str(before);
            resolved.push_str("${");
            rest = &rest[begin + 2..];
        } else {
            let end = rest[begin..].find('}').map(|length| begin + length);
            let end = end.ok_or_else(|| {
                format!("`{value}`: `${{` has no end: write `${{NAME}}`, or `$${{` for the text")
            })?;
            resolved.push_str(&rest[..begin]);
            resolved.push_str(&look_up(&rest[begin + 2..end])?);
            rest = &rest[end + 1..];
        }
        at = rest.find("${");
    }
    resolved.push_str(rest);
    Ok(Some(resolved))
}

fn look_up(reference: &str) -> Result<String, String> {
    if let Some(path) = reference.strip_prefix("file:") {
        return read(path.into());
    }
    if let Some(name) = reference.strip_prefix("credential:") {
        let Some(directory) = env::var_os(CREDENTIALS) else {
            return Err(format!(
                "`${{{reference}}}`: {CREDENTIALS} is not set: give the unit LoadCredential={name}:PATH, or write \
                 `${{file:PATH}}`"
            ));
        };
        if name.is_empty() || name.contains('/') {
            return Err(format!("`${{{reference}}}`: `{name}` names no credential"));
        }
        return read(PathBuf::from(directory).join(name));
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if reference.is_empty() || !reference.chars().all(is_name) {
        return Err(format!(
            "`${{{reference}}}` refers to nothing: write `${{NAME}}` for a variable of the environment, `${{file:/PATH}}`, \
             `${{credential:NAME}}`, or `$${{` for the text itself"
        ));
    }
    env::var(reference).map_err(|_| {
        format!("`${{{reference}}}`: the environment has no variable {reference}, or none that is text")
    })
}

/// A file's text, without the newline at its end.
fn read(path: PathBuf) -> Result<String, String> {
    let shown = path.display();
    if !path.is_absolute() {
        return Err(format!("`{shown}` is not an absolute path: write `${{file:/PATH}}`"));
    }
    let bytes = fs::metadata(&path).map_err(|error| format!("cannot read {shown}: {error}"))?.len();
    if bytes > FILE_BYTES_MAX {
        return Err(format!("{shown} has {bytes} bytes: a value has {FILE_BYTES_MAX} at most"));
    }
    let text = fs::read_to_string(&path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    Ok(text
        .strip_suffix('\n')
        .map(|text| text.strip_suffix('\r').unwrap_or(text))
        .unwrap_or(&text)
        .to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_replaced_wherever_they_stand_and_all_else_stays() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secret");
        fs::write(&file, "p4ss$word\n").unwrap();
        let reference = format!("${{file:{}}}", file.display());
        for (value, resolved) in [
            ("plain $text }".to_owned(), None),
            (reference.clone(), Some("p4ss$word".to_owned())),
            (format!("a{reference}b{reference}"), Some("ap4ss$wordbp4ss$word".to_owned())),
            ("$${NAME}".to_owned(), Some("${NAME}".to_owned())),
            ("${CARGO_PKG_NAME}".to_owned(), Some("bywash-common".to_owned())),
        ] {
            assert_eq!(resolve(&value), Ok(resolved), "{value}");
        }
    }

    #[test]
    fn what_cannot_be_found_is_named_with_where_it_was_looked_for() {
        for (value, words) in [
            ("${BYWASH_NO_SUCH_VARIABLE}", "BYWASH_NO_SUCH_VARIABLE"),
            ("${file:/no/such/file}", "cannot read /no/such/file"),
            ("${file:relative}", "absolute"),
            ("${credential:password}", "LoadCredential=password:PATH"),
            ("${NAME", "has no end"),
            ("${}", "refers to nothing"),
            ("${a b}", "refers to nothing"),
        ] {
            let refused = resolve(value).unwrap_err();
            assert!(refused.contains(words), "{value}: {refused}");
        }
    }
}
