//! What becomes of a record.

/// How a record comes to its end, the best end first: of several messages' outcomes the last one is the record's.
///
/// It is that of the messages that begin in it. A record in which none begins, as the line that holds it began before,
/// counts as delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    /// There was nothing to be delivered: a publisher before this one, or a transaction, had delivered it.
    PassedOver,
    /// The sink has confirmed it.
    Delivered,
    /// The sink refuses it for good, and it is kept.
    DeadLettered,
    /// The sink refuses it for good, and an event says that it is lost, or the log where the format cannot.
    Lost,
    /// It was older than it may be when it would have been sent, and an event says that it is lost, or the log where the format cannot.
    Expired,
}

/// Writes, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Records.
    pub records: u64,
    /// Captured bytes in them.
    pub bytes: u64,
}

/// How many writes have come to which end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Outcomes([Tally; 5]);

impl Outcomes {
    /// Counts a write.
    pub fn add(&mut self, outcome: Outcome, bytes: u64) {
        let tally = &mut self.0[outcome as usize];
        tally.records += 1;
        tally.bytes += bytes;
    }

    /// Those that have come to this end.
    pub fn of(&self, outcome: Outcome) -> Tally {
        self.0[outcome as usize]
    }

    /// Adds others.
    pub fn add_all(&mut self, others: &Self) {
        for (tally, other) in self.0.iter_mut().zip(others.0) {
            tally.records += other.records;
            tally.bytes += other.bytes;
        }
    }
}
