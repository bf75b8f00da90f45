//! Delivery reports that are passed to the frontier in batches.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use crate::delivery::{Frontier, Outcome, Ticket};

use super::threaded_producer::BatchReports;

/// The most delivery reports of a batch.
const TICKETS_MAX: usize = 1024;

#[derive(Default)]
struct State {
    tickets: Vec<Ticket>,
    /// Reports are collected; otherwise each is passed on at once.
    is_open: bool,
}

/// Delivery reports on their way to the frontier.
pub struct ReportBatch {
    frontier: Arc<Frontier>,
    state: Mutex<State>,
    reported: AtomicU64,
}

impl ReportBatch {
    /// An empty batch for `frontier`.
    pub fn new(frontier: Arc<Frontier>) -> Self {
        Self { frontier, state: Mutex::default(), reported: AtomicU64::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the report that the message of `ticket` was delivered.
    pub fn add(&self, ticket: Ticket) {
        self.reported.fetch_add(1, Ordering::Relaxed);
        let mut state = self.lock();
        state.tickets.push(ticket);
        if !state.is_open || state.tickets.len() >= TICKETS_MAX {
            self.tell(&mut state);
        }
    }

    fn tell(&self, state: &mut State) {
        if !state.tickets.is_empty() {
            self.frontier.settle_all(&state.tickets, Outcome::Delivered);
            state.tickets.clear();
        }
    }
}

impl BatchReports for ReportBatch {
    fn reported(&self) -> u64 {
        self.reported.load(Ordering::Relaxed)
    }

    fn gather(&self) {
        self.lock().is_open = true;
    }

    fn settle(&self) {
        let mut state = self.lock();
        state.is_open = false;
        self.tell(&mut state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::testing::{frontier, record};

    #[test]
    fn what_is_kept_is_told_at_the_latest_when_nothing_more_may_be() {
        let frontier = frontier();
        let report_batch = ReportBatch::new(Arc::clone(&frontier));
        let tickets: Vec<Ticket> = (0..3).map(|i| frontier.open(record(i))).collect();
        report_batch.add(tickets[0]);
        assert_eq!(frontier.in_flight(), 2);
        report_batch.gather();
        report_batch.add(tickets[2]);
        report_batch.add(tickets[1]);
        assert_eq!((frontier.in_flight(), report_batch.reported()), (2, 3));
        report_batch.settle();
        assert_eq!(frontier.in_flight(), 0);
    }

    #[test]
    fn no_more_is_kept_than_the_bound_says() {
        let frontier = frontier();
        let report_batch = ReportBatch::new(Arc::clone(&frontier));
        report_batch.gather();
        for i in 0..TICKETS_MAX as u64 {
            let ticket = frontier.open(record(i));
            assert_eq!(frontier.in_flight() as u64, i + 1);
            report_batch.add(ticket);
        }
        assert_eq!(frontier.in_flight(), 0);
    }
}
