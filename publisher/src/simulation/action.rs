//! What can happen to a publisher, its disk and its broker.

use bywash_common::config::Framing;

/// What happens in the world, one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Programs write so many times, so many bytes each.
    Write { writes: u64, bytes: usize },
    /// The publisher's drain takes so many turns.
    Drain(u64),
    /// Its feeder does.
    Feed(u64),
    /// The network goes on.
    Network(u64),
    /// Time passes, in milliseconds.
    Wait(u64),
    /// The publisher is killed, in so many steps.
    Kill(u64),
    /// It is started.
    Start,
    /// It is stopped in order, and started again.
    Restart,
    /// It is stopped in order, and the machine too; the disk works.
    Reboot,
    /// The machine loses its power.
    CutPower,
    /// The agent begins another generation of the ring.
    Generation,
    /// Another configuration: whether payloads are base64, and what of the first topic's becomes an event.
    Reload { is_base64: bool, framing: Framing },
    /// From the next start on there is no spool (`spool.size_max = 0`), or there is.
    Spool(bool),
    /// A byte of the ring changes, so far of 1000 behind the head.
    Damage { of_1000: u64 },
    /// The disk begins to fail.
    DiskTrouble { of_1000: u64, errno: Option<i32> },
    /// The disk works again.
    DiskCalm,
    /// The broker stalls, or not.
    Stall(bool),
    /// The broker's answers are lost, or not.
    Mute(bool),
    /// A topic takes nothing, or does.
    Bar { topic: usize, is_barred: bool },
    /// Some messages are never taken, or all are.
    Poison(bool),
}
