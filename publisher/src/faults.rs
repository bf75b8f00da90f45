//! Faults of the past, which a test puts back one at a time to see that the simulation finds them.
//!
//! The program that ships never has one: there [`Fault::is_back`] is a constant, and nothing is left of the question.

/// A fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The shared head moves back, under a record that the agent has written since.
    HeadMovesBack,
    /// A stream is forgotten before the disk holds that it is delivered.
    ForgottenBeforeMark,
    /// A segment is removed before the disk holds that it is delivered.
    RemovedBeforeMark,
    /// What the disk did not take counts as noted.
    MarksBeforeDisk,
    /// Records count as spooled before the disk holds them.
    AppendUnsynced,
    /// What a killed publisher has spooled counts without a sync.
    BatchUnsyncedAtStart,
    /// What a killed publisher has noted counts without a sync.
    MarksUnsyncedAtStart,
    /// What the disk did not hold of a former process's marks counts after a sync, which says nothing of that.
    MarksSyncedAlone,
    /// The same, of a former process's batch.
    BatchSyncedAlone,
    /// Every error of the disk is taken for damage.
    ErrorsAreDamage,
    /// A stop leaves all generations but the first in memory.
    GenerationsStay,
    /// What an operator can mend is lost where dead letters have no room.
    MendableIsLost,
    /// Dead letters are sent again while a stream is to come to its end.
    DeadLettersNotHeld,
    /// Dead letters of a publisher that was killed go before what is in front of them.
    DeadLettersOvertake,
    /// A dead letter that fails again is kept a second time.
    DeadLetterKeptTwice,
    /// A dead letter's file is not synced.
    DeadLettersUnsynced,
    /// Parts of a record have the id of the whole.
    PartsShareIds,
    /// What became a dead letter counts as delivered.
    DeadLettersCountAsDelivered,
    /// What is announced as lost counts as delivered.
    LossesCountAsDelivered,
    /// Damage in the ring is passed over without a word.
    DamageUnannounced,
    /// What is missing at the end of a ring is not in the spool.
    EndUnannounced,
    /// A stream that is delivered counts as missing once the next one is delivered.
    DeliveredStreamMissing,
}

impl Fault {
    /// Whether it is put back.
    #[cfg(not(test))]
    #[inline(always)]
    pub const fn is_back(self) -> bool {
        false
    }

    /// Whether it is put back, in this thread.
    #[cfg(test)]
    pub fn is_back(self) -> bool {
        testing::BACK.get() == Some(self)
    }
}

#[cfg(test)]
pub mod testing {
    //! Putting them back.

    use std::cell::Cell;

    use super::Fault;

    thread_local! {
        pub static BACK: Cell<Option<Fault>> = const { Cell::new(None) };
    }

    /// Puts a fault back in this thread, or takes it away again.
    pub fn put_back(fault: Option<Fault>) {
        BACK.set(fault);
    }
}
