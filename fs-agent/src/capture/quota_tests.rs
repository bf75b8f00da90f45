//! The accounts against a model, under any writes at any times.

use std::{collections::HashMap, sync::Arc};

use bywash_common::{
    config::{QuotaConfig, QuotaRule},
    units::ByteSize,
};
use proptest::prelude::*;

use super::quota::{Decision, FileId, Quota, REPORT_AFTER_NS, Withheld, Write};

fn config(rate: u64, burst: u64, files: u32) -> QuotaConfig {
    let rule = QuotaRule::Account;
    QuotaConfig { bytes_per_second: ByteSize(rate), burst_bytes: ByteSize(burst), files_tracked: files, rule }
}

fn file(number: u64) -> FileId {
    FileId { number, birth: 0 }
}

fn decide(quota: &mut Quota, node: u64, bytes: u64, now_ns: u64) -> Decision {
    let path = Arc::from(format!("/{node}").into_bytes());
    quota.decide(&Write { file: file(node), path: &path, bytes, time_ns: now_ns }, now_ns)
}

struct ModelFile {
    node: u64,
    opened_ns: u64,
    /// When, and how many bytes.
    captured: Vec<(u64, u64)>,
}

/// An account as the documentation has it: all that was captured, and when; nothing is kept that could drift.
#[derive(Default)]
struct Model {
    /// Those with an account, the least recently written first.
    files: Vec<ModelFile>,
}

impl Model {
    /// Whether a write is captured, and which file loses its account.
    fn decide(&mut self, config: QuotaConfig, node: u64, bytes: u64, now_ns: u64) -> (bool, Option<u64>) {
        let known = self.files.iter().position(|file| file.node == node);
        let new = || ModelFile { node, opened_ns: now_ns, captured: Vec::new() };
        let mut file = known.map_or_else(new, |at| self.files.remove(at));
        let burst = i128::from(config.burst_bytes.0) * 1_000_000_000;
        let rate = i128::from(config.bytes_per_second.0);
        // The balance, from the beginning: credit between writes, capped at the burst.
        let (mut balance, mut at) = (burst, file.opened_ns);
        for (then, bytes) in &file.captured {
            balance =
                (balance + rate * i128::from(then - at)).min(burst) - i128::from(*bytes) * 1_000_000_000;
            at = *then;
        }
        let captured = balance + rate * i128::from(now_ns - at) >= 0;
        if captured {
            file.captured.push((now_ns, bytes));
        }
        self.files.push(file);
        let one_too_many = self.files.len() > config.files_tracked as usize;
        (captured, one_too_many.then(|| self.files.remove(0).node))
    }
}

proptest! {
    #[test]
    fn writes_are_captured_and_files_forgotten_as_documented(
        rate in 1..5_000u64,
        burst in prop_oneof![Just(0), 1..10_000u64],
        files in 1..4u32,
        writes in prop::collection::vec((0..6u64, 0..5_000u64, 0..2_000_000_000u64), 1..100),
    ) {
        let config = config(rate, burst, files);
        let (mut quota, mut model) = (Quota::new(config), Model::default());
        let mut now_ns = 0;
        // What is withheld, by file, and what is reported of it.
        let (mut withheld, mut reported) = (HashMap::new(), HashMap::new());
        let mut report = |node: u64, found: &Withheld| {
            let sum: &mut (u64, u64) = reported.entry(node).or_default();
            *sum = (sum.0 + found.events, sum.1 + found.bytes);
        };
        for (node, bytes, later_ns) in writes {
            now_ns += later_ns;
            let (captured, forgotten) = model.decide(config, node, bytes, now_ns);
            if !captured {
                let sum: &mut (u64, u64) = withheld.entry(node).or_default();
                *sum = (sum.0 + 1, sum.1 + bytes);
            }
            let decision = decide(&mut quota, node, bytes, now_ns);
            prop_assert_eq!(decision.captured, captured);
            if let Some(pushed_out) = &decision.pushed_out {
                let path = format!("/{}", forgotten.unwrap());
                prop_assert_eq!(path.as_bytes(), &*pushed_out.path);
                report(forgotten.unwrap(), pushed_out);
            }
            for (node, due) in quota.due(now_ns) {
                prop_assert!(now_ns - due.first_ns >= REPORT_AFTER_NS);
                report(node.number, &due);
            }
        }
        for (node, rest) in quota.all() {
            report(node.number, &rest);
        }
        prop_assert_eq!(reported, withheld, "all that is withheld is reported, once, for its file");
    }

    #[test]
    fn no_more_is_captured_in_any_time_than_the_rate_the_burst_and_a_write(
        rate in 1..5_000u64,
        burst in 0..10_000u64,
        writes in prop::collection::vec((1..5_000u64, 0..1_000_000_000u64), 1..100),
    ) {
        let mut quota = Quota::new(config(rate, burst, 1));
        let mut now_ns = 0;
        let mut captured = Vec::new();
        for (bytes, later_ns) in writes {
            now_ns += later_ns;
            if decide(&mut quota, 1, bytes, now_ns).captured {
                captured.push((now_ns, bytes));
            }
        }
        for (i, (from_ns, _)) in captured.iter().enumerate() {
            for (j, (to_ns, last)) in captured.iter().enumerate().skip(i) {
                let sum: u64 = captured[i..=j].iter().map(|(_, bytes)| *bytes).sum();
                let allowed = u128::from(rate) * u128::from(to_ns - from_ns) / 1_000_000_000
                    + u128::from(burst + last);
                prop_assert!(u128::from(sum) <= allowed + 1, "{sum} of {allowed}");
            }
        }
    }
}

#[test]
fn of_a_core_dump_only_the_first_write_is_captured() {
    let mut quota = Quota::new(config(500_000, 0, 20));
    let captured = (0..100).filter(|i| decide(&mut quota, 1, 4096, i * 50_000).captured).count();
    assert_eq!(captured, 1);
    let all = quota.all();
    assert_eq!((all[0].1.events, all[0].1.bytes), (99, 99 * 4096));
}

#[test]
fn what_could_not_be_said_is_said_later() {
    let mut quota = Quota::new(config(1, 0, 1));
    (0..3).for_each(|i| drop(decide(&mut quota, 1, 10, i)));
    let (node, earlier) = quota.due(REPORT_AFTER_NS + 1).remove(0);
    decide(&mut quota, 1, 10, REPORT_AFTER_NS + 1);
    assert_eq!(quota.give_back(node, earlier.clone(), REPORT_AFTER_NS + 2), None);
    assert_eq!(quota.due(REPORT_AFTER_NS + 3), []);
    let both = quota.all().remove(0).1;
    assert_eq!((both.events, both.bytes, both.first_ns), (3, 30, 1));
    // Another file took its place meanwhile.
    decide(&mut quota, 2, 10, REPORT_AFTER_NS + 3);
    assert_eq!(quota.give_back(file(1), earlier.clone(), REPORT_AFTER_NS + 3), Some(earlier));
}

#[test]
fn a_file_owes_nothing_of_what_had_its_number_before() {
    let mut quota = Quota::new(config(1, 0, 10));
    let mut captured = |birth| {
        let write =
            Write { file: FileId { number: 1, birth }, path: &Arc::from(*b"/f"), bytes: 10, time_ns: 0 };
        quota.decide(&write, 0).captured
    };
    assert_eq!([captured(7), captured(7), captured(8), captured(7)], [true, false, true, false]);
}

#[test]
fn by_the_rule_of_fuse_kafka_each_write_is_judged_alone() {
    const MS: u64 = 1_000_000;
    let mut quota = Quota::new(QuotaConfig { rule: QuotaRule::Write, ..config(1_000, 0, 20) });
    let mut captured = |node, bytes, at_ms| decide(&mut quota, node, bytes, at_ms * MS).captured;
    assert!(captured(1, 1_000_000, 0), "a file's first write");
    assert!(captured(1, 10, 10), "it owes nothing");
    assert!(!captured(1, 11, 20) && !captured(1, 1, 20), "more than 1,000 bytes a second; no time at all");
    assert!(!captured(1, 100, 30), "the time counts since the last write, captured or not");
    assert!(captured(1, 100, 130) && captured(2, 500, 130));
}
