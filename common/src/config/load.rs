//! Loading: file, environment and flags become the effective configuration, or a list of problems with their places.

use std::path::Path;

use super::{
    effective::Config,
    file,
    flags::{ConfigArgs, DEFAULT_FILE},
    legacy,
    locate::Key,
    places::{Places, place_of},
    problem::{ConfigError, Unusable},
    reference, validate,
};

impl Config {
    /// Reads the file, the environment and the flags that `args` holds.
    ///
    /// # Errors
    /// A [`ConfigError`] with everything that is wrong.
    pub fn load(args: &ConfigArgs) -> Result<Self, ConfigError> {
        let mut problems = Vec::new();
        let mut config = Self::default();
        let seed = legacy::fifo2kinesis::flags(|name| std::env::var_os(name), &mut problems);
        // A FIFO that is named otherwise takes the place of the variable's.
        let is_seed = args.names_fifo_as_fifo2kinesis() || args.fifo.is_empty() && seed.fifo_name.is_some();
        if is_seed {
            legacy::fifo2kinesis::set_defaults(&mut config);
        }
        let path = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let mut text = String::new();
        match std::fs::read_to_string(&path) {
            Ok(read) if legacy::is_fuse_kafka(&path, &read) => {
                legacy::apply(&path, &read, &mut config, &mut problems);
            }
            Ok(read) => {
                text = read;
                file::apply(&path, &text, &mut config, &mut problems);
            }
            Err(error) if args.config.is_none() && error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(ConfigError::Unreadable { path, error }),
        }
        seed.apply(&mut config, true, &mut problems);
        args.apply(&mut config, is_seed, &mut problems);
        validate::check(&config, &Places { args, file: &path, text: &text }, &mut problems);
        if problems.is_empty() { Ok(config) } else { Err(ConfigError::Wrong(problems)) }
    }

    /// Puts what the properties for Kafka refer to in its place (`${NAME}`, `${file:PATH}`, `${credential:NAME}`): for whoever
    /// needs it.
    ///
    /// # Errors
    /// A [`ConfigError`] with every reference that leads nowhere.
    pub fn resolve(&mut self, args: &ConfigArgs) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        Self::with_places(args, |places| {
            for (name, value) in &mut self.kafka.properties {
                match reference::resolve(value) {
                    Ok(Some(resolved)) => {
                        *value = resolved;
                        self.kafka.referenced.push(name.clone());
                    }
                    Ok(None) => {}
                    Err(message) => {
                        let key = Key::from("kafka.properties").with(name);
                        problems.push(places.of_unusable(&Unusable { key, message }));
                    }
                }
            }
        });
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(problems)) }
    }

    /// Whether what the services write, and the FIFOs, lie outside of watched directories and those beside each other, by where
    /// their paths lead. Asks nobody below a watched directory, whose overlay may hang.
    ///
    /// # Errors
    /// A [`ConfigError`] with everything that is wrong.
    pub fn check_where_paths_lead(&self, args: &ConfigArgs) -> Result<(), ConfigError> {
        let mut problems = Vec::new();
        Self::with_places(args, |places| validate::check_leads(self, places, &mut problems));
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::Wrong(problems)) }
    }

    /// Where a path stands that a key is set to, and the key: `FILE:LINE: KEY`, or a flag in place of file and line. None where
    /// it cannot be found.
    pub fn place_of(args: &ConfigArgs, key: &str, path: &Path) -> Option<String> {
        Self::with_places(args, |places| place_of(places, key, path))
    }

    /// What cannot be used, with the file and line, flag or variable that it comes from.
    pub fn placed(args: &ConfigArgs, unusable: &Unusable) -> ConfigError {
        ConfigError::Wrong(vec![Self::with_places(args, |places| places.of_unusable(unusable))])
    }

    fn with_places<T>(args: &ConfigArgs, ask: impl FnOnce(&Places<'_>) -> T) -> T {
        let file = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        // Only to say a line.
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        ask(&Places { args, file: &file, text: &text })
    }

    /// The ring that `args`, and the configuration file as far as it is TOML, name: also where something else in it is
    /// wrong. None if that cannot be told.
    pub fn ring_name(args: &ConfigArgs) -> Option<String> {
        if let Some(ring) = &args.ring {
            return Some(ring.clone());
        }
        let default = || Some(Self::default().ring.name);
        let path = args.config.clone().unwrap_or_else(|| DEFAULT_FILE.into());
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if args.config.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
                return default();
            }
            Err(_) => return None,
        };
        let file: toml::Table = text.parse().ok()?;
        match file.get("ring").and_then(|ring| ring.get("name")) {
            None => default(),
            Some(name) => name.as_str().map(str::to_owned),
        }
    }
}
