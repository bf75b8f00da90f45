//! What a delivery report is about.

/// A record that was opened at the frontier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

impl Ticket {
    /// The ticket's number, for sinks whose library hands a number back with a report.
    pub fn number(self) -> u64 {
        self.0
    }

    /// The ticket of a number that [`Self::number`] gave.
    pub fn from_number(number: u64) -> Self {
        Self(number)
    }
}
