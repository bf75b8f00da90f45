//! The names of what is kept. One rendering, one parser: the names outlive the agent that gave them.

use std::fmt;

/// What a kept descriptor is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Name {
    /// A part of an overlay: `oN.WHAT`. No number is used twice in a store's life.
    Overlay(u32, OverlayPart),
    /// A part of a watched directory: `dN.WHAT`.
    Directory(u32, DirectoryPart),
    /// A part of a FIFO: `fN.WHAT`.
    Fifo(u32, FifoPart),
    /// What belongs to the agent as a whole: `a0.WHAT`.
    Agent(AgentPart),
}

/// What there is of an overlay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OverlayPart {
    /// `fuse`: the kernel's connection.
    Connection,
    /// `state`: the memory that says what the kernel believes.
    State,
    /// `root`: the root of the directory below.
    Root,
    /// `pID`, in hexadecimal digits: a file that no name leads to, by the number of its node.
    Parked(u64),
    /// `hID`, in hexadecimal digits: what is open and cannot be opened again, by its handle.
    Open(u64),
}

/// What there is of a watched directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DirectoryPart {
    /// `real`: the directory under its overlay, in the tree of mounts.
    Real,
}

/// What there is of a FIFO.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FifoPart {
    /// `pipe`: the reading end.
    Pipe,
    /// `rest`: what was read of it and is not dealt with.
    Rest,
}

/// What there is of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AgentPart {
    /// `state`: what belongs to no overlay.
    State,
}

/// The longest rendering in bytes: `o`, ten digits, `.p`, sixteen digits.
pub const NAME_BYTES_MAX: usize = 1 + 10 + 2 + 16;

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Overlay(n, OverlayPart::Connection) => write!(f, "o{n}.fuse"),
            Self::Overlay(n, OverlayPart::State) => write!(f, "o{n}.state"),
            Self::Overlay(n, OverlayPart::Root) => write!(f, "o{n}.root"),
            Self::Overlay(n, OverlayPart::Parked(node)) => write!(f, "o{n}.p{node:x}"),
            Self::Overlay(n, OverlayPart::Open(handle)) => write!(f, "o{n}.h{handle:x}"),
            Self::Directory(n, DirectoryPart::Real) => write!(f, "d{n}.real"),
            Self::Fifo(n, FifoPart::Pipe) => write!(f, "f{n}.pipe"),
            Self::Fifo(n, FifoPart::Rest) => write!(f, "f{n}.rest"),
            Self::Agent(AgentPart::State) => f.write_str("a0.state"),
        }
    }
}

impl Name {
    /// Reads a name. None for what no agent of this version has given: also for other spellings of the same numbers.
    pub fn parse(text: &str) -> Option<Self> {
        let (owner, what) = text.split_once('.')?;
        let (kind, number) = owner.split_at_checked(1)?;
        let n: u32 = number.parse().ok()?;
        let name = match (kind, what) {
            ("o", "fuse") => Self::Overlay(n, OverlayPart::Connection),
            ("o", "state") => Self::Overlay(n, OverlayPart::State),
            ("o", "root") => Self::Overlay(n, OverlayPart::Root),
            ("o", what) => {
                let (kind, number) = what.split_at_checked(1)?;
                let number = u64::from_str_radix(number, 16).ok()?;
                let part = match kind {
                    "p" => OverlayPart::Parked(number),
                    "h" => OverlayPart::Open(number),
                    _ => return None,
                };
                Self::Overlay(n, part)
            }
            ("d", "real") => Self::Directory(n, DirectoryPart::Real),
            ("f", "pipe") => Self::Fifo(n, FifoPart::Pipe),
            ("f", "rest") => Self::Fifo(n, FifoPart::Rest),
            ("a", "state") => Self::Agent(AgentPart::State),
            _ => return None,
        };
        (name.to_string() == text).then_some(name)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn names() -> impl Strategy<Value = Name> {
        (any::<u32>(), any::<u64>(), 0..9).prop_map(|(n, node, which)| match which {
            0 => Name::Overlay(n, OverlayPart::Connection),
            1 => Name::Overlay(n, OverlayPart::State),
            2 => Name::Overlay(n, OverlayPart::Root),
            3 => Name::Overlay(n, OverlayPart::Parked(node)),
            4 => Name::Directory(n, DirectoryPart::Real),
            5 => Name::Fifo(n, FifoPart::Pipe),
            6 => Name::Fifo(n, FifoPart::Rest),
            7 => Name::Overlay(n, OverlayPart::Open(node)),
            _ => Name::Agent(AgentPart::State),
        })
    }

    proptest! {
        #[test]
        fn a_name_is_read_back(name in names()) {
            let text = name.to_string();
            prop_assert_eq!(Name::parse(&text), Some(name));
            // What systemd takes as the name of a descriptor (fdname_is_valid() of its src/basic/fd-util.c).
            prop_assert!(text.bytes().all(|b| b.is_ascii_graphic() && b != b':'));
            prop_assert!(text.len() <= NAME_BYTES_MAX);
        }

        #[test]
        fn any_text_is_a_name_in_one_spelling_or_none(text in "[oadf]?[+0-9]{0,3}\\.?[a-z]{0,5}[0-9a-fA-F]{0,3}") {
            if let Some(name) = Name::parse(&text) {
                prop_assert_eq!(name.to_string(), text);
            }
        }
    }

    #[test]
    fn other_texts_are_no_names() {
        for text in [
            "", "stored", "o1", "o1.", "o.fuse", "o+1.fuse", "o01.fuse", "o1.p", "o1.pA", "a1.state",
            "é.fuse",
        ] {
            assert_eq!(Name::parse(text), None, "{text}");
        }
    }
}
