//! Warnings of `check`: settings that are valid, and that an operator may regret.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use super::{
    effective::Config,
    flags::{ConfigArgs, DEFAULT_FILE},
    spool::Fsync,
};

/// Others than the owner and the group may read.
const READABLE_BY_ALL: u32 = 0o004;

/// How many seconds' worth of a limited recovery may be on its way without a warning.
const SURGE_SECONDS: u64 = 10;

impl Config {
    /// Warnings, each with what to do.
    pub fn warnings(&self, args: &ConfigArgs) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.spool.size_max.0 == 0 {
            warnings.push(
                "spool.size_max is 0: what the ring cannot hold during an outage is lost, and so is what it holds when the \
                 machine reboots; give the spool some room"
                    .to_owned(),
            );
        } else if self.spool.fsync == Fsync::Never {
            warnings.push(
                "spool.fsync is \"never\": a power cut loses what the spool has taken last; \"always\" does not".to_owned(),
            );
        }
        if self.failed.size_max.0 == 0 {
            warnings.push(
                "failed.size_max is 0: a message that the sink refuses for good is lost, and only announced; give dead \
                 letters some room"
                    .to_owned(),
            );
        }
        let (pace, in_flight) = (self.publisher.recovery_bytes_per_second, self.publisher.in_flight_bytes);
        if pace.0 > 0 && in_flight.0 / SURGE_SECONDS > pace.0 {
            warnings.push(format!(
                "publisher.in_flight_bytes ({in_flight}) may be on their way when the sink goes away, and are sent at once when it is back, \
                 whatever publisher.recovery_bytes_per_second ({pace}) says: lower it to what a few seconds of writing take"
            ));
        }
        for directory in &self.directories {
            if let Some(useless) = directory.framing.useless() {
                warnings.push(format!("the directory {}: {useless}", directory.path.display()));
            }
        }
        if let Some(listen) = self.metrics.listen.filter(|listen| !listen.ip().is_loopback()) {
            warnings.push(format!(
                "metrics.listen is {listen}: whoever reaches that address reads all paths, without password or TLS; listen on \
                 127.0.0.1 and put a proxy in front"
            ));
        }
        let file = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        if self.kafka.secrets().any(|secret| !secret.contains("${")) && is_readable_by_all(&file) {
            warnings.push(format!(
                "{} holds secrets, and every user may read it: chmod o-r {0}, or write \"${{file:/PATH}}\" in their place",
                file.display()
            ));
        }
        for path in self.kafka.properties.values().flat_map(|value| files_in(value)) {
            if is_readable_by_all(Path::new(path)) {
                warnings.push(format!("{path} holds a secret, and every user may read it: chmod o-r {path}"));
            }
        }
        warnings
    }
}

/// The files that a value refers to.
fn files_in(value: &str) -> impl Iterator<Item = &str> {
    value.split("${file:").skip(1).filter_map(|rest| Some(rest.split_once('}')?.0))
}

fn is_readable_by_all(file: &Path) -> bool {
    fs::metadata(file).is_ok_and(|metadata| metadata.permissions().mode() & READABLE_BY_ALL != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn warnings(text: &str, mode: u32) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("b.toml");
        fs::write(&file, text).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        let args = ConfigArgs { config: Some(file), ..ConfigArgs::default() };
        Config::load(&args).unwrap().warnings(&args)
    }

    #[test]
    fn what_is_wise_gives_no_warning() {
        assert_eq!(warnings("[metrics]\nlisten = \"127.0.0.1:9598\"\n", 0o644), [""; 0]);
        assert_eq!(warnings("[kafka.properties]\n\"sasl.password\" = \"hunter2\"\n", 0o640), [""; 0]);
        assert_eq!(warnings("[kafka.properties]\n\"sasl.password\" = \"${NAME}\"\n", 0o644), [""; 0]);
    }

    #[test]
    fn each_unwise_value_gives_one_and_names_its_key() {
        for (text, word) in [
            ("[spool]\nsize_max = 0\n", "spool.size_max"),
            ("[spool]\nfsync = \"never\"\n", "spool.fsync"),
            ("[failed]\nsize_max = 0\n", "failed.size_max"),
            ("[[directory]]\npath = \"/a\"\nmultiline = { start = \"^x\" }\n", "multiline"),
            ("[[directory]]\npath = \"/a\"\nframing = \"multiline\"\nline_wait = 2\n", "multiline.timeout"),
            ("[publisher]\nrecovery_bytes_per_second = \"1MiB\"\n", "publisher.in_flight_bytes"),
            ("[metrics]\nlisten = \"0.0.0.0:9598\"\n", "metrics.listen"),
            ("[kafka.properties]\n\"sasl.password\" = \"hunter2\"\n", "chmod o-r"),
            ("[kafka.properties]\n\"sasl.password\" = \"${file:/etc/hostname}\"\n", "/etc/hostname"),
        ] {
            let found = warnings(text, 0o644);
            assert!(found.len() == 1 && found[0].contains(word), "{text}: {found:?}");
            assert!(!found[0].contains("hunter2"), "{found:?}");
        }
    }
}
