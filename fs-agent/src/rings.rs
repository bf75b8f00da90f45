//! `fs-agent rings`: which rings there are in shared memory, what else was left behind, and its removal.

use std::{
    fmt::Write as _,
    fs,
    io::ErrorKind,
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use bywash_common::{
    cli::GlobalArgs,
    config::Config,
    escape::in_line,
    exit::Exit,
    output,
    ring::{self, Inventory, Listed},
    units::human_bytes,
};
use nix::unistd::{Uid, User};
use serde_json::json;

use crate::{
    cli::{RingsArgs, RingsCommand, print},
    sleep::state_dir,
};

/// Shows or removes rings.
///
/// # Errors
/// If the system says no, or a ring is in use or not delivered.
pub fn rings(args: &GlobalArgs, asked: &RingsArgs) -> Result<Exit> {
    let sockets = sockets(args);
    match &asked.command {
        None => {
            let inventory = ring::inventory()?;
            if asked.json {
                output::print_json(&as_json(&inventory, &sockets))?;
                return Ok(Exit::Ok);
            }
            print(&as_text(&inventory, &sockets))
        }
        Some(RingsCommand::Remove { names, discard, leftovers }) => {
            for name in names {
                let Some(bytes) = ring::remove_ring(name, *discard)? else {
                    bail!("there is no ring `{name}`: `fs-agent rings` shows those that there are");
                };
                print(&format!("removed the ring {name}: {} are free\n", human_bytes(bytes)))?;
            }
            if *leftovers {
                remove_leftovers(&sockets)?;
            }
            Ok(Exit::Ok)
        }
    }
}

fn remove_leftovers(sockets: &[PathBuf]) -> Result<()> {
    for leftover in ring::remove_unused()? {
        print(&format!("removed {}\n", shown(&leftover.path)))?;
    }
    for socket in sockets {
        fs::remove_file(socket).with_context(|| format!("cannot remove {}", socket.display()))?;
        print(&format!("removed {}\n", shown(socket)))?;
    }
    Ok(())
}

/// Sockets of supervisors that are gone. A configuration that is wrong names no directory to look into.
fn sockets(args: &GlobalArgs) -> Vec<PathBuf> {
    let Some(directory) = Config::load(&args.config).ok().and_then(|config| state_dir(&config)) else {
        return Vec::new();
    };
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let is_socket = |path: &PathBuf| {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        name.starts_with("supervise-") && name.ends_with(".socket")
    };
    let mut dead: Vec<_> = entries.filter(is_socket).filter(|path| is_dead(path)).collect();
    dead.sort();
    dead
}

/// Whether nobody has the socket any more (unix(7): ECONNREFUSED).
fn is_dead(path: &Path) -> bool {
    let asked = UnixDatagram::unbound().and_then(|socket| socket.connect(path));
    asked.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

fn shown(path: &Path) -> String {
    in_line(path.as_os_str().as_encoded_bytes()).to_string()
}

fn owner(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| uid.to_string(), |user| in_line(&user.name).to_string())
}

fn as_text(inventory: &Inventory, sockets: &[PathBuf]) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail, here and below.
    if !inventory.rings.is_empty() {
        let _ = writeln!(
            out,
            "{:<24} {:<12} {:>9} {:>9}  {:<11} PUBLISHER",
            "RING", "OWNER", "MEMORY", "WAITING", "AGENT"
        );
    }
    for ring in &inventory.rings {
        let waiting = match &ring.unknown {
            Some(_) => "unknown".to_owned(),
            None => human_bytes(ring.used_bytes),
        };
        let agent = ring.agent.map_or_else(|| "none".to_owned(), |pid| format!("pid {pid}"));
        let publisher = if ring.has_publisher { "running" } else { "none" };
        let _ = writeln!(
            out,
            "{:<24} {:<12} {:>9} {waiting:>9}  {agent:<11} {publisher}",
            ring.ring,
            owner(ring.owner),
            human_bytes(ring.memory_bytes)
        );
        if let Some(why) = &ring.unknown {
            let _ = writeln!(out, "    {why}");
        }
    }
    for leftover in &inventory.leftovers {
        let bytes = human_bytes(leftover.memory_bytes);
        let _ = writeln!(out, "left behind: {} ({bytes})", shown(&leftover.path));
    }
    sockets.iter().for_each(|socket| {
        let _ = writeln!(out, "left behind: {}", shown(socket));
    });
    let is_unused = |ring: &&Listed| ring.agent.is_none() && !ring.has_publisher;
    if let Some(unused) = inventory.rings.iter().find(is_unused) {
        let discard = if unused.used_bytes > 0 || unused.unknown.is_some() { " --discard" } else { "" };
        let _ =
            writeln!(out, "to free a ring that nobody uses: fs-agent rings remove {}{discard}", unused.ring);
    }
    if !inventory.leftovers.is_empty() || !sockets.is_empty() {
        out.push_str("to remove what was left behind: fs-agent rings remove --leftovers\n");
    }
    if out.is_empty() {
        out.push_str("there is no ring\n");
    }
    out
}

fn as_json(inventory: &Inventory, sockets: &[PathBuf]) -> String {
    let ring = |ring: &Listed| {
        json!({
            "ring": ring.ring,
            "owner": ring.owner,
            "generations": ring.generations,
            "memory_bytes": ring.memory_bytes,
            "used_bytes": ring.used_bytes,
            "used_records": ring.used_records,
            "agent_pid": ring.agent,
            "publisher_running": ring.has_publisher,
            "unknown": ring.unknown,
        })
    };
    let paths = inventory.leftovers.iter().map(|leftover| &leftover.path).chain(sockets);
    let leftovers: Vec<_> = paths.map(|path| path.to_string_lossy()).collect();
    let rings: Vec<_> = inventory.rings.iter().map(ring).collect();
    format!("{}\n", json!({ "rings": rings, "leftovers": leftovers }))
}
