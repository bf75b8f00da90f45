//! The exit codes of both programs.

use std::process::ExitCode;

/// Why a program ended, as its exit code says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// All went well.
    Ok = 0,
    /// It failed at run time.
    Failed = 1,
    /// The command line is wrong.
    Usage = 2,
    /// `status`: the service is not running.
    NotRunning = 3,
    /// `publisher status --file` and `--drained`: something is not delivered yet.
    Behind = 4,
    /// The configuration is wrong (`EX_CONFIG` of sysexits.h).
    Config = 78,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
