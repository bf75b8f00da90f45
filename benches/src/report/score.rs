//! What became of a script's events under somebody who was to capture them.

use std::collections::HashMap;

/// Begins and ends a mark.
const FENCE: &[u8] = b"@@";

/// One event of the script: a mark within the bytes that were written, `@@GROUP-NUMBER@@`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// What is written in order, that is one file.
    pub group: String,
    /// Its place in that order.
    pub number: u64,
    /// Who wrote it; of something captured: who is said to have.
    pub pid: Option<u32>,
}

/// How well a script's events were captured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Score {
    /// How many there were.
    pub events: usize,
    /// How many of them never came.
    pub lost: usize,
    /// How many more came than there were.
    pub duplicated: usize,
    /// How many came behind a later one of their file.
    pub out_of_order: usize,
    /// How many came with the process that wrote them.
    pub attributed: usize,
}

/// The marks in bytes, in order, as events of `pid`.
pub fn marks(bytes: &[u8], pid: Option<u32>) -> Vec<Event> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while let Some(begin) = position(rest) {
        let behind = &rest[begin + FENCE.len()..];
        let Some(end) = position(behind) else { break };
        let event = std::str::from_utf8(&behind[..end]).ok().and_then(|text| {
            let (group, number) = text.rsplit_once('-')?;
            Some(Event { group: group.to_owned(), number: number.parse().ok()?, pid })
        });
        // A fence that ends nothing may begin something.
        rest = if event.is_some() { &behind[end + FENCE.len()..] } else { behind };
        found.extend(event);
    }
    found
}

fn position(bytes: &[u8]) -> Option<usize> {
    bytes.windows(FENCE.len()).position(|window| window == FENCE)
}

impl Score {
    /// Of the events that were written and those that came, in the order in which they came.
    pub fn of(written: &[Event], came: &[Event]) -> Self {
        let key = |event: &Event| (event.group.clone(), event.number);
        let writers: HashMap<_, _> = written.iter().map(|event| (key(event), event.pid)).collect();
        let mut times: HashMap<(String, u64), usize> = HashMap::new();
        let mut latest: HashMap<&str, u64> = HashMap::new();
        let mut score = Self { events: written.len(), ..Self::default() };
        for event in came {
            // What an earlier script wrote is no concern of this one.
            let Some(writer) = writers.get(&key(event)) else { continue };
            let times = times.entry(key(event)).or_default();
            *times += 1;
            if *times > 1 {
                score.duplicated += 1;
                continue;
            }
            if event.pid.is_some() && event.pid == *writer {
                score.attributed += 1;
            }
            let latest = latest.entry(&event.group).or_insert(event.number);
            if event.number < *latest {
                score.out_of_order += 1;
            }
            *latest = (*latest).max(event.number);
        }
        score.lost = writers.len() - times.len();
        score
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(text: &str, pid: Option<u32>) -> Vec<Event> {
        marks(text.as_bytes(), pid)
    }

    #[test]
    fn marks_are_found_between_anything() {
        let found = events("x@@a-1@@\n@@b/c-d-000002@@@@\x00@@nothing@@a-3@@ @@a-4", Some(7));
        let names: Vec<_> = found.iter().map(|e| (e.group.as_str(), e.number)).collect();
        assert_eq!(names, [("a", 1), ("b/c-d", 2), ("a", 3)]);
        assert!(found.iter().all(|event| event.pid == Some(7)));
    }

    #[test]
    fn each_event_that_came_well_counts_for_nothing() {
        let written = events("@@a-1@@@@a-2@@@@b-1@@", Some(7));
        let score = Score::of(&written, &written);
        assert_eq!(score, Score { events: 3, attributed: 3, ..Score::default() });
    }

    #[test]
    fn what_is_lost_twice_late_or_of_others_is_counted() {
        let written = events("@@a-1@@@@a-2@@@@a-3@@@@a-4@@", Some(7));
        let mut came = events("@@a-1@@@@a-4@@@@a-3@@@@a-1@@@@c-1@@", Some(7));
        came[1].pid = Some(8);
        came[2].pid = None;
        let score = Score::of(&written, &came);
        assert_eq!(score, Score { events: 4, lost: 1, duplicated: 1, out_of_order: 1, attributed: 1 });
    }
}
