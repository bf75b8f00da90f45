//! From a place in a TOML text to the line and key that a person looks for.

/// The line, from 1, of a byte of the text.
pub(super) fn line_of(text: &str, at: usize) -> usize {
    text.bytes().take(at).filter(|b| *b == b'\n').count() + 1
}

/// The dotted key around a byte of the text: its table's header and what stands before the `=` of its line.
pub(super) fn key_of(text: &str, at: usize) -> String {
    let line = line_of(text, at);
    let mut table = "";
    let mut key = "";
    for current in text.lines().take(line) {
        let current = current.trim();
        if let Some(header) = current.strip_prefix('[') {
            table = header.trim_matches(|c: char| c == '[' || c == ']' || c.is_whitespace());
            key = "";
        } else if let Some((name, _)) = current.split_once('=')
            && !name.trim_start().starts_with('#')
        {
            key = name.trim();
        }
    }
    [table, key].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(".")
}

/// The line, from 1, in which a dotted key is set; none if it is not, or not in a line of its own.
pub(super) fn line_of_key(text: &str, key: &str) -> Option<usize> {
    line_of_value(text, key, "")
}

/// The same for where it is set to a value in which `part` is.
pub(super) fn line_of_value(text: &str, key: &str, part: &str) -> Option<usize> {
    let mut at = 0;
    text.split_inclusive('\n').zip(1..).find_map(|(line, number)| {
        let value =
            line.split_once('=').filter(|_| !line.trim_start().starts_with('#')).map(|(_, value)| value);
        let sets = value.is_some_and(|value| value.contains(part)) && key_of(text, at) == key;
        at += line.len();
        sets.then_some(number)
    })
}
