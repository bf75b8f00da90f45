//! The books: what was written against what arrived.

use std::collections::{BTreeMap, HashMap, hash_map::Entry};

use super::{Event, event::Identity};

/// The events without their repetitions, in the order in which each arrived first, and how many repetitions there
/// were.
///
/// # Panics
/// If two events share an identity and differ.
#[track_caller]
pub fn distinct(events: Vec<Event>) -> (Vec<Event>, usize) {
    let mut places = HashMap::<Identity, usize>::new();
    let mut kept: Vec<Event> = Vec::new();
    let mut duplicates = 0;
    for event in events {
        match places.entry(event.identity()) {
            Entry::Occupied(place) => {
                assert_eq!(kept[*place.get()], event, "two different events have one event_id");
                duplicates += 1;
            }
            Entry::Vacant(place) => {
                place.insert(kept.len());
                kept.push(event);
            }
        }
    }
    (kept, duplicates)
}

/// The writes among the events, by path, each path's in the order of arrival.
pub fn by_path(events: &[Event]) -> BTreeMap<&str, Vec<&Event>> {
    let mut files = BTreeMap::<&str, Vec<&Event>>::new();
    for event in events.iter().filter(|event| event.lost().is_none()) {
        files.entry(event.path()).or_default().push(event);
    }
    files
}

/// A file's content, made again from its events in their order.
pub fn replay<'e>(events: impl IntoIterator<Item = &'e Event>) -> Vec<u8> {
    let mut content = Vec::new();
    for event in events {
        let begin = usize::try_from(event.offset()).expect("an offset that fits");
        let end = begin + event.message().len();
        if content.len() < end {
            content.resize(end, 0);
        }
        content[begin..end].copy_from_slice(event.message());
    }
    content
}

/// Each event continues where the one before ended: nothing is missing, duplicated or out of order.
///
/// # Panics
/// If one does not.
#[track_caller]
pub fn assert_contiguous(events: &[&Event]) {
    let mut end = events.first().map_or(0, |event| event.offset());
    for (i, event) in events.iter().enumerate() {
        assert_eq!(event.offset(), end, "event {i} of {} of {} is out of order", events.len(), event.path());
        end += event.message().len() as u64;
    }
}

/// Events and bytes of the writes among the events.
pub fn delivered(events: &[Event]) -> (u64, u64) {
    let writes = events.iter().filter(|event| event.lost().is_none());
    writes.fold((0, 0), |(events, bytes), event| (events + 1, bytes + event.message().len() as u64))
}

/// Events and bytes that loss events own up to.
pub fn lost(events: &[Event]) -> (u64, u64) {
    let losses = events.iter().filter_map(Event::lost);
    losses.fold((0, 0), |(events, bytes), lost| (events + lost.events, bytes + lost.bytes))
}

/// Panics with the first difference rather than with megabytes.
///
/// # Panics
/// If the two differ.
#[track_caller]
pub fn assert_same_bytes(what: &str, expected: &[u8], seen: &[u8]) {
    let differs = expected.iter().zip(seen).position(|(a, b)| a != b);
    assert!(
        expected == seen,
        "{what}: {} bytes expected, {} seen; the first difference is at {differs:?}",
        expected.len(),
        seen.len()
    );
}

#[cfg(test)]
mod tests {
    use super::{super::Message, *};

    fn event(id: &str, offset: u64, text: &str) -> Event {
        let message = base64_simd::STANDARD.encode_to_string(text);
        let json = serde_json::json!({"path": "/f", "event_id": id, "offset": offset, "@message": message});
        Event::parse(&Message { payload: json.to_string().into_bytes(), ..Message::default() })
    }

    #[test]
    fn a_repetition_is_counted_and_left_out() {
        let (kept, duplicates) = distinct(vec![event("a", 0, "x"), event("b", 1, "y"), event("a", 0, "x")]);
        assert_eq!((kept, duplicates), (vec![event("a", 0, "x"), event("b", 1, "y")], 1));
    }

    #[test]
    fn the_parts_and_pieces_of_a_write_are_no_repetitions_of_each_other() {
        let numbered = |number: u64, part: Option<u64>, piece: Option<u64>| {
            let mut event = event("a", number, "x");
            let keys = [("part", part), ("piece", piece)];
            event.json.extend(keys.into_iter().filter_map(|(key, n)| Some((key.to_owned(), n?.into()))));
            event
        };
        let events =
            vec![numbered(0, Some(0), None), numbered(1, Some(1), None), numbered(2, Some(1), Some(1))];
        let sent = [events.clone(), events.clone()].concat();
        assert_eq!(distinct(sent), (events, 3));
    }

    #[test]
    #[should_panic(expected = "two different events have one event_id")]
    fn one_id_with_two_contents_is_found() {
        distinct(vec![event("a", 0, "x"), event("a", 0, "y")]);
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn a_gap_is_found() {
        assert_contiguous(&[&event("a", 0, "x"), &event("b", 2, "y")]);
    }

    #[test]
    #[should_panic(expected = "the first difference is at Some(1)")]
    fn a_difference_is_found() {
        assert_same_bytes("it", b"abc", b"axc");
    }

    #[test]
    fn a_replay_overwrites() {
        let events = [event("a", 0, "12345"), event("b", 1, "xy"), event("c", 7, "z")];
        assert_eq!(replay(&events), b"1xy45\0\0z");
    }
}
