//! How fast what waits in the spool is sent: `publisher.recovery_bytes_per_second`.
//!
//! In each window of time there may be sent what the limit allows in that time, and as much as was captured meanwhile: so what waits
//! becomes less by the limit, however much is captured beside, and the sink gets at most that much more than it would get
//! if nothing waited. What a window does not use is not kept for later ones: a sink that was away or slow gets no surge.

use std::{
    num::NonZeroU64,
    time::{Duration, Instant},
};

/// How long a window is: what is sent in it goes off together.
const WINDOW: Duration = Duration::from_millis(50);
/// What happened longer ago than this gives no room any more.
const CREDITED_MAX: Duration = Duration::from_millis(100);
const NS_PER_SECOND: i128 = 1_000_000_000;

/// The room that is left for what comes out of the spool.
pub struct RecoveryLimiter {
    bytes_per_second: NonZeroU64,
    /// When the window began, and where the ring ended then.
    begun: Instant,
    tail: u64,
    /// What may still be sent in this window, in bytes; below 0 by what went beyond.
    room: i128,
}

impl RecoveryLimiter {
    /// Begins with no room; the ring ends at `tail`.
    pub fn new(bytes_per_second: NonZeroU64, now: Instant, tail: u64) -> Self {
        Self { bytes_per_second, begun: now, tail, room: -1 }
    }

    /// The limit.
    pub fn bytes_per_second(&self) -> NonZeroU64 {
        self.bytes_per_second
    }

    /// How long to wait before the next record; none if it may be sent now. The ring ends at `tail`.
    pub fn wait(&mut self, now: Instant, tail: u64) -> Option<Duration> {
        let elapsed = now.saturating_duration_since(self.begun);
        if elapsed >= WINDOW {
            let (spent_ns, credited_ns) = (ns(elapsed), ns(elapsed.min(CREDITED_MAX)));
            // Another ring begins at 0.
            let captured = i128::from(tail.saturating_sub(self.tail)) * credited_ns / spent_ns;
            let allowed = i128::from(self.bytes_per_second.get()) * credited_ns / NS_PER_SECOND;
            self.room = self.room.min(0) + allowed + captured;
            (self.begun, self.tail) = (now, tail);
        }
        if self.room > 0 { None } else { Some(WINDOW - elapsed.min(WINDOW) + Duration::from_millis(1)) }
    }

    /// Bytes that were taken were not sent.
    pub fn give_back(&mut self, bytes: u64) {
        self.room += i128::from(bytes);
    }

    /// Bytes were sent.
    pub fn take(&mut self, bytes: u64) {
        self.room -= i128::from(bytes);
    }
}

fn ns(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: u64 = 1_000_000;

    /// What is sent of a backlog without end in 10 s, with so many bytes captured a second and `pauses` of the sink, in
    /// records of `record` bytes.
    fn sent(captured_per_second: u64, record: u64, pauses: &[u64]) -> (u64, u64) {
        let begun = Instant::now();
        let tail_at = |ms: u64| captured_per_second * ms / 1000;
        let mut pace = RecoveryLimiter::new(NonZeroU64::new(LIMIT).unwrap(), begun, 0);
        let (mut ms, mut sent, mut pauses) = (0, 0, pauses.iter().peekable());
        while ms < 10_000 {
            match pace.wait(begun + Duration::from_millis(ms), tail_at(ms)) {
                Some(wait) => ms += u64::try_from(wait.as_millis()).unwrap(),
                None => {
                    pace.take(record);
                    sent += record;
                    // One millisecond for ten records, and longer where the sink takes its time.
                    let records = sent / record;
                    ms += u64::from(records.is_multiple_of(10));
                    let pause = pauses.next_if(|_| records.is_multiple_of(100));
                    ms += pause.copied().unwrap_or(0);
                }
            }
        }
        (sent, tail_at(ms))
    }

    proptest! {
        #[test]
        fn a_backlog_becomes_less_by_the_limit_at_most_whatever_the_sink_does(
            captured in 0..3_000_000_u64,
            record in 100..50_000_u64,
            pauses in prop::collection::vec(0..3000_u64, 0..20),
        ) {
            let (sent, captured) = sent(captured, record, &pauses);
            let windows = LIMIT / 10 + captured / 50;
            prop_assert!(sent <= 10 * LIMIT + captured + windows + record, "{sent} beside {captured}");
        }

        #[test]
        fn a_backlog_becomes_less_by_nearly_the_limit_however_much_is_captured(
            captured in 0..3_000_000_u64,
            record in 1_000..3_000_u64,
        ) {
            let (sent, captured) = sent(captured, record, &[]);
            prop_assert!(sent >= 9 * LIMIT + captured, "{sent} beside {captured}");
        }
    }
}
