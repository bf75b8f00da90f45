//! A ring full of writes, and the publisher that drains it.

use std::time::Instant;

use bywash_benches::{FilledRing, Writes, cpu_time};
use bywash_tests::harness::{Broker, Process, program, temporary_directory, wait};
use nix::sys::signal::Signal;

use crate::Taken;

/// The topic of ours.
const TOPIC: &str = "ours";

/// Drains as many writes to the broker. There is no spool: in a ring that is full from the beginning it would take what is
/// about to be sent.
pub fn measure(broker: &Broker, writes: Writes) -> Taken {
    let ring = FilledRing::new("delivery", writes);
    let directory = temporary_directory();
    let config = directory.path().join("bywash.toml");
    let text = format!(
        "[ring]\nname = {:?}\n[kafka]\nbrokers = [{:?}]\ntopic = {TOPIC:?}\n[spool]\nsize_max = 0\n",
        ring.name,
        broker.address()
    );
    std::fs::write(&config, text).expect("a configuration file");
    let begin = Instant::now();
    let arguments = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
    let mut publisher =
        Process::spawn("publisher", &program("publisher"), arguments, directory.path(), Signal::SIGKILL);
    ring.wait_until_drained(&mut publisher, 4);
    let wall = begin.elapsed();
    let cpu = cpu_time(publisher.pid().as_raw());
    publisher.terminate(wait::TIMEOUT);
    Taken { wall, cpu }
}
