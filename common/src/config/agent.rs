//! `[agent]`: how fs-agent works.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Value;

use super::{
    Config,
    directory::checked_path,
    file::{Context, Placed},
    print::{table, texts},
};

/// `[agent]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentConfig {
    /// What `fs-agent sleep` stops listening to: these directories and those below them.
    pub sleep: Vec<PathBuf>,
}

/// The keys in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    sleep: Placed<Vec<PathBuf>>,
}

/// Takes over what the section says.
pub(super) fn apply(table: Table, config: &mut Config, context: &mut Context<'_>) {
    let Table { sleep } = table;
    context
        .set(&mut config.agent.sleep, sleep, |paths| paths.iter().map(|path| checked_path(path)).collect());
}

/// The section, as the file has it.
pub(super) fn print(agent: &AgentConfig) -> Value {
    let sleep: Vec<_> = agent.sleep.iter().map(|path| path.display().to_string()).collect();
    Value::Table(table([("sleep", texts(&sleep))]))
}
