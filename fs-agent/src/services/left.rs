//! What the agent before has left of its overlays, and what each of them says of itself.

use std::{
    collections::{BTreeMap, HashMap},
    ffi::OsStr,
    os::{fd::OwnedFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use bywash_common::config::OnAgentExit;

use crate::{
    fd_store::{DirectoryPart, Name, OverlayPart, Store},
    fuse::Negotiated,
    mount::{label::Part, table::Device},
    overlay::Parked,
    state::{self, State},
};

/// What the services have to know of an overlay to go on with it. No field is ever changed: an overlay that is renamed along with
/// a directory above it is found by its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Which part of the watched directory it covers.
    pub part: Part,
    /// `agent.on_agent_exit` when it was mounted.
    pub on_agent_exit: OnAgentExit,
    /// Its filesystem, by which the table of mounts knows it.
    pub device: Device,
    /// The number of the watched directory, under which that is kept.
    pub directory: u32,
    /// The path of the watched directory.
    pub path: PathBuf,
    /// Where it was attached, relative to the directory.
    pub at: PathBuf,
}

impl Facts {
    /// Where it was attached.
    pub fn place(&self) -> PathBuf {
        place(&self.path, &self.at)
    }
}

/// What is at `at`, relative to `directory`; that itself where `at` is empty.
pub fn place(directory: &Path, at: &Path) -> PathBuf {
    if at.as_os_str().is_empty() { directory.to_owned() } else { directory.join(at) }
}

/// The first field. Another version that says something else has another one.
const VERSION: &[u8] = b"1";

impl Facts {
    /// The fields with a NUL behind each: paths have none.
    pub fn to_bytes(&self) -> Vec<u8> {
        let part = match self.part {
            Part::Directory => "directory",
            Part::Below => "below",
        };
        let directory = self.directory.to_string();
        let fields = [
            VERSION,
            part.as_bytes(),
            self.on_agent_exit.word().as_bytes(),
            self.device.0.as_bytes(),
            directory.as_bytes(),
            self.path.as_os_str().as_bytes(),
            self.at.as_os_str().as_bytes(),
        ];
        fields.iter().flat_map(|field| field.iter().copied().chain([0])).collect()
    }

    /// None for what no agent of this version has written.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let fields: Vec<&[u8]> = bytes.strip_suffix(&[0])?.split(|byte| *byte == 0).collect();
        let [VERSION, part, on_agent_exit, device, directory, path, at] = fields[..] else { return None };
        let text = |field| std::str::from_utf8(field).ok();
        let part = match part {
            b"directory" => Part::Directory,
            b"below" => Part::Below,
            _ => return None,
        };
        let path_of = |field| Path::new(OsStr::from_bytes(field)).to_owned();
        Some(Self {
            part,
            on_agent_exit: text(on_agent_exit)?.parse().ok()?,
            device: Device(text(device)?.to_owned()),
            directory: text(directory)?.parse().ok()?,
            path: path_of(path),
            at: path_of(at),
        })
    }
}

/// An overlay that the agent before has left.
#[derive(Debug)]
pub struct LeftOverlay {
    /// Under which it is kept.
    pub number: u32,
    /// The kernel's connection.
    pub connection: OwnedFd,
    /// What the kernel believes of it.
    pub state: OwnedFd,
    /// The root of the directory below.
    pub root: OwnedFd,
    /// What is not found by names.
    pub parked: HashMap<Parked, OwnedFd>,
}

/// All that the agent before has left of overlays.
#[derive(Debug, Default)]
pub struct Left {
    /// The overlays, by their numbers.
    pub overlays: Vec<LeftOverlay>,
    /// Watched directories under their overlays, by their numbers.
    pub directories: HashMap<u32, OwnedFd>,
}

/// Parts of an overlay.
#[derive(Default)]
struct Parts {
    connection: Option<OwnedFd>,
    state: Option<OwnedFd>,
    root: Option<OwnedFd>,
    parked: HashMap<Parked, OwnedFd>,
}

impl Left {
    /// Takes what `store` has. An overlay of which something is missing is let go of: it had not been attached yet, or was
    /// being removed.
    pub fn take(store: &Store) -> Self {
        let mut parts: BTreeMap<u32, Parts> = BTreeMap::new();
        let mut left = Self::default();
        for (name, fd) in store.take_of_overlays() {
            match name {
                Name::Overlay(number, part) => {
                    let parts = parts.entry(number).or_default();
                    match part {
                        OverlayPart::Connection => parts.connection = Some(fd),
                        OverlayPart::State => parts.state = Some(fd),
                        OverlayPart::Root => parts.root = Some(fd),
                        OverlayPart::Parked(node) => drop(parts.parked.insert(Parked::Node(node), fd)),
                        OverlayPart::Open(handle) => drop(parts.parked.insert(Parked::Open(handle), fd)),
                    }
                }
                Name::Directory(number, DirectoryPart::Real) => drop(left.directories.insert(number, fd)),
                Name::Fifo(..) | Name::Agent(_) => {}
            }
        }
        for (number, parts) in parts {
            let Parts { connection: Some(connection), state: Some(state), root: Some(root), parked } = parts
            else {
                tracing::info!("overlay {number} was not finished, or was being taken off: letting go of it");
                store.remove_overlay(number);
                continue;
            };
            left.overlays.push(LeftOverlay { number, connection, state, root, parked });
        }
        left
    }
}

/// An overlay that was left, and that can be gone on with.
pub struct Resumable {
    /// Under which it is kept.
    pub number: u32,
    /// What the services have to know.
    pub facts: Facts,
    /// The kernel's connection.
    pub connection: OwnedFd,
    /// What was settled with the kernel.
    pub negotiated: Negotiated,
    /// What the kernel believes of it.
    pub state: state::Left,
    /// The root of the directory below.
    pub root: OwnedFd,
    /// What is not found by names.
    pub parked: HashMap<Parked, OwnedFd>,
}

impl Resumable {
    /// Reads what `left` says of itself.
    ///
    /// # Errors
    /// If that cannot be understood.
    pub fn of(left: LeftOverlay) -> Result<Self> {
        let LeftOverlay { number, connection, state, root, parked } = left;
        let state = State::open(state)?;
        let (connection_facts, service_facts) =
            [state::Facts::Connection, state::Facts::Service].map(|kind| state.state.facts(kind)).into();
        let negotiated = connection_facts.and_then(|bytes| Negotiated::from_bytes(&bytes));
        let negotiated = negotiated.context("it does not say what was settled with the kernel")?;
        let facts = service_facts.and_then(|bytes| Facts::from_bytes(&bytes));
        let facts = facts.context("it does not say where it is")?;
        Ok(Self { number, facts, connection, negotiated, state, root, parked })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_said_of_an_overlay_is_read_back(
            path in "/[^\0]{0,20}", at in "[^\0]{0,20}", directory in any::<u32>(), below in any::<bool>(), keep in any::<bool>(),
        ) {
            let facts = Facts {
                part: if below { Part::Below } else { Part::Directory },
                on_agent_exit: if keep { OnAgentExit::Keep } else { OnAgentExit::Unmount },
                device: Device("0:47".to_owned()),
                directory,
                path: path.into(),
                at: at.into(),
            };
            prop_assert_eq!(Facts::from_bytes(&facts.to_bytes()), Some(facts));
        }

        #[test]
        fn any_bytes_are_understood_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
            prop_assert!(Facts::from_bytes(&bytes).is_none_or(|facts| facts.to_bytes() == bytes));
        }
    }
}
