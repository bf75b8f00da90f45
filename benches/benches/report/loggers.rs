//! rsyslog and syslog-ng of Debian's packages, as the harness has them unpacked.

use std::{fs, path::Path};

use bywash_tests::harness::{Process, tool};
use nix::sys::signal::Signal;

/// Starts rsyslog with a configuration; its files go into `root`.
pub fn rsyslog(root: &Path, text: &str) -> Process {
    fs::write(root.join("rsyslog.conf"), text).unwrap();
    let at = |name: &str| root.join(name).display().to_string();
    let modules = tool("loggers/rsyslog-modules").display().to_string();
    let arguments = ["-n", "-f", &at("rsyslog.conf"), "-i", &at("pid"), "-M", &modules];
    Process::spawn("rsyslogd", &tool("loggers/usr/sbin/rsyslogd"), arguments, root, Signal::SIGKILL)
}

/// Starts syslog-ng with a configuration; its files go into `root`.
pub fn syslog_ng(root: &Path, text: &str) -> Process {
    fs::write(root.join("syslog-ng.conf"), text).unwrap();
    let at = |name: &str| root.join(name).display().to_string();
    let arguments = [
        format!("LD_LIBRARY_PATH={}", tool("loggers/usr/lib/syslog-ng").display()),
        tool("loggers/usr/sbin/syslog-ng").display().to_string(),
        "--foreground".to_owned(),
        format!("--cfgfile={}", at("syslog-ng.conf")),
        format!("--module-path={}", tool("loggers/syslog-ng-modules").display()),
        format!("--persist-file={}", at("persist")),
        format!("--control={}", at("control")),
        format!("--pidfile={}", at("ng-pid")),
    ];
    Process::spawn("syslog-ng", Path::new("env"), arguments, root, Signal::SIGKILL)
}
