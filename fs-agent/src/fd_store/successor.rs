//! Whether another agent follows one that ends: what systemd is about to do, asked from inside its unit.
//!
//! A signal says nothing of that, and neither does systemd to who is signalled. Its job does: `restart` where another one
//! follows, `stop` where none does, and none at all where the agent has ended by itself, or somebody has sent the signal by hand.

use std::env;

use anyhow::{Context, Result};

use super::systemd::{Job, RestartRules, Unit};

/// Whether another agent follows this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Successor {
    /// It is started once this one has ended.
    Comes,
    /// Not by the manager.
    DoesNot,
}

/// How a service's process has ended, as systemd says it to ExecStopPost= (systemd.exec(5)).
struct Ended {
    /// `SERVICE_RESULT`; `success` also for an end by a signal that systemd has sent.
    result: String,
    /// `EXIT_STATUS`, if it is an exit code.
    code: Option<u32>,
}

/// Whether an agent follows that was told to end and will do so well.
pub fn follows_told(unit: &Unit) -> Successor {
    follows(unit, &Ended { result: "success".to_owned(), code: Some(0) })
}

/// Whether an agent follows the one that has ended; none if this process is not what systemd runs after an end.
pub fn follows_ended() -> Option<Successor> {
    let variable = |name| env::var(name).ok();
    let result = variable("SERVICE_RESULT")?;
    let is_exit = variable("EXIT_CODE").is_some_and(|how| how == "exited");
    let code = variable("EXIT_STATUS").filter(|_| is_exit).and_then(|code| code.parse().ok());
    let ended = Ended { result, code };
    Some(follows(&Unit::own()?, &ended))
}

fn follows(unit: &Unit, ended: &Ended) -> Successor {
    match try_follows(unit, ended) {
        Ok(true) => Successor::Comes,
        Ok(false) => Successor::DoesNot,
        Err(error) => {
            // Who is wrong in this leaves overlays to a later look; who is wrong in the other takes programs' files from them.
            tracing::warn!("systemd does not say whether an agent follows, so one is waited for: {error:#}");
            Successor::Comes
        }
    }
}

fn try_follows(unit: &Unit, ended: &Ended) -> Result<bool> {
    match unit.job().context("no answer as to jobs")? {
        Some(Job::Restart) => return Ok(true),
        // It could not be started: systemd tries again, or does not, as after an end.
        Some(Job::Start) | None => {}
        Some(Job::Stop | Job::Other) => return Ok(false),
    }
    Ok(restarts(&unit.restart_rules()?, ended))
}

/// As the table of Restart= in systemd.service(5) has it.
fn restarts(rules: &RestartRules, ended: &Ended) -> bool {
    if ended.code.is_some_and(|code| rules.prevented.contains(&code)) {
        return false;
    }
    match (&*rules.restart, &*ended.result) {
        ("no", _) | (_, "start-limit-hit" | "exec-condition" | "resources") => false,
        ("always", _) | ("on-success", "success") => true,
        ("on-failure", result) => result != "success",
        ("on-abnormal", result) => !matches!(result, "success" | "exit-code"),
        ("on-abort", result) => matches!(result, "signal" | "core-dump"),
        ("on-watchdog", result) => result == "watchdog",
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_systemd_restarts_is_followed() {
        let ended = |result: &str, code| Ended { result: result.to_owned(), code };
        let cases = [
            ("on-failure", ended("success", Some(0)), false),
            ("always", ended("success", Some(0)), true),
            ("on-failure", ended("signal", None), true),
            ("on-failure", ended("core-dump", None), true),
            ("on-failure", ended("watchdog", None), true),
            ("on-failure", ended("timeout", None), true),
            ("on-failure", ended("exit-code", Some(1)), true),
            ("on-failure", ended("exit-code", Some(78)), false),
            ("always", ended("exit-code", Some(78)), false),
            ("on-failure", ended("start-limit-hit", None), false),
            ("no", ended("signal", None), false),
            ("on-abnormal", ended("exit-code", Some(1)), false),
            ("on-abnormal", ended("signal", None), true),
            ("on-success", ended("signal", None), false),
        ];
        for (restart, ended, follows) in cases {
            let shown = format!("{restart} {} {:?}", ended.result, ended.code);
            let rules = RestartRules { restart: restart.to_owned(), prevented: vec![78] };
            assert_eq!(restarts(&rules, &ended), follows, "{shown}");
        }
    }
}
