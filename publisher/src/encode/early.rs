//! A write's bytes, encoded as they come out of the ring: read there once, and written once to where the sink reads them.
//!
//! What comes in front of them in the event is known only once all of the record is: it is put into a room that is kept free
//! for it.

use bywash_common::record::Write;

use super::{format::Form, json};

/// Room in front of the message. What does not fit there moves the message.
const ROOM_BYTES: usize = 4 << 10;
/// A description is shorter: both texts at their longest, and numbers.
const DESCRIPTION_BYTES_MAX: usize = 9 << 10;

/// How far a record is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    /// Its description has not ended.
    Description,
    /// Its bytes stay in the payload, as they are.
    Whole,
    /// Its description has so many bytes, and what follows is encoded.
    Message { description_bytes: usize },
}

/// The message of one record at a time.
pub struct Early {
    form: Form,
    at: At,
    /// The room, and the message as far as it has come.
    event: Vec<u8>,
    /// How many bytes of the message that is.
    message_bytes: usize,
}

impl Early {
    /// For messages of that form.
    pub fn new(form: Form) -> Self {
        Self { form, at: At::Whole, event: vec![0; ROOM_BYTES], message_bytes: 0 }
    }

    /// Another record begins.
    pub fn begin(&mut self) {
        self.at = At::Description;
        self.message_bytes = 0;
        // What is in the room does not matter.
        self.event.resize(self.event.len().max(ROOM_BYTES), 0);
        self.event.truncate(ROOM_BYTES);
    }

    /// More of a write's payload has been appended to `payload`, and `left` bytes are still to come: takes what can be encoded
    /// out of it, if `goes` says so of the description and the number of the message's bytes.
    pub fn came(&mut self, payload: &mut Vec<u8>, left: usize, goes: impl FnOnce(&Write<'_>, usize) -> bool) {
        if self.at == At::Description {
            match Write::decode(payload) {
                Ok((write, message)) if goes(&write, message.len() + left) => {
                    self.at = At::Message { description_bytes: payload.len() - message.len() };
                }
                Err(_) if payload.len() < DESCRIPTION_BYTES_MAX => {}
                Ok(_) | Err(_) => self.at = At::Whole,
            }
        }
        if let At::Message { description_bytes } = self.at {
            self.take(payload, description_bytes, left == 0);
        }
    }

    fn take(&mut self, payload: &mut Vec<u8>, at: usize, is_all: bool) {
        let Some(bytes) = payload.get(at..) else { return };
        let taken = match self.form {
            Form::Base64 if !is_all => Some(bytes.len() / 3 * 3),
            Form::Plain | Form::Base64 => Some(bytes.len()),
            Form::Json => json::push_beginning(bytes, is_all, &mut self.event),
        };
        let Some(taken) = taken else {
            // It is no text: the exact bytes are needed.
            let message = self.take_back();
            payload.splice(at..at, message);
            self.at = At::Whole;
            return;
        };
        if self.form != Form::Json {
            self.form.push(&bytes[..taken], &mut self.event);
        }
        self.message_bytes += taken;
        payload.drain(at..at + taken);
    }

    /// Whether the message of the record that was read is here, and not in its payload; how many bytes of the write it is then.
    pub fn message_bytes(&self) -> Option<usize> {
        matches!(self.at, At::Message { .. }).then_some(self.message_bytes)
    }

    /// In which form its messages are.
    pub fn form(&self) -> Form {
        self.form
    }

    /// Bytes of the message as it is encoded.
    pub fn encoded_bytes(&self) -> usize {
        self.event.len() - ROOM_BYTES
    }

    /// The written bytes again. Not to be called after [`Self::event`].
    pub fn take_back(&self) -> Vec<u8> {
        let encoded = &self.event[ROOM_BYTES..];
        let bytes = match self.form {
            Form::Plain => Some(encoded.to_vec()),
            // Of each form, what was made of a text or of bytes here.
            Form::Base64 => base64_simd::STANDARD.decode_to_vec(encoded).ok(),
            Form::Json => {
                let quoted = [b"\"", encoded, b"\""].concat();
                serde_json::from_slice(&quoted).ok().map(String::into_bytes)
            }
        };
        bytes.unwrap_or_default()
    }

    /// The event: the message between `head` and `tail`.
    pub fn event(&mut self, head: &[u8], tail: &[u8]) -> &[u8] {
        self.event.extend_from_slice(tail);
        match ROOM_BYTES.checked_sub(head.len()) {
            Some(begin) => {
                self.event[begin..ROOM_BYTES].copy_from_slice(head);
                &self.event[begin..]
            }
            None => {
                self.event.splice(..ROOM_BYTES, head.iter().copied());
                &self.event
            }
        }
    }
}
