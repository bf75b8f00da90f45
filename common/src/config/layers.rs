//! Where the values of flags come from: what a person has typed goes before what lies in the environment, also where two
//! flags stand for one key.

use clap::{ArgMatches, Command, FromArgMatches, parser::ValueSource};

use super::problem::Origin;

/// Which flags were not typed: their variables gave them.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    from_environment: Vec<String>,
}

/// What one of two flags that stand for one key comes from, compared with the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precedence {
    /// The first goes before the second.
    First,
    /// The second goes before the first.
    Second,
    /// They are of one layer.
    Same,
}

impl Layers {
    /// Whether a flag's value is that of its variable.
    pub fn is_variable(&self, flag: &str) -> bool {
        self.from_environment.iter().any(|id| id.as_str() == flag)
    }

    /// Which of two flags that are both given goes before the other.
    pub fn precedence(&self, first: &str, second: &str) -> Precedence {
        match (self.is_variable(first), self.is_variable(second)) {
            (false, true) => Precedence::First,
            (true, false) => Precedence::Second,
            _ => Precedence::Same,
        }
    }

    /// Where a flag's value comes from.
    pub(super) fn origin(&self, flag: &'static str) -> Origin {
        if self.is_variable(flag) { Origin::Environment(flag) } else { Origin::Flag(flag) }
    }
}

#[cfg(test)]
impl Layers {
    /// As if these flags had their values from variables.
    pub(super) fn of_variables(flags: &[&str]) -> Self {
        Self { from_environment: flags.iter().map(|flag| (*flag).to_owned()).collect() }
    }
}

impl clap::Args for Layers {
    fn augment_args(command: Command) -> Command {
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        command
    }
}

impl FromArgMatches for Layers {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let is_variable = |id: &clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::EnvVariable);
        let named = |id: &clap::Id| id.as_str().replace('_', "-");
        Ok(Self { from_environment: matches.ids().filter(|id| is_variable(id)).map(named).collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
