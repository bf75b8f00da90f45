//! The ends of a ring over real shared memory; under loom they are over a model instead.

use super::{consumer, memory::Segments, producer, reservation};

/// The agent's end of a real ring.
pub type Producer = producer::Producer<Segments>;
/// Space in a real ring that is not yet visible.
pub type Reservation<'a> = reservation::Reservation<'a, Segments>;
/// The publisher's end of a real ring.
pub type Consumer = consumer::Consumer<Segments>;
/// What moves a real ring's head.
pub type Acker = consumer::Acker<Segments>;
