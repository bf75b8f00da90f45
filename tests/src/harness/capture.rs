//! What an agent has captured, read from its ring by the test itself: a publisher without a broker.

use std::time::Duration;

use bywash_common::{
    record::{Loss, Origin, Write},
    ring::{Kind, PublisherRing},
};

/// One captured write, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// The file's path as the writer sees it.
    pub path: Vec<u8>,
    /// The process that wrote; 0 where that is not known.
    pub pid: u32,
    /// Its command line.
    pub command: Vec<u8>,
    /// Where the bytes begin.
    pub offset: u64,
    /// They.
    pub data: Vec<u8>,
    /// Whether the kernel wrote them, from a mapping.
    pub unattributed: bool,
    /// Which part of how many, 0 where that is not known yet.
    pub part: (u32, u32),
}

/// The reading end of an agent's ring.
pub struct Capture {
    ring: PublisherRing,
    payload: Vec<u8>,
}

impl Capture {
    /// Attaches to the ring of an agent that runs.
    pub fn attach(ring: &str) -> Self {
        let ring = PublisherRing::attach(ring, None).unwrap_or_else(|e| panic!("cannot attach: {e}"));
        Self { ring, payload: Vec::new() }
    }

    /// Waits until there is something in the ring, as a publisher does, but no longer than `timeout`.
    pub fn wait(&mut self, timeout: Duration) {
        self.ring.consumer.wait(timeout);
    }

    /// Takes everything out that is in the ring. A write that has returned is in it.
    ///
    /// # Panics
    /// If the ring is damaged, or says that something was lost.
    #[track_caller]
    pub fn take(&mut self) -> Vec<Captured> {
        let (taken, losses) = self.take_with_losses();
        assert!(losses.is_empty(), "something was lost: {losses:?}");
        taken
    }

    /// The same, with what the ring says was lost and the path of the file that it was of, if any.
    ///
    /// # Panics
    /// If the ring is damaged.
    #[track_caller]
    pub fn take_with_losses(&mut self) -> (Vec<Captured>, Vec<(Loss, Vec<u8>)>) {
        let (mut taken, mut losses) = (Vec::new(), Vec::new());
        let mut end = None;
        while let Some(entry) = self.ring.consumer.next(&mut self.payload).unwrap_or_else(|e| panic!("{e}")) {
            end = Some(entry.end);
            match entry.kind {
                Kind::Write => {
                    let (write, data) = Write::decode(&self.payload).expect("a record that can be decoded");
                    taken.push(Captured {
                        path: write.path.to_vec(),
                        pid: write.pid,
                        command: write.command.to_vec(),
                        offset: write.offset,
                        data: data.to_vec(),
                        unattributed: write.origin == Origin::Mapping,
                        part: (write.part, write.parts),
                    });
                }
                Kind::Lost => {
                    let (loss, path) = Loss::decode(&self.payload).expect("a loss that can be decoded");
                    losses.push((loss, path.to_vec()));
                }
                Kind::Discarded => {}
            }
        }
        if let Some(end) = end {
            self.ring.consumer.acker().ack(end);
        }
        (taken, losses)
    }

    /// Gives everything back that is in the ring, whatever it says.
    ///
    /// # Panics
    /// If the ring is damaged.
    #[track_caller]
    pub fn skip(&mut self) {
        while let Some(entry) = self.ring.consumer.next(&mut self.payload).unwrap_or_else(|e| panic!("{e}")) {
            self.ring.consumer.acker().ack(entry.end);
        }
    }
}
