use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::delivery::Tally;

/// Remembers what the frontier told the ring.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<(Vec<Progress>, u64, u64)>>);

impl Ledger for Told {
    fn advance(&mut self, progress: &Progress) {
        self.0.lock().unwrap().0.push(*progress);
    }

    fn in_flight(&mut self, records: u64, oldest_ns: u64) {
        let mut told = self.0.lock().unwrap();
        (told.1, told.2) = (records, oldest_ns);
    }
}

fn record(i: u64) -> Record {
    Record {
        end: (i + 1) * 8,
        sequence: Some(i),
        time_ns: 1000 + i,
        data_bytes: i,
        held_bytes: 10,
        is_write: true,
    }
}

fn frontier(records: usize) -> (Frontier, Told) {
    let told = Told::default();
    (Frontier::new(Bounds { records, bytes: u64::MAX }, Box::new(told.clone())), told)
}

proptest! {
    /// Reports in any order, of records with any number of messages: after each, the head is where the longest
    /// prefix of complete records ends, and nothing was counted twice or forgotten.
    #[test]
    fn the_head_is_the_end_of_the_complete_prefix(
        (messages, order) in prop::collection::vec(1_u32..4, 1..40).prop_flat_map(|messages| {
            let reports: Vec<usize> = messages
                .iter()
                .enumerate()
                .flat_map(|(i, n)| std::iter::repeat_n(i, *n as usize))
                .collect();
            (Just(messages), Just(reports).prop_shuffle())
        })
    ) {
        let (frontier, told) = frontier(usize::MAX);
        let tickets: Vec<Ticket> = (0..messages.len() as u64).map(|i| frontier.open(record(i))).collect();
        for (ticket, messages) in tickets.iter().zip(&messages) {
            frontier.expect_more(*ticket, *messages - 1);
        }
        let mut open = messages.clone();
        for i in order {
            frontier.settle(tickets[i], Outcome::Delivered);
            open[i] -= 1;
            let prefix = open.iter().take_while(|n| **n == 0).count() as u64;
            let told = told.0.lock().unwrap();
            prop_assert_eq!(told.0.last().map_or(0, |p| p.end), prefix * 8);
            prop_assert_eq!(told.0.iter().map(|p| p.outcomes.of(Outcome::Delivered).records).sum::<u64>(), prefix);
            prop_assert_eq!(told.0.iter().map(|p| p.outcomes.of(Outcome::Delivered).bytes).sum::<u64>(), (0..prefix).sum::<u64>());
            prop_assert_eq!(told.1, open.len() as u64 - prefix);
            prop_assert_eq!(told.2, if prefix == open.len() as u64 { 0 } else { 1000 + prefix });
            prop_assert!(told.0.is_sorted_by_key(|p| p.end));
        }
        prop_assert_eq!(frontier.in_flight(), 0);
        let last = told.0.lock().unwrap().0.last().copied();
        prop_assert_eq!(last.and_then(|p| p.next_sequence), Some(messages.len() as u64));
    }
}

fn dead_letter() -> DeadLetter {
    DeadLetter {
        topic: "t".to_owned(),
        key: None,
        payload: b"x".to_vec(),
        id: crate::delivery::testing::id(0),
        time_ms: 0,
        reason: "too large".to_owned(),
    }
}

#[test]
fn what_was_refused_stays_until_that_is_dealt_with() {
    let (frontier, told) = frontier(10);
    let ticket = frontier.open(record(0));
    frontier.refuse(ticket, dead_letter());
    assert_eq!(
        frontier.take_refused(),
        [Refused { ticket, record: record(0), dead_letter: dead_letter(), is_mendable: false }]
    );
    assert!(told.0.lock().unwrap().0.is_empty());
    assert!(frontier.has_open_refusals(), "it was taken, and nothing done");
    frontier.settle_refused(ticket, Outcome::DeadLettered);
    assert_eq!((frontier.in_flight(), frontier.has_open_refusals()), (0, false));
}

#[test]
fn the_worst_outcome_of_a_record_s_messages_is_the_record_s() {
    let (frontier, told) = frontier(10);
    use Outcome::*;
    for (i, (outcomes, expected)) in [
        ([Delivered, Delivered], Delivered),
        ([PassedOver, Delivered], Delivered),
        ([DeadLettered, Delivered], DeadLettered),
        ([Delivered, Lost], Lost),
        ([PassedOver, PassedOver], PassedOver),
    ]
    .into_iter()
    .enumerate()
    {
        let ticket = frontier.open(record(i as u64));
        frontier.expect_more(ticket, 1);
        outcomes.into_iter().for_each(|outcome| frontier.settle(ticket, outcome));
        let progress = *told.0.lock().unwrap().0.last().unwrap();
        assert_eq!(progress.outcomes.of(expected), Tally { records: 1, bytes: i as u64 }, "{outcomes:?}");
        assert_eq!(progress.has_delivered, expected == Delivered);
    }
    let all = frontier.outcomes();
    assert_eq!([PassedOver, Delivered, DeadLettered, Lost].map(|o| all.of(o).records), [1, 2, 1, 1]);
}

#[test]
fn news_of_a_loss_count_as_lost_once_they_are_delivered() {
    let (frontier, told) = frontier(10);
    let ticket = frontier.open(record(0));
    frontier.refuse(ticket, dead_letter());
    assert!(frontier.announce(ticket));
    frontier.replaced();
    frontier.settle(ticket, Outcome::Delivered);
    assert_eq!(told.0.lock().unwrap().0[0].outcomes.of(Outcome::Lost).records, 1);
}

#[test]
fn what_another_message_stands_for_stays_until_that_is_delivered() {
    let (frontier, _) = frontier(10);
    let ticket = frontier.open(record(0));
    frontier.refuse(ticket, dead_letter());
    frontier.replaced();
    assert_eq!((frontier.in_flight(), frontier.has_open_refusals()), (1, false));
    frontier.settle(ticket, Outcome::Delivered);
    assert_eq!(frontier.in_flight(), 0);
}

#[test]
fn a_loss_is_announced_once_for_a_write_and_never_for_an_announcement() {
    let (frontier, _) = frontier(10);
    let ticket = frontier.open(record(0));
    assert_eq!([frontier.announce(ticket), frontier.announce(ticket)], [true, false]);
    let loss = frontier.open(Record { is_write: false, ..record(1) });
    assert!(!frontier.announce(loss));
    assert!(!frontier.announce(Ticket::from_number(99)));
}

#[test]
fn there_is_no_room_beyond_the_bounds() {
    let (small, _) = frontier(2);
    let first = small.open(record(0));
    assert!(small.has_room());
    small.open(record(1));
    assert!(!small.has_room());
    small.settle(first, Outcome::Delivered);
    assert!(small.has_room());

    let bounds = Bounds { records: 100, bytes: 15 };
    let narrow = Frontier::new(bounds, Box::new(Told::default()));
    narrow.open(record(0));
    assert!(narrow.has_room());
    narrow.open(record(1));
    assert!(!narrow.has_room());
}

#[test]
fn a_report_ends_the_wait_even_if_it_came_first() {
    let (frontier, _) = frontier(2);
    let ticket = frontier.open(record(0));
    let seen = frontier.events();
    frontier.settle(ticket, Outcome::Delivered);
    frontier.wait_past(seen, Duration::from_secs(3600));
}

#[test]
fn a_report_for_an_unknown_ticket_changes_nothing() {
    let (frontier, told) = frontier(2);
    let ticket = frontier.open(record(0));
    frontier.settle(Ticket::from_number(99), Outcome::Delivered);
    frontier.settle(ticket, Outcome::Delivered);
    frontier.settle(ticket, Outcome::Delivered);
    assert_eq!(told.0.lock().unwrap().0.len(), 1);
}
