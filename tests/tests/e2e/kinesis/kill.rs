//! SIGKILL of the publisher at each of its side effects, while requests fail in part.

use bywash_common::fail_point::FailPoint;
use bywash_tests::harness::{Fault, wait::TIMEOUT};

use super::{Lines, SMALL, start};
use crate::kill::{assert_dies, passes, spawn_to_die};

/// How often a place is passed before it kills: requests are on their way by then.
const PASSES: u32 = 10;

#[test]
fn a_publisher_killed_at_each_step_loses_nothing_and_keeps_each_keys_order() {
    let (kinesis, proxy, mut bywash) = start(&SMALL);
    let mut puts = 0;
    proxy.plan(move |put| {
        puts += 1;
        let places = if puts % 3 == 0 { vec![puts / 3 % put.keys.len()] } else { Vec::new() };
        Fault::Records(places, "InternalFailure")
    });
    let mut reader = kinesis.read("logs");
    let mut all = 0;
    for point in [
        FailPoint::RecordRead,
        FailPoint::EventEncoded,
        FailPoint::EventSent,
        FailPoint::DeliveryReported,
        FailPoint::HeadMoved,
    ] {
        bywash.publisher().terminate(TIMEOUT);
        let lines = Lines { name: format!("{point:?}"), ..Lines::new(8, 8) };
        lines.write(&bywash);
        bywash.publisher = Some(spawn_to_die("publisher", &bywash, point, passes(point, PASSES)));
        assert_dies(bywash.publisher(), point);
        bywash.start_publisher();
        all += lines.count();
        // Distinct ids only, and the same content under the same id.
        let events = reader.events(all);
        lines.assert_in_order(&bywash, &events);
    }
}
