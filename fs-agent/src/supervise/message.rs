//! What the agent says to its supervisor (sd_notify(3)): a variable with its value on each line.

/// What is to be done with the descriptors that came along.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wish<'a> {
    /// Nothing.
    #[default]
    None,
    /// They are kept under a name.
    Keep(&'a str),
    /// What is kept under a name is let go of.
    LetGo(&'a str),
    /// They are closed, now that all messages before this one were heeded.
    Barrier,
}

/// A message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Message<'a> {
    /// As to descriptors.
    pub wish: Wish<'a>,
    /// The agent listens to everything.
    pub is_ready: bool,
    /// It is about to end.
    pub is_stopping: bool,
}

/// What systemd calls a descriptor that was given no name.
const NAMELESS: &str = "stored";

impl<'a> Message<'a> {
    /// Reads a message. What it does not know it passes over.
    pub fn parse(text: &'a str) -> Self {
        let has = |line: &str| text.lines().any(|l| l == line);
        let name = text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or(NAMELESS);
        let wish = if has("FDSTOREREMOVE=1") {
            Wish::LetGo(name)
        } else if has("FDSTORE=1") {
            Wish::Keep(name)
        } else if has("BARRIER=1") {
            Wish::Barrier
        } else {
            Wish::None
        };
        Self { wish, is_ready: has("READY=1"), is_stopping: has("STOPPING=1") }
    }

    /// Whether a manager above the supervisor is to hear it. That the agent stops does not mean that the service does.
    pub fn is_forwarded(&self) -> bool {
        self.wish == Wish::None && !self.is_stopping
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_is_understood() {
        let keep = Message::parse("FDSTORE=1\nFDNAME=o1.fuse\nFDPOLL=0");
        assert_eq!((keep.wish, keep.is_forwarded()), (Wish::Keep("o1.fuse"), false));
        assert_eq!(Message::parse("FDSTORE=1").wish, Wish::Keep("stored"));
        assert_eq!(Message::parse("FDSTOREREMOVE=1\nFDNAME=a").wish, Wish::LetGo("a"));
        assert_eq!(Message::parse("BARRIER=1").wish, Wish::Barrier);
        let ready = Message::parse("READY=1\n");
        assert!(ready.is_ready && ready.is_forwarded() && ready.wish == Wish::None);
        let stopping = Message::parse("STOPPING=1\nEXTEND_TIMEOUT_USEC=1\n");
        assert!(stopping.is_stopping && !stopping.is_forwarded());
        assert!(Message::parse("WATCHDOG=1").is_forwarded());
        assert_eq!(Message::parse("READY=10\nXFDSTORE=1\n"), Message::default());
    }
}
