//! Messages that hold several records: which of these are delivered though they lie behind the ring's head.

use std::collections::BTreeMap;

use bywash_common::ring::{AHEAD_MAX, Ahead};

use super::ticket::Ticket;

/// A message that begins in one record and ends in a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The record on whose ticket it is sent.
    pub first: Ticket,
    /// The last record that it holds something of.
    pub last: Ticket,
    /// What is delivered with it.
    pub ahead: Ahead,
}

/// The spans that the head has not passed.
#[derive(Default)]
pub struct Spans {
    /// Those that begin behind the head, by their first and last tickets.
    coming: BTreeMap<(Ticket, Ticket), Ahead>,
    /// Those that begin before it and end behind it, by their last tickets.
    astride: BTreeMap<Ticket, Ahead>,
    told: Vec<Ahead>,
}

impl Spans {
    /// Takes a span before its message is sent.
    pub fn add(&mut self, span: Span) {
        self.coming.insert((span.first, span.last), span.ahead);
    }

    /// The head moves in front of the record `first`: what is delivered from there on.
    pub fn pass(&mut self, first: Ticket) -> &[Ahead] {
        while let Some(entry) = self.coming.first_entry()
            && entry.key().0 < first
        {
            let ((_, last), ahead) = entry.remove_entry();
            self.astride.insert(last, ahead);
        }
        while let Some(entry) = self.astride.first_entry()
            && *entry.key() < first
        {
            entry.remove();
        }
        self.told.clear();
        self.told.extend(self.astride.values().take(AHEAD_MAX));
        &self.told
    }
}
