//! End-to-end tests of bywash across real processes, mounts and brokers, and the demo, which is one of them told
//! to a person.
//!
//! [`harness`] starts and stops the real programs; `tests/e2e` says what must hold; `bin/demo` shows it;
//! `bin/writer` is the load; [`actor`]s do the same in two directories as several users.

// A test says that something does not hold by panicking, and so does what it is built of.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod actor;
pub mod harness;
pub mod resident;
