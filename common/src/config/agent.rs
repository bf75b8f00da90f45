//! `[agent]`: how fs-agent works.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;
use toml::Value;

use super::{
    context::{Context, Placed},
    directory::checked_path,
    toml_values::{table, text, texts},
    words::words,
};
use crate::units::Span;

/// The longest `agent.restart_wait` and `agent.stop_grace`.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// `[agent]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentConfig {
    /// What `fs-agent sleep` stops listening to: these directories and those below them.
    pub sleep: Vec<PathBuf>,
    /// Where the agent remembers that it sleeps; if not said, /run/bywash for root, `$XDG_RUNTIME_DIR`/bywash for others.
    pub state_dir: Option<PathBuf>,
    /// What becomes of the overlays when the agent ends, in whichever way.
    pub on_agent_exit: OnAgentExit,
    /// How long callers wait for an agent that is to come back; then the overlays go. At most 10 minutes.
    pub restart_wait: Span,
    /// How long a stopping agent serves files that are still open. At most 10 minutes.
    pub stop_grace: Span,
}

impl Default for AgentConfig {
    fn default() -> Self {
        Self {
            sleep: Vec::new(),
            state_dir: None,
            on_agent_exit: OnAgentExit::default(),
            restart_wait: Span(Duration::from_secs(10)),
            stop_grace: Span(Duration::from_secs(5)),
        }
    }
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    sleep: Placed<Vec<PathBuf>>,
    state_dir: Placed<PathBuf>,
    on_agent_exit: Placed<String>,
    restart_wait: Placed<Span>,
    stop_grace: Placed<Span>,
}

/// Takes over what the section says.
pub(super) fn apply(table: Table, to: &mut AgentConfig, context: &mut Context<'_>) {
    let Table { sleep, state_dir, on_agent_exit, restart_wait, stop_grace } = table;
    context.set(&mut to.sleep, sleep, |paths| paths.iter().map(|path| checked_path(path)).collect());
    context.set(&mut to.state_dir, state_dir, |path| checked_path(&path).map(Some));
    context.set(&mut to.on_agent_exit, on_agent_exit, |word| word.parse());
    context.set(&mut to.restart_wait, restart_wait, checked_wait);
    context.set(&mut to.stop_grace, stop_grace, checked_wait);
}

fn checked_wait(span: Span) -> Result<Span, String> {
    if span.0 <= WAIT_MAX {
        Ok(span)
    } else {
        Err(format!("`{span}` is too long: use {} or less", Span(WAIT_MAX)))
    }
}

/// The section, as the file has it.
pub(super) fn print(agent: &AgentConfig) -> Value {
    let sleep: Vec<_> = agent.sleep.iter().map(|path| path.display().to_string()).collect();
    Value::Table(table([
        ("sleep", texts(&sleep)),
        ("state_dir", agent.state_dir.as_ref().and_then(|path| text(path.display()))),
        ("on_agent_exit", text(agent.on_agent_exit.word())),
        ("restart_wait", text(agent.restart_wait)),
        ("stop_grace", text(agent.stop_grace)),
    ]))
}
