//! What becomes of writes when something between them and their readers fails: one test, and one row of a table, for
//! each fault. `make faults` runs them all, those that take long too, and prints the table.
//!
//! A publisher that is killed at each place where it does something is `kill.rs`'s and `exactly_once.rs`'s; here it is
//! killed at all of them one after the other.

mod access;
mod broker;
mod errors;
mod memory;
mod network;
mod services;

use std::time::Duration;

/// How long writing goes on while a fault lasts.
const FAULT_TIME: Duration = Duration::from_secs(2);
