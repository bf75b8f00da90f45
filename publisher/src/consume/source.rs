//! Where events are read back from.

/// One event as it lay in the topic or stream.
pub struct Event {
    /// The format that its publisher named.
    pub encoder: Option<String>,
    /// The encoded event.
    pub payload: Vec<u8>,
}

/// Where events are read from.
pub trait Source {
    /// The next event, if one comes soon.
    ///
    /// # Errors
    /// If it cannot be read, and waiting does not help.
    fn next(&mut self) -> anyhow::Result<Option<Event>>;
}
