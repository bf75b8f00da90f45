//! Drains the ring that fs-agent fills to Kafka, Kinesis or standard output.
//!
//! What the program `publisher` does. It is a library so that benchmarks and fuzz targets reach its parts.

mod aws;
mod check;
pub mod cli;
mod clock;
mod consume;
pub mod dead_letter;
pub mod delivery;
mod destination;
mod discard;
pub mod disk;
pub mod drain;
pub mod encode;
mod faults;
pub mod lines;
mod metrics;
mod names;
mod rate;
mod reload;
mod route;
mod run;
mod signals;
#[cfg(test)]
mod simulation;
pub mod sink;
mod sink_stats;
pub mod spool;
pub mod state_dir;
mod status;
mod tap;
mod topics;
