//! Named places at which a test can have the process killed, or hang; compiled to nothing without the feature
//! `fail-points`.
//!
//! There is one at every side effect that the ring's kill table speaks of. `BYWASH_FAIL_POINT=NAME` kills the process
//! with SIGKILL when it reaches the place, `NAME:N` when it has passed it N times before. With `BYWASH_HANG_POINT` the thread
//! that reaches the place stays there for ever instead, as in a system call that does not return, and with
//! `BYWASH_PANIC_POINT` it panics.

/// A place at which the process may be killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailPoint {
    /// Agent: the temporary objects of a new ring are being built.
    RingHalfBuilt,
    /// Agent: the consumer segment has its name, the data segment not yet.
    RingHalfNamed,
    /// Agent: the bytes are in the file below, and nowhere else.
    WrittenBelow,
    /// Agent: space is reserved.
    Reserved,
    /// Agent: the record is copied in and not committed.
    Copied,
    /// Agent: a commit slot has its tail but not its sequence number.
    SlotHalfWritten,
    /// Agent: the commit slot is written, the tail is not.
    SlotWritten,
    /// Agent: the tail is moved, the consumer not woken.
    TailMoved,
    /// Agent: the record is committed, the writer has no answer.
    Committed,
    /// Agent: a loss is counted.
    LossCounted,
    /// Agent: an announcement of losses is staged and not visible.
    AnnouncementStaged,
    /// Publisher: a record is read.
    RecordRead,
    /// Publisher: the event is encoded.
    EventEncoded,
    /// Publisher: the event is handed to the sink.
    EventSent,
    /// Publisher: the delivery is reported, the head not yet moved.
    DeliveryReported,
    /// Publisher: the head is moved.
    HeadMoved,
    /// Publisher: records are written to the spool, and not yet on the disk itself.
    SpoolWritten,
    /// Publisher: records are in the spool, and still in the ring.
    SpoolSynced,
    /// Publisher: a delivery is noted in the spool, and what it held of that is not yet removed.
    SpoolDelivered,
    /// Publisher: dead letters are written, under a temporary name.
    DeadLetterHalfKept,
    /// Publisher: dead letters are kept, and their records not yet dealt with.
    DeadLetterKept,
    /// Publisher: a transaction has its checkpoint, and is not committed.
    CheckpointSent,
    /// Publisher: a transaction is committed, its records are not complete.
    TransactionCommitted,
}

impl FailPoint {
    /// All places on the agent's side, then all on the publisher's.
    pub const ALL: &[Self] = &[
        Self::RingHalfBuilt,
        Self::RingHalfNamed,
        Self::WrittenBelow,
        Self::Reserved,
        Self::Copied,
        Self::SlotHalfWritten,
        Self::SlotWritten,
        Self::TailMoved,
        Self::Committed,
        Self::LossCounted,
        Self::AnnouncementStaged,
        Self::RecordRead,
        Self::EventEncoded,
        Self::EventSent,
        Self::DeliveryReported,
        Self::HeadMoved,
        Self::SpoolWritten,
        Self::SpoolSynced,
        Self::SpoolDelivered,
        Self::DeadLetterHalfKept,
        Self::DeadLetterKept,
        Self::CheckpointSent,
        Self::TransactionCommitted,
    ];

    /// Whether the publisher passes it, not the agent.
    pub fn is_publishers(self) -> bool {
        self as usize >= Self::RecordRead as usize
    }

    /// Says that the process is here.
    #[inline(always)]
    pub fn reach(self) {
        #[cfg(feature = "fail-points")]
        armed::reach(self);
    }
}

#[cfg(feature = "fail-points")]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    };

    use nix::sys::signal::{Signal, kill};

    use super::FailPoint;

    /// The place at which something happens, and how often to pass it before.
    type Plan = Option<(String, AtomicU64)>;

    static DEATH: OnceLock<Plan> = OnceLock::new();
    static HANG: OnceLock<Plan> = OnceLock::new();
    static PANIC: OnceLock<Plan> = OnceLock::new();

    fn plan(variable: &str) -> Plan {
        let text = std::env::var(variable).ok()?;
        let (name, passes) = text.split_once(':').unwrap_or((&text, "0"));
        Some((name.to_owned(), AtomicU64::new(passes.parse().ok()?)))
    }

    fn is_due(plan: &Plan, point: FailPoint) -> bool {
        plan.as_ref().is_some_and(|(name, passes)| {
            format!("{point:?}") == *name
                && passes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_err()
        })
    }

    #[allow(clippy::panic, reason = "it is what a test asks for")]
    pub(super) fn reach(point: FailPoint) {
        if is_due(DEATH.get_or_init(|| plan("BYWASH_FAIL_POINT")), point) {
            // Nothing runs after this: the kernel ends the process before kill(2) returns.
            let _ = kill(nix::unistd::Pid::this(), Signal::SIGKILL);
        }
        if is_due(PANIC.get_or_init(|| plan("BYWASH_PANIC_POINT")), point) {
            panic!("a test has this thread panic at {point:?}");
        }
        while is_due(HANG.get_or_init(|| plan("BYWASH_HANG_POINT")), point) {
            std::thread::park();
        }
    }
}
