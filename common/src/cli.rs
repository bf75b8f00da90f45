//! What the command lines of both programs share.

use clap::{Args, CommandFactory, Parser};

use crate::{
    config::{Config, ConfigArgs, ConfigError, Layers, LogLevel, Precedence, legacy::fifo2kinesis},
    exit::Exit,
    logging::{self, LogFormat},
    output, secrets,
};

/// Options of every command.
#[derive(Clone, Debug, Args)]
pub struct GlobalArgs {
    /// Where the configuration comes from.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How much is logged.
    #[command(flatten)]
    pub log: LogArgs,
}

/// Options of the log.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Where the values come from. The first field: the others take the values away.
    #[command(flatten)]
    pub layers: Layers,
    /// The least severe level that is logged: error, warn, info, debug or trace; RUST_LOG says it per module
    /// [default: info]
    #[arg(long, value_name = "LEVEL", env = "BYWASH_LOG_LEVEL", global = true)]
    pub log_level: Option<LogLevel>,
    /// How log lines look
    #[arg(long, value_enum, default_value = "text", env = "BYWASH_LOG_FORMAT", global = true)]
    pub log_format: LogFormat,
    /// The same as --log-level debug
    #[arg(
        long,
        value_name = "BOOL",
        env = "BYWASH_DEBUG",
        global = true,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = fifo2kinesis::switch
    )]
    pub debug: Option<bool>,
}

/// Reads the command line.
///
/// # Errors
/// The exit code where there is nothing to do: it is wrong, or asks for help, and people have been told.
pub fn parse<C: Parser>() -> Result<C, Exit> {
    let mut command = command::<C>();
    let parsed = command.try_get_matches_from_mut(std::env::args_os());
    let parsed = parsed.and_then(|matches| C::from_arg_matches(&matches));
    parsed.map_err(|error| {
        if error.use_stderr() {
            output::complain(&error.render().to_string());
            return Exit::Usage;
        }
        // Help and version: nobody who reads is no failure.
        let _ = error.print();
        Exit::Ok
    })
}

/// Commands that work by all of the configuration: their help shows every flag for it.
const CONFIGURED: [&str; 3] = ["run", "check", "supervise"];
/// The flags for the configuration that the help of any other command shows.
const SHOWN: [&str; 2] = ["config", "ring"];

/// The command line. Help shows what a command is about: its own flags first, and of those for the configuration, which every
/// command takes, all with the commands that work by all of it.
pub fn command<C: CommandFactory>() -> clap::Command {
    let mut command = C::command();
    // Has each command get the flags that all take.
    command.build();
    command.mut_subcommands(|command| {
        let is_configured = CONFIGURED.contains(&command.get_name());
        if is_configured { command } else { without_configuration(command) }
    })
}

fn without_configuration(command: clap::Command) -> clap::Command {
    let is_hidden = |arg: &clap::Arg| {
        arg.get_help_heading() == Some("Configuration") && !SHOWN.contains(&arg.get_id().as_str())
    };
    let command = command.mut_args(|arg| if is_hidden(&arg) { arg.hide(true) } else { arg });
    let command =
        command.after_help("Every flag for the configuration is taken too: `check --help` shows them.");
    command.mut_subcommands(without_configuration)
}

impl GlobalArgs {
    /// Reads the configuration, and from then on logs as much as it says.
    ///
    /// # Errors
    /// A [`ConfigError`] with everything that is wrong; what is logged has then not changed.
    pub fn load_config(&self) -> Result<Config, ConfigError> {
        let config = self.read_config()?;
        self.log.follow(config.log.level);
        Ok(config)
    }

    /// The same with what it refers to (see [`Config::resolve`]).
    ///
    /// # Errors
    /// As [`Self::load_config`].
    pub fn load_resolved(&self) -> Result<Config, ConfigError> {
        self.resolve(self.load_config()?)
    }

    /// As [`Self::read_config`], with what it refers to.
    ///
    /// # Errors
    /// As [`Self::read_config`].
    pub fn read_resolved(&self) -> Result<Config, ConfigError> {
        self.resolve(self.read_config()?)
    }

    /// `config`, which was read by these arguments, with what it refers to.
    ///
    /// # Errors
    /// As [`Config::resolve`].
    pub fn resolve(&self, mut config: Config) -> Result<Config, ConfigError> {
        config.resolve(&self.config)?;
        secrets::hide(config.kafka.secrets());
        Ok(config)
    }

    /// Warns of what is legal and unwise.
    pub fn warn_of_unwise(&self, config: &Config) {
        config.warnings(&self.config).iter().for_each(|warning| tracing::warn!("{warning}"));
    }

    /// Reads the configuration, for what is to be started or goes on by it.
    ///
    /// # Errors
    /// A [`ConfigError`] with everything that is wrong.
    pub fn read_config(&self) -> Result<Config, ConfigError> {
        let mut config = Config::load(&self.config)?;
        secrets::hide(config.kafka.secrets());
        config.check_where_paths_lead(&self.config)?;
        if let Some(level) = self.log.flagged() {
            config.log.level = level;
        }
        Ok(config)
    }
}

impl LogArgs {
    /// Sets logging up for the rest of the program's life. Of the libraries that `quiet` names, by what their modules begin
    /// with, nothing but errors is logged unless debugging is asked for.
    pub fn init(&self, quiet: &'static [&'static str]) {
        logging::init(self.flagged().unwrap_or_default().into(), self.log_format, quiet);
    }

    fn flagged(&self) -> Option<LogLevel> {
        match (self.debug, self.log_level) {
            (Some(true), Some(level)) => match self.layers.precedence("debug", "log-level") {
                Precedence::Second => Some(level),
                Precedence::First | Precedence::Same => Some(LogLevel::Debug),
            },
            (Some(true), None) => Some(LogLevel::Debug),
            (Some(false), level) => level,
            (None, Some(level)) => Some(level),
            (None, None) => fifo2kinesis::is_debugged().then_some(LogLevel::Debug),
        }
    }

    /// Logs as much as the file says, unless a flag or the environment says it.
    pub fn follow(&self, level: LogLevel) {
        if self.flagged().is_none() && std::env::var_os("RUST_LOG").is_none() {
            logging::set_level(level.into());
        }
    }
}
