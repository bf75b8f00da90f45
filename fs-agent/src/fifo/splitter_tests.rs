use std::{
    io::{Write, pipe},
    path::Path,
};

use proptest::prelude::*;

use super::*;

fn rules(bytes_max: usize) -> Rules {
    Rules { framing: FifoFraming::Line, empty_lines: EmptyLines::Keep, bytes_max }
}

fn splitter(rules: Rules) -> Splitter {
    Splitter::new(rules, (Memory::new(Path::new("/run/a.pipe")).unwrap(), Mark::default()))
}

fn append(splitter: &mut Splitter, bytes: &[u8]) {
    let (reader, mut writer) = pipe().unwrap();
    writer.write_all(bytes).unwrap();
    drop(writer);
    assert_eq!(splitter.read(reader, bytes.len() + 1).unwrap(), bytes.len());
}

/// Text, offset, part and parts of what comes of a stream that is read in these portions and then ends.
fn pieces_of(rules: Rules, portions: &[&[u8]]) -> Vec<(Vec<u8>, u64, u32, u32)> {
    let mut splitter = splitter(rules);
    let mut all = Vec::new();
    let mut take = |splitter: &mut Splitter, pieces: Vec<Piece>| {
        all.extend(pieces.iter().map(|p| (splitter.bytes(p).to_vec(), p.offset, p.part, p.parts)));
    };
    for portion in portions {
        append(&mut splitter, portion);
        let mut pieces = Vec::new();
        splitter.cut(&mut pieces);
        take(&mut splitter, pieces);
    }
    let mut pieces = Vec::new();
    splitter.finish(&mut pieces);
    take(&mut splitter, pieces);
    assert!(!splitter.is_unfinished());
    all
}

fn lines(portions: &[&[u8]]) -> Vec<Vec<u8>> {
    pieces_of(rules(100), portions).into_iter().map(|piece| piece.0).collect()
}

#[test]
fn a_line_ends_with_lf_or_crlf_and_the_last_one_with_the_stream() {
    assert_eq!(lines(&[b"one\ntwo\r\n\nthree"]), [&b"one"[..], b"two", b"", b"three"]);
    assert_eq!(lines(&[b"\r\n\r\n"]), [b"", b""]);
    assert_eq!(lines(&[b"a\rb\n"]), [b"a\rb"], "a CR within a line is a byte like others");
    assert_eq!(lines(&[b"\0\xff\xfe\n"]), [b"\0\xff\xfe"]);
    assert!(lines(&[b""]).is_empty());
}

#[test]
fn a_line_may_come_in_portions() {
    assert_eq!(lines(&[b"o", b"ne\r", b"\ntw", b"o", b"\n"]), [b"one", b"two"]);
}

#[test]
fn empty_lines_are_skipped_if_wanted() {
    let rules = Rules { empty_lines: EmptyLines::Skip, ..rules(100) };
    let pieces = pieces_of(rules, &[b"\na\n\r\n\nb\n"]);
    assert_eq!(pieces, [(b"a".to_vec(), 1, 0, 1), (b"b".to_vec(), 6, 0, 1)]);
}

#[test]
fn a_long_line_leaves_in_parts_and_the_last_says_how_many() {
    let expected = [
        (b"abcd".to_vec(), 0, 0, 0),
        (b"efgh".to_vec(), 4, 1, 0),
        (b"ij".to_vec(), 8, 2, 3),
        (b"xyz".to_vec(), 11, 0, 1),
    ];
    assert_eq!(pieces_of(rules(4), &[b"abcdefghij\nxyz\n"]), expected);
    assert_eq!(pieces_of(rules(4), &[b"abcde", b"fghi", b"j", b"\nxyz"]), expected);
}

#[test]
fn a_line_of_exactly_the_limit_is_whole_whatever_its_end() {
    for end in [&b"\n"[..], b"\r\n", b""] {
        let text = [b"abcd", end].concat();
        let portions: Vec<&[u8]> = text.chunks(1).collect();
        assert_eq!(pieces_of(rules(4), &portions), [(b"abcd".to_vec(), 0, 0, 1)], "{end:?}");
        let text = [b"abcde", end].concat();
        let portions: Vec<&[u8]> = text.chunks(1).collect();
        let expected = [(b"abcd".to_vec(), 0, 0, 0), (b"e".to_vec(), 4, 1, 2)];
        assert_eq!(pieces_of(rules(4), &portions), expected, "{end:?}");
    }
}

#[test]
fn chunks_are_what_came_at_once_up_to_the_limit() {
    let rules = Rules { framing: FifoFraming::Chunk, ..rules(4) };
    let pieces = pieces_of(rules, &[b"a\nb", b"cdefg\n"]);
    assert_eq!(
        pieces,
        [(b"a\nb".to_vec(), 0, 0, 1), (b"cdef".to_vec(), 3, 0, 1), (b"g\n".to_vec(), 7, 0, 1)]
    );
}

/// What comes of a stream that pauses for too long after each portion, and then ends.
fn paused(portions: &[&[u8]]) -> Vec<(Vec<u8>, u64)> {
    let mut splitter = splitter(rules(100));
    let mut all = Vec::new();
    for portion in portions {
        append(&mut splitter, portion);
        let mut pieces = Vec::new();
        splitter.cut(&mut pieces);
        splitter.pause(&mut pieces);
        all.extend(pieces.iter().map(|p| (splitter.bytes(p).to_vec(), p.offset)));
    }
    all
}

#[test]
fn a_cr_without_a_lf_is_a_byte_like_others() {
    assert_eq!(lines(&[b"end\r"]), [b"end\r"]);
    assert_eq!(lines(&[b"\r"]), [b"\r"]);
    assert_eq!(paused(&[b"50%\r", b"100%\r\n"]), [(b"50%\r".to_vec(), 0), (b"100%".to_vec(), 4)]);
}

#[test]
fn the_end_of_a_line_that_was_sent_without_it_is_no_line_of_its_own() {
    assert_eq!(paused(&[b"x\r", b"\ny\n"]), [(b"x\r".to_vec(), 0), (b"y".to_vec(), 3)]);
    assert_eq!(paused(&[b"x", b"\r\n\n"]), [(b"x".to_vec(), 0), (b"".to_vec(), 3)]);
    assert_eq!(paused(&[b"\n", b"\n"]), [(b"".to_vec(), 0), (b"".to_vec(), 1)], "these are lines");
    // Another writer's, after the last one has closed.
    let mut splitter = splitter(rules(100));
    let mut pieces = Vec::new();
    append(&mut splitter, b"x");
    splitter.finish(&mut pieces);
    append(&mut splitter, b"\n");
    splitter.cut(&mut pieces);
    assert_eq!(pieces.len(), 2);
}

#[test]
fn with_another_framing_a_long_line_that_has_begun_gets_its_last_part() {
    let chunk = Rules { framing: FifoFraming::Chunk, ..rules(10) };
    let mut splitter = splitter(rules(10));
    let (mut pieces, mut seen) = (Vec::new(), Vec::new());
    for (text, next) in
        [(&b"aaaaaaaaaaaaaaaaaaaaaaaaa"[..], chunk), (b"chunk", rules(10)), (b"line\n", chunk)]
    {
        append(&mut splitter, text);
        splitter.cut(&mut pieces);
        splitter.set_rules(next, &mut pieces);
        seen.extend(pieces.drain(..).map(|p| (p.range.len(), p.part, p.parts)));
    }
    assert_eq!(seen, [(10, 0, 0), (10, 1, 0), (5, 2, 3), (5, 0, 1), (4, 0, 1)]);
}

#[test]
fn a_part_that_is_given_early_leaves_something_for_the_last_one() {
    let mut splitter = splitter(Rules { empty_lines: EmptyLines::Skip, ..rules(10) });
    let (mut pieces, mut seen) = (Vec::new(), Vec::new());
    for text in [&b"abc"[..], b"d\r", b"\n", b"e", b"\n", b"\r", b"\n"] {
        append(&mut splitter, text);
        splitter.give_part(&mut pieces);
        seen.extend(pieces.drain(..).map(|p| (splitter.bytes(&p).to_vec(), p.part, p.parts)));
    }
    let expected = [("ab", 0, 0), ("c", 1, 0), ("d", 2, 3), ("e", 0, 1)];
    assert_eq!(seen, expected.map(|(text, part, parts)| (text.as_bytes().to_vec(), part, parts)));
}

proptest! {
    /// Lines as a plain reading of the text gives them, joined from their parts, whatever the portions; each in its place.
    #[test]
    fn every_byte_is_in_its_line(
        text in prop::collection::vec(prop::sample::select(b"ab\r\n\0\xff".to_vec()), 0..200),
        cuts in prop::collection::vec(1..30usize, 1..50),
        bytes_max in 1..20usize,
    ) {
        let mut portions = Vec::new();
        let mut rest = &text[..];
        for cut in cuts.iter().cycle() {
            let (portion, after) = rest.split_at(rest.len().min(*cut));
            portions.push(portion);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let mut seen: Vec<Vec<u8>> = Vec::new();
        let mut line: Vec<u8> = Vec::new();
        for (bytes, offset, part, parts) in pieces_of(rules(bytes_max), &portions) {
            let at = usize::try_from(offset).unwrap();
            prop_assert_eq!(&text[at..at + bytes.len()], &bytes[..]);
            prop_assert!(bytes.len() <= bytes_max);
            prop_assert_eq!(part == 0, line.is_empty());
            prop_assert!(parts == 0 || parts == part + 1);
            line.extend(bytes);
            if parts > 0 {
                seen.push(std::mem::take(&mut line));
            }
        }
        prop_assert!(line.is_empty(), "the last part of a line is missing");
        let mut expected: Vec<Vec<u8>> = text.split(|b| *b == b'\n').map(<[u8]>::to_vec).collect();
        if expected.last().is_some_and(Vec::is_empty) {
            expected.pop();
        }
        // A CR belongs to an end only if its LF is there.
        let ended = text.iter().filter(|b| **b == b'\n').count();
        for line in expected.iter_mut().take(ended) {
            if line.ends_with(b"\r") {
                line.pop();
            }
        }
        prop_assert_eq!(seen, expected);
    }
}
