//! Secrets of the configuration, which no log shows: libraries and brokers may say what they were told.

use std::sync::{PoisonError, RwLock};

/// What stands for a secret.
pub const REDACTED: &str = "[redacted]";
/// A secret of fewer bytes is left where it is: it would be found in every word.
const SECRET_BYTES_MIN: usize = 4;

/// The longest first: one may be a part of another.
static SECRETS: RwLock<Vec<String>> = RwLock::new(Vec::new());

/// From now on no log of this process shows these.
pub fn hide<'a>(secrets: impl IntoIterator<Item = &'a str>) {
    let mut hidden = SECRETS.write().unwrap_or_else(PoisonError::into_inner);
    for secret in secrets.into_iter().filter(|secret| secret.len() >= SECRET_BYTES_MIN) {
        if !hidden.iter().any(|known| known == secret) {
            hidden.push(secret.to_owned());
        }
    }
    hidden.sort_by_key(|secret| std::cmp::Reverse(secret.len()));
}

/// A text without what is hidden.
pub fn redacted(mut text: String) -> String {
    for secret in &*SECRETS.read().unwrap_or_else(PoisonError::into_inner) {
        if text.contains(secret) {
            text = text.replace(secret, REDACTED);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found_wherever_they_are_and_short_ones_are_left() {
        hide(["hunter2-phrase", "hunter2", "abc"]);
        let text = redacted("`hunter2-phrase`: hunter2, abc".to_owned());
        assert_eq!(text, "`[redacted]`: [redacted], abc");
    }
}
