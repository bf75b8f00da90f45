//! The names of events.
//!
//! | event | rendered |
//! |---|---|
//! | a record's bytes, all of them and no others | `<ring>-<sequence>` |
//! | some bytes of a record, and those that follow them: a part of a large write, a line | `<ring>-<sequence>.<begin>+<length>` |
//! | the agent's news that it lost writes, which is a record | `<ring>-<sequence>.lost` |
//! | the news that a record cannot be decoded | `<ring>-<sequence>.corrupt` |
//! | the news that a record will never be delivered | `<ring>-<sequence>.undeliverable` |
//! | the news that part of the ring is damaged, by position | `<ring>-damage.<begin>+<length>` |
//! | the news that records of the spool are missing | `<ring>-gap.<first>+<records>` |
//! | the news that events are too old to be sent: where the first begins, and how many | `<ring>-too_old.<sequence>.<begin>+<events>` |
//! | the news that an operator has discarded records: those before, and how many | `<ring>-discarded.<before>+<records>` |
//!
//! The ring is its uuid. Whatever is sent again has the same id, and one id never stands for two contents: a part is named
//! after its bytes, as limits may have changed when it is sent again.
//!
//! Dead letters and checkpoints may hold ids of the version before: all parts of a write had that of the write,
//! damage was `<ring>-corrupt-<end>`, a gap `<ring>-gap-<first>`. They are read, and rendered as they were.

use std::{
    fmt::{self, Display},
    str::FromStr,
};

use uuid::Uuid;

/// Some bytes of the writes through one handle, that follow one another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stretch {
    /// Where in the record they begin.
    pub begin: usize,
    /// How many they are; they may go on in later records.
    pub len: usize,
}

impl Stretch {
    /// None if these are all bytes of a record of `record_len` bytes.
    pub fn unless_all_of(self, record_len: usize) -> Option<Self> {
        (self.begin > 0 || self.len != record_len).then_some(self)
    }

    /// The byte behind the last one, counted from the beginning of the record.
    pub fn end(self) -> usize {
        self.begin.saturating_add(self.len)
    }
}

/// What an event tells beside bytes that were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum News {
    /// The agent could not, or was not to, take some writes: a record says so.
    Lost {
        /// That record's number.
        sequence: u64,
    },
    /// A record is neither a write nor a loss.
    Corrupt {
        /// Its number.
        sequence: u64,
    },
    /// The sink refuses a record for good, and it cannot be kept.
    Undeliverable {
        /// Its number.
        sequence: u64,
    },
    /// A part of the ring cannot be read.
    Damage {
        /// The position at which it begins; at which it ends where the length is not known.
        position: u64,
        /// Its bytes. None in the version before.
        len: Option<u64>,
    },
    /// Records of the spool are missing.
    Gap {
        /// The number of the first of them.
        first: u64,
        /// How many; 0 if nobody knows. None in the version before.
        records: Option<u64>,
    },
    /// Events were too old to be sent.
    Expired {
        /// The number of the record in which the first of them begins.
        sequence: u64,
        /// Where in that record.
        begin: usize,
        /// How many.
        events: u64,
    },
    /// An operator has discarded records.
    Discarded {
        /// How many were discarded that other news have told of.
        before: u64,
        /// How many these are.
        records: u64,
    },
}

impl News {
    /// The number of the record that it is, or is about.
    pub fn sequence(self) -> Option<u64> {
        match self {
            Self::Lost { sequence }
            | Self::Corrupt { sequence }
            | Self::Undeliverable { sequence }
            | Self::Expired { sequence, .. } => Some(sequence),
            Self::Damage { .. } | Self::Gap { .. } | Self::Discarded { .. } => None,
        }
    }
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// Bytes of a write.
    Bytes {
        /// The number of the record in which they begin.
        sequence: u64,
        /// Which bytes; none for all of that record's and no others.
        stretch: Option<Stretch>,
    },
    /// News.
    News(News),
}

/// The name of an event: the same whenever the same is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    /// The ring that it came through.
    pub ring: Uuid,
    /// What it is about.
    pub subject: Subject,
}

/// A text is no event's id.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("`{0}` is not the id of an event: `<ring uuid>-<sequence>` or the like")]
pub struct NotAnId(String);

/// The most bytes of an id's rendering: a uuid, a dash, a word, three numbers of 20 digits at most and what stands between them.
pub const EVENT_ID_BYTES_MAX: usize = 36 + 1 + "too_old.".len() + 3 * 20 + 2;

impl Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Bytes { sequence, stretch: None } => write!(f, "{sequence}"),
            Self::Bytes { sequence, stretch: Some(Stretch { begin, len }) } => {
                write!(f, "{sequence}.{begin}+{len}")
            }
            Self::News(news) => match news {
                News::Lost { sequence } => write!(f, "{sequence}.lost"),
                News::Corrupt { sequence } => write!(f, "{sequence}.corrupt"),
                News::Undeliverable { sequence } => write!(f, "{sequence}.undeliverable"),
                News::Damage { position, len: Some(len) } => write!(f, "damage.{position}+{len}"),
                News::Damage { position, len: None } => write!(f, "corrupt-{position}"),
                News::Gap { first, records: Some(records) } => write!(f, "gap.{first}+{records}"),
                News::Gap { first, records: None } => write!(f, "gap-{first}"),
                News::Expired { sequence, begin, events } => write!(f, "too_old.{sequence}.{begin}+{events}"),
                News::Discarded { before, records } => write!(f, "discarded.{before}+{records}"),
            },
        }
    }
}

impl Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ring, self.subject)
    }
}

/// A number as it is rendered: digits, and no zeros in front of others.
fn number<T: FromStr>(text: &str) -> Option<T> {
    let is_rendered =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    if is_rendered { text.parse().ok() } else { None }
}

/// Two numbers, `<one>+<other>`.
fn numbers<T: FromStr>(text: &str) -> Option<(T, T)> {
    let (one, other) = text.split_once('+')?;
    Some((number(one)?, number(other)?))
}

impl Subject {
    fn parse(text: &str) -> Option<Self> {
        if let Some(rest) = text.strip_prefix("damage.") {
            let (position, len) = numbers(rest)?;
            return Some(Self::News(News::Damage { position, len: Some(len) }));
        }
        if let Some(rest) = text.strip_prefix("gap.") {
            let (first, records) = numbers(rest)?;
            return Some(Self::News(News::Gap { first, records: Some(records) }));
        }
        if let Some(rest) = text.strip_prefix("discarded.") {
            let (before, records) = numbers(rest)?;
            return Some(Self::News(News::Discarded { before, records }));
        }
        if let Some(rest) = text.strip_prefix("too_old.") {
            let (sequence, rest) = rest.split_once('.')?;
            let (begin, events) = rest.split_once('+')?;
            let (sequence, begin, events) = (number(sequence)?, number(begin)?, number(events)?);
            return Some(Self::News(News::Expired { sequence, begin, events }));
        }
        if let Some(rest) = text.strip_prefix("corrupt-") {
            return Some(Self::News(News::Damage { position: number(rest)?, len: None }));
        }
        if let Some(rest) = text.strip_prefix("gap-") {
            return Some(Self::News(News::Gap { first: number(rest)?, records: None }));
        }
        let Some((sequence, rest)) = text.split_once('.') else {
            return Some(Self::Bytes { sequence: number(text)?, stretch: None });
        };
        let sequence = number(sequence)?;
        Some(match rest {
            "lost" => Self::News(News::Lost { sequence }),
            "corrupt" => Self::News(News::Corrupt { sequence }),
            "undeliverable" => Self::News(News::Undeliverable { sequence }),
            stretch => {
                let (begin, len) = numbers(stretch)?;
                Self::Bytes { sequence, stretch: Some(Stretch { begin, len }) }
            }
        })
    }
}

impl EventId {
    /// The number of the record that it is about, if it is one.
    pub fn sequence(&self) -> Option<u64> {
        match self.subject {
            Subject::Bytes { sequence, .. } => Some(sequence),
            Subject::News(news) => news.sequence(),
        }
    }

    /// Reads what [`Display`] renders, and nothing else.
    fn parse(text: &str) -> Option<Self> {
        let (ring, rest) = text.split_at_checked(uuid::fmt::Hyphenated::LENGTH)?;
        let uuid = Uuid::try_parse(ring).ok()?;
        let mut rendered = [0; uuid::fmt::Hyphenated::LENGTH];
        let is_rendered = uuid.hyphenated().encode_lower(&mut rendered) == ring;
        let subject = Subject::parse(rest.strip_prefix('-')?)?;
        is_rendered.then_some(Self { ring: uuid, subject })
    }
}

impl FromStr for EventId {
    type Err = NotAnId;

    fn from_str(text: &str) -> Result<Self, NotAnId> {
        Self::parse(text).ok_or_else(|| NotAnId(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_subject() -> impl Strategy<Value = Subject> {
        let news = (any::<(u64, Option<u64>)>(), 0..7).prop_map(|((a, b), kind)| match kind {
            0 => News::Lost { sequence: a },
            1 => News::Corrupt { sequence: a },
            2 => News::Undeliverable { sequence: a },
            3 => News::Damage { position: a, len: b },
            4 => News::Discarded { before: a, records: b.unwrap_or_default() },
            5 => News::Expired { sequence: a, begin: a as usize, events: b.unwrap_or_default() },
            _ => News::Gap { first: a, records: b },
        });
        let stretch = any::<Option<(usize, usize)>>();
        let stretch = stretch.prop_map(|stretch| stretch.map(|(begin, len)| Stretch { begin, len }));
        prop_oneof![
            (any::<u64>(), stretch).prop_map(|(sequence, stretch)| Subject::Bytes { sequence, stretch }),
            news.prop_map(Subject::News),
        ]
    }

    fn any_id() -> impl Strategy<Value = EventId> {
        (any::<u128>(), any_subject())
            .prop_map(|(ring, subject)| EventId { ring: Uuid::from_u128(ring), subject })
    }

    proptest! {
        #[test]
        fn an_id_is_read_as_it_is_rendered_and_is_no_longer_than_reckoned(id in any_id()) {
            let text = id.to_string();
            prop_assert_eq!(text.parse(), Ok(id));
            prop_assert!(text.len() <= EVENT_ID_BYTES_MAX);
        }

        #[test]
        fn two_ids_have_two_renderings(one in any_id(), other in any_id()) {
            prop_assert_eq!(one == other, one.to_string() == other.to_string());
        }

        #[test]
        fn any_text_is_an_id_that_renders_so_or_none(
            text in prop_oneof![any::<String>(), "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}-[0-9.+a-z-]{0,12}"],
        ) {
            if let Ok(id) = text.parse::<EventId>() {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }

    #[test]
    fn ids_of_the_version_before_are_read_and_rendered_as_they_were() {
        const RING: &str = "0c4e8a52-11f2-4b6a-9a4e-7d1f2b6f6a11";
        for (rest, subject) in [
            ("7", Subject::Bytes { sequence: 7, stretch: None }),
            ("7.3+20", Subject::Bytes { sequence: 7, stretch: Some(Stretch { begin: 3, len: 20 }) }),
            ("corrupt-640", Subject::News(News::Damage { position: 640, len: None })),
            ("gap-5", Subject::News(News::Gap { first: 5, records: None })),
        ] {
            let text = format!("{RING}-{rest}");
            let id: EventId = text.parse().unwrap();
            assert_eq!((id.subject, id.to_string()), (subject, text));
        }
    }

    #[test]
    fn what_is_no_id_is_named() {
        let error = "u-1".parse::<EventId>().unwrap_err();
        assert!(error.to_string().contains("`u-1`"), "{error}");
    }
}
