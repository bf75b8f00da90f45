//! What both bywash services share: the ring between them, the records in it, the configuration and the
//! counters that `status` shows.
//!
//! This crate knows no FUSE and no broker. Its heart is [`ring`], whose module documentation is the
//! specification of the shared memory.

// Under loom the ring is there for its own tests alone.
#![cfg_attr(loom, allow(dead_code, unused_imports))]

pub mod cli;
pub mod clock;
pub mod config;
pub mod escape;
pub mod exit;
pub mod fail_point;
pub mod glob;
pub mod logging;
pub mod make;
pub mod manual;
pub mod output;
pub mod record;
pub mod ring;
pub mod secrets;
#[cfg(not(loom))]
pub mod shared;
mod sync;
pub mod text_report;
pub mod units;

#[cfg(not(loom))]
pub use ring::status;
