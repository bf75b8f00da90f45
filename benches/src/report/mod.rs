//! The report of the benchmarks: typed data, and what is made of it.

pub mod chart;
pub mod data;
pub mod page;
pub mod score;
pub mod summary;
