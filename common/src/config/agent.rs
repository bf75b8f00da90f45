//! `[agent]`: how fs-agent works.

use std::path::PathBuf;

use serde::Deserialize;
use toml::Value;

use super::{
    Config,
    directory::checked_path,
    file::{Context, Placed},
    print::{table, text, texts},
    words,
};

/// `[agent]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AgentConfig {
    /// What `fs-agent sleep` stops listening to: these directories and those below them.
    pub sleep: Vec<PathBuf>,
    /// Where the agent remembers that it sleeps; if not said, /run/bywash for root, `$XDG_RUNTIME_DIR`/bywash for others.
    pub state_dir: Option<PathBuf>,
    /// What becomes of the overlays when the agent ends, in whichever way.
    pub on_agent_exit: OnAgentExit,
}

/// What becomes of the overlays when the agent ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAgentExit {
    /// They are taken off: programs go on writing, uncaptured.
    #[default]
    Unmount,
    /// They stay, and whatever is done below them fails (ENOTCONN) until the agent runs again: nothing is written
    /// uncaptured.
    Keep,
}

words!(OnAgentExit: "unmount" => OnAgentExit::Unmount, "keep" => OnAgentExit::Keep);

/// The keys in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    sleep: Placed<Vec<PathBuf>>,
    state_dir: Placed<PathBuf>,
    on_agent_exit: Placed<String>,
}

/// Takes over what the section says.
pub(super) fn apply(table: Table, config: &mut Config, context: &mut Context<'_>) {
    let Table { sleep, state_dir, on_agent_exit } = table;
    let to = &mut config.agent;
    context.set(&mut to.sleep, sleep, |paths| paths.iter().map(|path| checked_path(path)).collect());
    context.set(&mut to.state_dir, state_dir, |path| checked_path(&path).map(Some));
    context.set(&mut to.on_agent_exit, on_agent_exit, |word| word.parse());
}

/// The section, as the file has it.
pub(super) fn print(agent: &AgentConfig) -> Value {
    let sleep: Vec<_> = agent.sleep.iter().map(|path| path.display().to_string()).collect();
    Value::Table(table([
        ("sleep", texts(&sleep)),
        ("state_dir", agent.state_dir.as_ref().and_then(|path| text(path.display()))),
        ("on_agent_exit", text(agent.on_agent_exit.word())),
    ]))
}
