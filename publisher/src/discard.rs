//! `publisher discard`: an operator gives up what waits for a sink that it shall not, or will never, reach.

use std::{
    path::Path,
    sync::{Arc, Mutex},
};

use anyhow::{Context, bail};
use bywash_common::{
    clock::now_ns,
    config::Config,
    exit::Exit,
    output,
    ring::{PublisherRing, RingError},
};
use nix::unistd::{User, initgroups, setgid, setuid};

use crate::{
    drain::{Emptied, empty_ring, empty_spool},
    spool::Log,
    state_dir::other_owner,
    status::{look, report},
};

/// How often a sector of the spool is read that does not give what it holds.
const READ_TRIES: u32 = 3;

/// Options of `publisher discard`.
#[derive(Debug, clap::Args)]
pub struct DiscardArgs {
    /// Discard it for good; without this, what waits is only counted
    #[arg(long)]
    yes: bool,
}

/// Counts what waits in the ring and the spool, and with `--yes` discards it.
///
/// # Errors
/// If a publisher runs, or what went wrong.
pub fn discard(config: &Config, args: &DiscardArgs) -> anyhow::Result<Exit> {
    let name = &config.ring.name;
    let spool = &config.spool_place();
    if args.yes {
        // What it changes stays the service's.
        become_owner_of(spool)?;
    }
    PublisherRing::check_free(name).context(
        "only what no publisher is sending can be discarded: stop it first (systemctl stop publisher)",
    )?;
    if !args.yes {
        return count(name, spool);
    }
    let log = if Log::holds_any(spool) {
        let group = config.ring.group.as_deref();
        Some(Arc::new(Mutex::new(Log::open(spool, &config.spool, name, group, READ_TRIES)?)))
    } else {
        None
    };
    let text = match PublisherRing::attach(name, None) {
        Ok(ring) => {
            let Emptied { records, bytes, damaged_bytes } = empty_ring(name, ring, log)?;
            let damaged = match damaged_bytes {
                0 => String::new(),
                bytes => format!("; {bytes} bytes were damaged, and nobody knows how many writes these were"),
            };
            let told = if records > 0 { "; the next publisher's first event says so" } else { "" };
            format!(
                "{records} writes ({bytes} bytes) of the ring `{name}` and its spool are discarded{damaged}{told}\n"
            )
        }
        Err(RingError::Missing { .. }) => match log {
            Some(log) => {
                let (records, bytes) = empty_spool(&log)?;
                format!(
                    "{records} records ({bytes} bytes on disk) of the spool {} are discarded; there is no ring `{name}`, so no \
                     event will say so\n",
                    spool.display()
                )
            }
            None => nothing_waits(name, spool),
        },
        Err(error) => return Err(error.into()),
    };
    output::print(&text)?;
    Ok(Exit::Ok)
}

fn nothing_waits(name: &str, spool: &Path) -> String {
    format!("nothing waits: there is no ring `{name}`, and nothing in {}\n", spool.display())
}

/// Says what waits. Its code is that of a wrong command line where there is something: nothing was discarded.
fn count(name: &str, spool: &Path) -> anyhow::Result<Exit> {
    let ring = look(name)?;
    let waits = report(name, ring.as_ref(), None, now_ns());
    let has_spool = Log::holds_any(spool);
    if waits.lag_records == 0 && waits.lag_bytes == 0 && !has_spool {
        output::print(&nothing_waits(name, spool))?;
        return Ok(Exit::Ok);
    }
    let spooled =
        if has_spool { format!(", records in the spool {}", spool.display()) } else { String::new() };
    output::print(&format!(
        "{} records wait in the ring `{name}` ({} bytes){spooled}: publisher discard --yes discards all that for good\n",
        waits.lag_records, waits.lag_bytes
    ))?;
    Ok(Exit::Usage)
}

/// Has root be who the publisher is: the owner of the spool.
fn become_owner_of(spool: &Path) -> anyhow::Result<()> {
    let Some((uid, _)) = other_owner("spool.dir", spool)? else { return Ok(()) };
    let Some(user) = User::from_uid(uid)? else {
        bail!(
            "{} belongs to uid {uid}, which has no name: chown it to the publisher's user",
            spool.display()
        );
    };
    let name = std::ffi::CString::new(user.name.as_bytes())?;
    let change = || -> nix::Result<()> {
        initgroups(&name, user.gid)?;
        setgid(user.gid)?;
        setuid(user.uid)
    };
    change().with_context(|| format!("cannot act as `{}`, to whom {} belongs", user.name, spool.display()))
}
