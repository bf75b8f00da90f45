//! What has arrived at the broker, by the directory that it was written in.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use bywash_tests::harness::{Broker, Event, Reader};

/// The longest that the publisher may need for what it is behind.
const ARRIVAL_TIME_MAX: Duration = Duration::from_secs(240);

/// Writes, or what has become of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// How many.
    pub writes: u64,
    /// Of how many bytes all together.
    pub bytes: u64,
}

/// A topic, read once.
pub struct Arrivals {
    reader: Reader,
    taken: usize,
    seen: HashSet<String>,
    arrived: HashMap<String, Written>,
    lost: Written,
}

impl Arrivals {
    /// Of a topic, from its beginning.
    pub fn of(broker: &Broker, topic: &str) -> Self {
        Self {
            reader: broker.read(topic),
            taken: 0,
            seen: HashSet::new(),
            arrived: HashMap::new(),
            lost: Written::default(),
        }
    }

    /// Waits until all that was written below `directory` has arrived or is announced as lost since; gives the latter.
    ///
    /// # Panics
    /// If not all does, or more.
    #[track_caller]
    pub fn expect(&mut self, directory: &str, written: Written) -> Written {
        let Self { reader, taken, seen, arrived, lost } = self;
        let lost_before = *lost;
        let mut account = Written::default();
        reader.read_until("what was written", ARRIVAL_TIME_MAX, |messages| {
            for message in &messages[*taken..] {
                let event = Event::parse(message);
                if !seen.insert(event.id().to_owned()) {
                    continue;
                }
                let part = match event.lost() {
                    Some(news) => {
                        lost.writes += news.events;
                        lost.bytes += news.bytes;
                        continue;
                    }
                    None => Written { writes: 1, bytes: event.message().len() as u64 },
                };
                for (end, _) in event.path().match_indices('/').skip(1) {
                    let sum = arrived.entry(event.path()[..end].to_owned()).or_default();
                    sum.writes += part.writes;
                    sum.bytes += part.bytes;
                }
            }
            *taken = messages.len();
            account = arrived.get(directory).copied().unwrap_or_default();
            account.writes += lost.writes - lost_before.writes;
            account.bytes += lost.bytes - lost_before.bytes;
            let is_enough = account.writes >= written.writes && account.bytes >= written.bytes;
            if is_enough { Ok(()) } else { Err(format!("{account:?} of {written:?} in {directory}")) }
        });
        assert_eq!(account, written, "arrived, and written in {directory}");
        Written { writes: lost.writes - lost_before.writes, bytes: lost.bytes - lost_before.bytes }
    }
}
