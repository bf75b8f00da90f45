use std::{
    io::Write,
    process::{Command, Stdio},
};

use proptest::prelude::*;
use regex_automata::{Input, PatternID, PatternSet};

use super::*;

fn matches(pattern: &str, path: &str) -> bool {
    Globs::new(vec![pattern.to_owned()]).unwrap().match_path(format!("/{path}").as_bytes())
}

#[test]
fn a_pattern_matches_as_it_is_documented() {
    for (pattern, path, expected) in [
        ("*.gz", "a.gz", true),
        ("*.gz", "old/2024/a.gz", true),
        ("*.gz", "a.gz/b", false),
        ("*.gz", "A.GZ", false),
        ("[Cc]ore*", "x/Core.17", true),
        ("core*", "core", true),
        ("core", "score", false),
        ("/core", "core", true),
        ("/core", "x/core", false),
        ("tmp/*", "tmp/a", true),
        ("tmp/*", "tmp/a/b", false),
        ("tmp/*", "x/tmp/a", false),
        ("tmp/**", "tmp/a/b", true),
        ("tmp/**", "tmp", false),
        ("**/tmp/**", "x/tmp/a", true),
        ("**/tmp/**", "tmp/a", true),
        ("a/**/b", "a/b", true),
        ("a/**/b", "a/x/y/b", true),
        ("**", "a/b", true),
        ("?.log", "a.log", true),
        ("?.log", "ab.log", false),
        ("[!a].log", "b.log", true),
        ("[!a].log", "a.log", false),
        ("*.{gz,xz}", "a.xz", true),
        ("\\*", "*", true),
        ("\\*", "a", false),
    ] {
        assert_eq!(matches(pattern, path), expected, "{pattern} and {path}");
    }
}

#[test]
fn a_name_may_be_any_bytes() {
    let globs = Globs::new(vec!["*.gz".to_owned(), "\u{fc}*".to_owned()]).unwrap();
    assert!(globs.match_path(b"/\xff/\xfe.gz"));
    assert!(globs.match_path("/\u{fc}x".as_bytes()));
    assert!(!globs.match_path(b"/\xff"));
}

#[test]
fn a_wrong_pattern_is_named_with_the_way_out() {
    for (pattern, word) in [
        ("", "one character"),
        ("a[", "a["),
        ("{a", "{a"),
        ("tmp/", "tmp/**"),
        ("a//b", "a//b"),
        ("../a", ".."),
    ] {
        let message = Globs::new(vec!["*.gz".to_owned(), pattern.to_owned()]).unwrap_err();
        assert!(message.contains(word), "`{word}` is not in: {message}");
    }
}

#[test]
fn no_patterns_match_nothing() {
    assert!(!Globs::default().match_path(b"/a"));
}

#[test]
fn a_set_never_holds_a_slash() {
    for (pattern, path) in [
        ("core[!.]*", "core/index.php"),
        ("a[!x]b", "a/b"),
        ("a[^x]b", "a/b"),
        ("/a[.-0]b", "a/b"),
        ("x/a[!x]b", "x/a/b"),
        ("{a[!x],c}b", "a/b"),
    ] {
        assert!(!matches(pattern, path), "{pattern} and {path}");
    }
    assert!(matches("core[!.]*", "core1") && matches("core[!.]*", "x/core1"));
}

/// A piece of a pattern, to be compared by definition.
#[derive(Clone, Debug)]
enum Piece {
    Byte(u8),
    One,
    Any,
    Set(bool, Vec<u8>),
    Directories,
    Choice(Vec<Vec<Piece>>),
}

fn written(pieces: &[Piece]) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Byte(byte) if b"*?[]{},\\".contains(byte) => format!("\\{}", char::from(*byte)),
        Piece::Byte(byte) => char::from(*byte).to_string(),
        Piece::One => "?".to_owned(),
        Piece::Any => "*".to_owned(),
        Piece::Set(is_inverted, bytes) => {
            let bytes: String = bytes.iter().copied().map(char::from).collect();
            format!("[{}{bytes}]", if *is_inverted { "!" } else { "" })
        }
        Piece::Directories => "/**/".to_owned(),
        Piece::Choice(choices) => {
            let choices: Vec<_> = choices.iter().map(|choice| written(choice)).collect();
            format!("{{{}}}", choices.join(","))
        }
    };
    pieces.iter().map(piece).collect()
}

/// Which beginnings of `text` the pieces match, by their lengths.
fn ends(pieces: &[Piece], text: &[u8]) -> Vec<usize> {
    let Some((first, rest)) = pieces.split_first() else { return vec![0] };
    let lengths: Vec<usize> = match first {
        Piece::Byte(byte) => {
            if text.first() == Some(byte) {
                vec![1]
            } else {
                vec![]
            }
        }
        Piece::One => {
            if text.first().is_some_and(|byte| *byte != b'/') {
                vec![1]
            } else {
                vec![]
            }
        }
        Piece::Any => (0..=text.iter().take_while(|byte| **byte != b'/').count()).collect(),
        Piece::Set(is_inverted, set) => match text.first() {
            Some(byte) if *byte != b'/' && set.contains(byte) != *is_inverted => vec![1],
            _ => vec![],
        },
        Piece::Directories => {
            let slashes = (0..text.len()).filter(|at| text[*at] == b'/').map(|at| at + 1);
            if text.first() == Some(&b'/') { slashes.collect() } else { vec![] }
        }
        Piece::Choice(choices) => choices.iter().flat_map(|choice| ends(choice, text)).collect(),
    };
    let all =
        lengths.into_iter().flat_map(|len| ends(rest, &text[len..]).into_iter().map(move |more| len + more));
    let mut all: Vec<usize> = all.collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let simple = prop_oneof![
        3 => prop::sample::select(b"aab.*?[]{},\\".to_vec()).prop_map(Piece::Byte),
        1 => Just(Piece::Byte(b'/')),
        1 => Just(Piece::One),
        2 => Just(Piece::Any),
        1 => Just(Piece::Directories),
        1 => (any::<bool>(), prop::collection::vec(prop::sample::select(b"ab.*{".to_vec()), 1..3))
            .prop_map(|(is_inverted, set)| Piece::Set(is_inverted, set)),
    ];
    let choice =
        prop::collection::vec(prop::collection::vec(simple.clone(), 0..3), 1..3).prop_map(Piece::Choice);
    prop::collection::vec(prop_oneof![6 => simple, 1 => choice], 1..6)
}

proptest! {
    /// Against the table, piece by piece.
    #[test]
    fn a_pattern_matches_what_its_pieces_match(
        pieces in pieces(),
        paths in prop::collection::vec(
            prop::collection::vec("[ab.*?{},\\[\\\\]{1,3}", 1..4).prop_map(|parts| parts.join("/")),
            20,
        ),
    ) {
        let pattern = written(&pieces);
        // What else has a meaning of its own: a star beside another, and what is refused.
        prop_assume!(!pattern.contains("***") && !pattern.replace("/**/", "").contains("**"));
        let Ok(globs) = Globs::new(vec![pattern.clone()]) else { return Ok(()) };
        let is_name = !pattern.contains('/');
        for path in paths {
            let whole = path.strip_prefix('/').unwrap_or(&path);
            let below = if is_name { whole.rsplit('/').next().unwrap() } else { whole };
            let text = if pattern.starts_with('/') { format!("/{below}") } else { below.to_owned() };
            let expected = ends(&pieces, text.as_bytes()).contains(&text.len());
            prop_assert_eq!(globs.match_path(format!("/{whole}").as_bytes()), expected, "{} and {}", pattern, whole);
        }
    }
}

/// What fnmatch(3) of the C library says, in the C locale: for each pattern, for which of the paths it is 0.
fn fnmatch(patterns: &[String], paths: &[&str]) -> Option<Vec<Vec<bool>>> {
    const SCRIPT: &str = "
import ctypes, sys
fnmatch = ctypes.CDLL(None).fnmatch
patterns, paths = [[bytes.fromhex(x) for x in line.split(' ')] for line in sys.stdin.read().splitlines()]
for p in patterns:
    print(''.join('01'[fnmatch(p, q, 0) == 0] for q in paths))
";
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = |texts: &mut dyn Iterator<Item = &str>| texts.map(hex).collect::<Vec<_>>().join(" ");
    let input =
        format!("{}\n{}\n", line(&mut patterns.iter().map(String::as_str)), line(&mut paths.iter().copied()));
    let mut child = Command::new("python3")
        .args(["-c", SCRIPT])
        .env("LC_ALL", "C")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .inspect_err(|error| println!("skipped: cannot ask the C library without python3: {error}"))
        .ok()?;
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(|line| line.bytes().map(|byte| byte == b'1').collect()).collect())
}

/// What patterns for fnmatch(3) are made of.
const FNMATCH_PIECES: [&str; 40] = [
    "a",
    "b",
    "/",
    "*",
    "?",
    "[ab]",
    "[!a]",
    "[^a]",
    "[a/]",
    "[/]",
    "[!/]",
    "[a-]",
    "[a-c]",
    "[c-a]",
    "[--0]",
    "[]a]",
    "[!]a]",
    "[[]",
    "[\\]]",
    "[a\\-z]",
    "[!\\a]",
    "[[:digit:]]",
    "[[:alpha:]/]",
    "[![:alnum:]]",
    "[[:nope:]]",
    "[[:digit]",
    "[[=a=]]",
    "[[.a.]-b]",
    "[a",
    "[",
    "]",
    "-",
    "\\*",
    "\\a",
    "\\",
    ".",
    "{a,b}",
    ":",
    "é",
    "[é]",
];

const FNMATCH_PATHS: [&str; 32] = [
    "/a",
    "/b",
    "/ab",
    "/aa",
    "/a/b",
    "/a/a/b",
    "/axb",
    "/x/b",
    "/x/a/b",
    "/f.log.1",
    "/a.gz",
    "/q?",
    "/7",
    "/q*",
    "/q{a,b}",
    "/a]",
    "/]",
    "/[",
    "/[a",
    "/a-",
    "/-",
    "/:",
    "/\\",
    "/é",
    "/.a",
    "/a\nb",
    "/A",
    "/a[b",
    "/[[:digit]",
    "/=]",
    "/x/7",
    "/c",
];

/// As many are made ready together, which takes less time.
const MANY: usize = 200;

#[test]
fn excludes_of_fuse_kafka_match_what_fnmatch_matches() {
    let pieces = FNMATCH_PIECES.iter();
    let pairs = pieces.clone().flat_map(|a| FNMATCH_PIECES.iter().map(move |b| format!("{a}{b}")));
    let pairs: Vec<String> = pieces.map(|piece| (*piece).to_owned()).chain(pairs).collect();
    let patterns: Vec<String> = ["", "/", "*", "/a*"]
        .iter()
        .flat_map(|begin| pairs.iter().map(move |pair| format!("{begin}{pair}")))
        .collect();
    let Some(expected) = fnmatch(&patterns, &FNMATCH_PATHS) else { return };
    let mut wrong = Vec::new();
    for (patterns, expected) in patterns.chunks(MANY).zip(expected.chunks(MANY)) {
        let globs =
            Globs::new(patterns.iter().map(|pattern| format!("{FNMATCH}{pattern}")).collect()).unwrap();
        for (at, path) in FNMATCH_PATHS.iter().enumerate() {
            let mut matched = PatternSet::new(patterns.len());
            globs.set.as_ref().unwrap().which_overlapping_matches(&Input::new(path), &mut matched);
            for (i, pattern) in patterns.iter().enumerate() {
                let found = matched.contains(PatternID::must(i));
                if found != expected[i][at] {
                    wrong.push(format!("{pattern} {path} {found}"));
                }
                assert!(!expected[i][at] || fnmatch_reaches_paths(pattern), "{pattern}");
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {}: {:?}", wrong.len(), patterns.len(), &wrong[..wrong.len().min(40)]);
}
