//! Lines across publishers that die with some of what they sent unconfirmed.

use std::{
    collections::{BTreeMap, HashMap},
    sync::atomic::{AtomicU32, Ordering},
};

use bywash_common::config::{Boundary, DirectoryConfig, Framing, FramingConfig, MultilineConfig, Pattern};
use proptest::prelude::*;

use super::*;

/// One write of a test, at the end of what its handle wrote.
#[derive(Clone, Debug)]
struct Wrote {
    handle: u64,
    data: String,
}

/// What has become an event: path, offset, message.
type Sent = (String, u64, String);

fn config() -> Config {
    configured(FramingConfig { by: Framing::Line, ..FramingConfig::default() })
}

fn configured(framing: FramingConfig) -> Config {
    let directory = DirectoryConfig { framing, ..DirectoryConfig::at("/w".into()) };
    let mut config = Config { directories: vec![directory], ..Config::default() };
    config.event.encoder = Encoder::Logstash;
    config
}

/// A ring, and how far each handle has written.
struct Files {
    ring: TestRing,
    ends: HashMap<u64, u64>,
}

impl Files {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("lines-{}", COUNT.fetch_add(1, Ordering::Relaxed));
        Self { ring: TestRing::new(&name), ends: HashMap::new() }
    }

    /// Another ring takes the place of the one that was in memory.
    fn reboot(&mut self) {
        self.ring.reboot();
    }

    fn write(&mut self, wrote: &Wrote) {
        let Wrote { handle, data } = wrote;
        let end = self.ends.entry(*handle).or_default();
        let path = format!("/w/{handle}");
        let write = Write {
            path: path.as_bytes(),
            pid: 1,
            uid: 0,
            gid: 0,
            time_ns: 1,
            command: b"cat ",
            offset: *end,
            handle: *handle,
            origin: Origin::Write,
            part: 0,
            parts: 1,
        };
        self.ring.push_write(&write, data.as_bytes());
        *end += data.len() as u64;
    }

    /// A publisher lives and dies: gives what it has sent, and adds it to `all`.
    fn live(&self, answers: Vec<Answer>, all: &mut BTreeMap<String, Sent>) -> (Vec<Sent>, u64) {
        self.live_by(config(), answers, all)
    }

    fn live_by(
        &self,
        config: Config,
        answers: Vec<Answer>,
        all: &mut BTreeMap<String, Sent>,
    ) -> (Vec<Sent>, u64) {
        let (taken, used_bytes) =
            drain_configured(config, DeadLetters::without(), &self.ring, usize::MAX, answers);
        let sent = taken.events().into_iter().map(|event| {
            let text = |key: &str| event[key].as_str().unwrap().to_owned();
            let sent = (text("path"), event["offset"].as_u64().unwrap(), text("@message"));
            let before = all.insert(text("event_id"), sent.clone());
            assert!(before.is_none_or(|before| before == sent), "one id for two contents: {event}");
            sent
        });
        (sent.collect(), used_bytes)
    }
}

fn any_writes() -> impl Strategy<Value = Vec<Wrote>> {
    let one = (0..3_u64, "[ab\n]{1,8}").prop_map(|(handle, data)| Wrote { handle, data });
    prop::collection::vec(one, 1..20)
}

fn any_answers() -> impl Strategy<Value = Vec<Answer>> {
    let one =
        any::<bool>().prop_map(|is_delivered| if is_delivered { Answer::Deliver } else { Answer::Silence });
    prop::collection::vec(one, 0..30)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Of what all of them sent, each byte of each file is in exactly one event, if those that came twice count once.
    #[test]
    fn whatever_is_confirmed_before_a_kill_no_byte_is_missing_or_in_two_events(
        first in any_writes(),
        second in any_writes(),
        third in any_writes(),
        answers in (any_answers(), any_answers(), any_answers()),
    ) {
        let mut files = Files::new();
        let mut all = BTreeMap::new();
        for (wrote, answers) in [(&first, answers.0), (&second, answers.1), (&third, answers.2)] {
            wrote.iter().for_each(|wrote| files.write(wrote));
            files.live(answers, &mut all);
        }
        // Every line has an end.
        for handle in 0..3 {
            files.write(&Wrote { handle, data: "\n".to_owned() });
        }
        let (_, used_bytes) = files.live(Vec::new(), &mut all);
        prop_assert_eq!(used_bytes, 0);
        let mut by_path: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
        for (path, offset, message) in all.into_values() {
            by_path.entry(path).or_default().push((offset, message));
        }
        for handle in 0..3 {
            let written: String =
                [&first, &second, &third].into_iter().flatten().filter(|w| w.handle == handle).map(|w| w.data.as_str()).chain(["\n"]).collect();
            let mut events = by_path.remove(&format!("/w/{handle}")).unwrap();
            events.sort();
            let mut joined = String::new();
            for (offset, message) in &events {
                prop_assert_eq!(*offset, joined.len() as u64, "{:?}", &events);
                joined.push_str(message);
            }
            prop_assert_eq!(joined, written);
            prop_assert!(events.iter().all(|(_, message)| message.find('\n') == Some(message.len() - 1)));
        }
    }
}

/// Lines that begin with an `a` begin an event.
fn several() -> Config {
    let boundary = Boundary::Start(Pattern::new("^a".to_owned()).unwrap());
    let multiline = MultilineConfig { boundary, lines_max: 5, ..MultilineConfig::default() };
    configured(FramingConfig { by: Framing::Multiline, multiline, ..FramingConfig::default() })
}

/// The events of a file, but for the last one, which may have more lines.
fn events_of(written: &str) -> Vec<String> {
    let mut events: Vec<String> = Vec::new();
    for line in written.split_inclusive('\n') {
        match events.last_mut() {
            Some(event) if !line.starts_with('a') && event.lines().count() < 5 => event.push_str(line),
            _ => events.push(line.to_owned()),
        }
    }
    events.pop();
    events
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    /// Of what all of them sent, the events of each file are those of the file as a whole, under one id each.
    #[test]
    fn whatever_is_confirmed_before_a_kill_the_events_of_several_lines_are_those_of_the_whole_file(
        first in any_writes(),
        second in any_writes(),
        third in any_writes(),
        answers in (any_answers(), any_answers(), any_answers()),
    ) {
        let mut files = Files::new();
        let mut all = BTreeMap::new();
        for (wrote, answers) in [(&first, answers.0), (&second, answers.1), (&third, answers.2)] {
            wrote.iter().for_each(|wrote| files.write(wrote));
            files.live_by(several(), answers, &mut all);
        }
        for handle in 0..3 {
            files.write(&Wrote { handle, data: "\na\n".to_owned() });
        }
        files.live_by(several(), Vec::new(), &mut all);
        let mut by_path: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
        for (path, offset, message) in all.into_values() {
            by_path.entry(path).or_default().push((offset, message));
        }
        for handle in 0..3 {
            let written: String =
                [&first, &second, &third].into_iter().flatten().filter(|w| w.handle == handle).map(|w| w.data.as_str()).chain(["\na\n"]).collect();
            let mut events = by_path.remove(&format!("/w/{handle}")).unwrap();
            events.sort();
            let events: Vec<String> = events.into_iter().map(|(_, message)| message).collect();
            prop_assert_eq!(events, events_of(&written));
        }
    }
}

#[test]
fn a_line_that_may_go_on_with_an_event_keeps_the_records_of_both_in_the_ring() {
    let mut files = Files::new();
    let mut all = BTreeMap::new();
    for data in ["a 1\n", "at x\n", " b", "\na 2\nb"] {
        files.write(&Wrote { handle: 1, data: data.to_owned() });
    }
    let (sent, used_bytes) = files.live_by(several(), vec![Answer::Deliver, Answer::Silence], &mut all);
    let messages: Vec<_> = sent.iter().map(|(_, offset, message)| (*offset, message.as_str())).collect();
    assert_eq!(messages, [(0, "a 1\n"), (4, "at x\n b\n")]);
    assert!(used_bytes > 0);
    files.write(&Wrote { handle: 1, data: "\na 3\n".to_owned() });
    let (sent, _) = files.live_by(several(), Vec::new(), &mut all);
    let messages: Vec<_> = sent.iter().map(|(_, offset, message)| (*offset, message.as_str())).collect();
    assert_eq!(messages, [(4, "at x\n b\n"), (12, "a 2\nb\n")]);
    let names: Vec<_> = all.keys().map(|id| id.rsplit('-').next().unwrap()).collect();
    assert_eq!(names, ["0", "1.0+8", "3.1+6"]);
}

#[test]
fn a_line_that_has_no_end_yet_keeps_its_record_in_the_ring_and_nothing_is_sent() {
    let mut files = Files::new();
    let mut all = BTreeMap::new();
    files.write(&Wrote { handle: 1, data: "whole\npart".to_owned() });
    files.write(&Wrote { handle: 2, data: "other\n".to_owned() });
    let (sent, used_bytes) = files.live(Vec::new(), &mut all);
    let messages: Vec<_> = sent.iter().map(|(_, _, message)| message.as_str()).collect();
    assert_eq!(messages, ["whole\n", "other\n"]);
    assert!(used_bytes > 0);
    files.write(&Wrote { handle: 1, data: " and end\n".to_owned() });
    let (sent, used_bytes) = files.live(Vec::new(), &mut all);
    assert!(sent.contains(&("/w/1".to_owned(), 6, "part and end\n".to_owned())), "{sent:?}");
    assert_eq!(used_bytes, 0);
}

#[test]
fn what_a_line_has_delivered_of_a_later_write_is_not_sent_again_after_a_reboot() {
    let spool = tempfile::tempdir().unwrap();
    let live = |files: &Files| {
        let state = (1, Some(spool.path()));
        let (taken, _) =
            drain_until(state, config(), DeadLetters::without(), &files.ring, usize::MAX, Vec::new());
        let named = |event: &Value| {
            let text = |key: &str| event[key].as_str().unwrap().to_owned();
            (text("event_id")[37..].to_owned(), text("@message"))
        };
        taken.events().iter().map(named).collect::<Vec<_>>()
    };
    let mut files = Files::new();
    for (handle, data) in [(1, "abc"), (2, "xyz"), (1, "def\nghi")] {
        files.write(&Wrote { handle, data: data.to_owned() });
    }
    assert_eq!(live(&files), [("0.0+7".to_owned(), "abcdef\n".to_owned())]);
    files.reboot();
    let ends = [("1".to_owned(), "xyz".to_owned()), ("2.4+3".to_owned(), "ghi".to_owned())];
    assert_eq!(live(&files), ends);
}

#[test]
fn an_event_that_is_all_of_one_write_has_the_id_that_it_has_without_lines() {
    let mut files = Files::new();
    let mut all = BTreeMap::new();
    files.write(&Wrote { handle: 1, data: "one\n".to_owned() });
    files.write(&Wrote { handle: 1, data: "two\nthree\n".to_owned() });
    files.live(Vec::new(), &mut all);
    let ends: Vec<_> = all.keys().map(|id| id.rsplit('-').next().unwrap()).collect();
    assert_eq!(ends, ["0", "1.0+4", "1.4+6"]);
}
