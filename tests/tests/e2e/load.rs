//! Volume: nothing is lost, duplicated or out of order at full speed (G2, G4).

use std::{fs, path::PathBuf, time::Duration};

use bywash_tests::harness::{Broker, Bywash, Load, Settings, ledger};

const PROCESSES: u32 = 4;
const WRITES_EACH: u64 = 25_000;
const TIME_MAX: Duration = Duration::from_secs(120);

// Guarantee: G4
#[test]
fn a_hundred_thousand_writes_of_four_processes_into_eight_files_arrive_once_and_in_order() {
    let broker = Broker::start();
    let bywash = Bywash::start(&broker, &Settings { ring_size: "128MiB", ..Settings::default() });
    let files: Vec<PathBuf> = (0..8).map(|i| bywash.file(&format!("{i}.log"))).collect();
    let loads: Vec<_> = (0..PROCESSES)
        .map(|id| Load { id, files: files.clone(), count: WRITES_EACH, bytes: 100, rate: 0 })
        .collect();
    let writers: Vec<_> = loads.iter().map(|load| load.start(bywash.root())).collect();
    for (writer, load) in writers.into_iter().zip(&loads) {
        writer.finish(TIME_MAX).assert_complete(load);
    }
    let total = u64::from(PROCESSES) * WRITES_EACH;
    let mut reader = broker.read("logs");
    let (events, duplicates) =
        ledger::distinct(reader.events_within(usize::try_from(total).unwrap(), TIME_MAX));
    assert_eq!((events.len() as u64, duplicates), (total, 0));
    let by_path = ledger::by_path(&events);
    assert_eq!(by_path.len(), files.len());
    for file in &files {
        let events = &by_path[file.to_str().unwrap()];
        ledger::assert_contiguous(events);
        let arrived = ledger::replay(events.iter().copied());
        ledger::assert_same_bytes("a file", &fs::read(file).unwrap(), &arrived);
    }
    assert_eq!(reader.messages(events.len()).len(), events.len(), "nothing came after the last");
}
