//! SIGKILL of the publisher at each of its side effects, while requests fail in part.

use std::{os::unix::process::ExitStatusExt, path::Path};

use bywash_common::fail_point::FailPoint;
use bywash_tests::harness::{
    Bywash, Fault, Process, program,
    wait::{self, PATIENCE},
};
use nix::sys::signal::Signal;

use super::{Lines, SMALL, start};

/// How often a place is passed before it kills: requests are on their way by then.
const PASSES: u32 = 10;

fn spawn_to_die(bywash: &Bywash, point: FailPoint) -> Process {
    let mut arguments = bywash.environment.clone();
    arguments.push(format!("BYWASH_FAIL_POINT={point:?}:{PASSES}"));
    let rest = [program("publisher").display().to_string(), "run".to_owned(), "--config".to_owned()];
    arguments.extend(rest);
    arguments.push(bywash.config.display().to_string());
    Process::spawn("publisher", Path::new("env"), arguments, bywash.root(), Signal::SIGTERM)
}

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
        bywash.publisher().terminate(PATIENCE);
        let lines = Lines { name: format!("{point:?}"), ..Lines::new(8, 8) };
        lines.write(&bywash);
        let mut dying = spawn_to_die(&bywash, point);
        let status = wait::until(&format!("the death at {point:?}"), PATIENCE, || {
            dying.ended().ok_or_else(|| "it lives; was it built with the feature fail-points?".to_owned())
        });
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{point:?}: {status}");
        bywash.start_publisher();
        all += lines.count();
        // Distinct ids only, and the same content under the same id.
        let events = reader.events(all);
        lines.assert_in_order(&bywash, &events);
    }
}
