//! What an overlay's entry in the kernel's table of mounts says of itself.
//!
//! The table outlives the agent and its configuration: `fs-agent cleanup` and the next agent go by it.

use std::fmt;

use bywash_common::config::OnAgentExit;

/// The type of overlays, with the subtype, as /proc/self/mountinfo shows it.
pub const FS_TYPE: &str = "fuse.bywash";

/// The subtype alone.
pub const SUBTYPE: &str = "bywash";

/// Which part of a watched directory an overlay covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The directory itself.
    Directory,
    /// A filesystem that is mounted below the directory. Its overlay is attached to the one of the directory.
    Below,
}

/// The source of an overlay's mount: `bywash[-below][+keep]:RING`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Which part it covers.
    pub part: Part,
    /// `agent.on_agent_exit` when it was mounted.
    pub on_agent_exit: OnAgentExit,
    /// `ring.name` of its agent.
    pub ring: String,
}

const BELOW: &str = "-below";
const KEEP: &str = "+keep";

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = if self.part == Part::Below { BELOW } else { "" };
        let keep = if self.on_agent_exit == OnAgentExit::Keep { KEEP } else { "" };
        write!(f, "{SUBTYPE}{part}{keep}:{}", self.ring)
    }
}

impl Label {
    /// Reads the source of a mount. Ring names hold no colon, so the first one ends what stands before the name.
    pub fn parse(source: &str) -> Option<Self> {
        let (head, ring) = source.split_once(':')?;
        let head = head.strip_prefix(SUBTYPE)?;
        let (part, head) = match head.strip_prefix(BELOW) {
            Some(head) => (Part::Below, head),
            None => (Part::Directory, head),
        };
        let on_agent_exit = match head {
            "" => OnAgentExit::Unmount,
            KEEP => OnAgentExit::Keep,
            _ => return None,
        };
        Some(Self { part, on_agent_exit, ring: ring.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_survives_the_table() {
        for part in [Part::Directory, Part::Below] {
            for on_agent_exit in [OnAgentExit::Unmount, OnAgentExit::Keep] {
                let label = Label { part, on_agent_exit, ring: "a-b+c".to_owned() };
                assert_eq!(Label::parse(&label.to_string()), Some(label));
            }
        }
    }

    #[test]
    fn the_source_of_an_agent_before_labels_is_understood() {
        let label =
            Label { part: Part::Directory, on_agent_exit: OnAgentExit::Unmount, ring: "one".to_owned() };
        assert_eq!(Label::parse("bywash:one"), Some(label));
    }

    #[test]
    fn other_sources_have_no_label() {
        for source in ["", "bywash", "sshfs:one", "bywash-above:one", "bywash+keep-below:one", "/dev/sda"] {
            assert_eq!(Label::parse(source), None, "{source}");
        }
    }
}
