//! The formats without structure: `text` and `raw`.

use super::{
    event::{LossEvent, WriteEvent},
    format::{Encode, Form},
    timestamp::TimestampWriter,
};

/// `TIMESTAMP: PATH: MESSAGE`; a loss is `TIMESTAMP: bywash: LOST ...`, what a quota withholds `bywash: WITHHELD ...`.
pub struct Text {
    time: TimestampWriter,
}

impl Text {
    /// The format's encoder.
    pub fn new() -> Self {
        Self { time: TimestampWriter::new() }
    }
}

impl Encode for Text {
    fn form(&self) -> Form {
        Form::Plain
    }

    fn head(&mut self, event: &WriteEvent<'_>, out: &mut Vec<u8>) {
        self.time.push(event.time_ns, out);
        out.extend_from_slice(b": ");
        out.extend_from_slice(event.path);
        out.extend_from_slice(b": ");
    }

    fn tail(&mut self, _: &WriteEvent<'_>, _: bool, _: &mut Vec<u8>) {}

    fn loss(&mut self, event: &LossEvent<'_>, out: &mut Vec<u8>) -> bool {
        self.time.push(event.last_ns, out);
        let fate: &[u8] = if event.is_withheld() { b": bywash: WITHHELD " } else { b": bywash: LOST " };
        out.extend_from_slice(fate);
        out.extend_from_slice(event.reason.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(event.sentence().as_bytes());
        true
    }

    fn fitting(&self, message: &[u8], room_bytes: usize) -> usize {
        message.len().min(room_bytes)
    }
}

/// The written bytes alone. A loss is nothing that a reader of these bytes could tell from data, so it does not
/// appear in them; the log and the counters have it.
pub struct Raw;

impl Encode for Raw {
    fn form(&self) -> Form {
        Form::Plain
    }

    fn head(&mut self, _: &WriteEvent<'_>, _: &mut Vec<u8>) {}

    fn tail(&mut self, _: &WriteEvent<'_>, _: bool, _: &mut Vec<u8>) {}

    fn loss(&mut self, _: &LossEvent<'_>, _: &mut Vec<u8>) -> bool {
        false
    }

    fn fitting(&self, message: &[u8], room_bytes: usize) -> usize {
        message.len().min(room_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event<'a>(message: &'a [u8]) -> WriteEvent<'a> {
        WriteEvent {
            path: b"/var/log/\xff",
            writer: None,
            unattributed: false,
            time_ns: 1_410_445_149_000_000_000,
            offset: 0,
            event_id: "u-1",
            sequence: 1,
            part: None,
            piece: None,
            message,
        }
    }

    fn loss() -> LossEvent<'static> {
        LossEvent {
            reason: "ring_full",
            path: None,
            events: 2,
            bytes: 30,
            first_ns: 0,
            last_ns: 1_000_000_000,
            event_id: "u-2",
            sequence: Some(2),
        }
    }

    #[test]
    fn text_is_time_path_and_message_as_they_are() {
        let mut out = Vec::new();
        Text::new().write(&event(b"a\xfe\n"), &mut out);
        assert_eq!(out, b"2014-09-11T14:19:09.000+0000: /var/log/\xff: a\xfe\n");
    }

    #[test]
    fn text_names_losses() {
        let mut out = Vec::new();
        assert!(Text::new().loss(&loss(), &mut out));
        let line = "1970-01-01T00:00:01.000+0000: bywash: LOST ring_full: \
                    2 writes (30 bytes) were lost: the ring was full";
        assert_eq!(String::from_utf8(out).unwrap(), line);
    }

    #[test]
    fn what_a_quota_withholds_is_not_called_lost() {
        let mut out = Vec::new();
        Text::new().loss(&LossEvent { reason: "quota", path: Some(b"/f"), ..loss() }, &mut out);
        let line = "1970-01-01T00:00:01.000+0000: bywash: WITHHELD quota: \
                    2 writes (30 bytes) to /f were withheld: faster than the quota of their file";
        assert_eq!(String::from_utf8(out).unwrap(), line);
    }

    #[test]
    fn raw_is_the_message_and_never_anything_else() {
        let mut out = Vec::new();
        Raw.write(&event(b"a\0b"), &mut out);
        assert!(!Raw.loss(&loss(), &mut out));
        assert_eq!(out, b"a\0b");
    }
}
