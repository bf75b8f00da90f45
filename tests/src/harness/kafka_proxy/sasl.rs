//! The server's side of SASL in Kafka's protocol: PLAIN (RFC 4616), SCRAM (RFC 5802, 7677) and OAUTHBEARER (RFC 7628).

use std::{io, num::NonZeroU32};

use ring::{digest, hmac, pbkdf2};

use super::{api_key, iam, jwt};

/// The keys of the requests.
const API_VERSIONS: i16 = 18;
const SASL_HANDSHAKE: i16 = 17;
const SASL_AUTHENTICATE: i16 = 36;
/// Error codes.
const NONE: i16 = 0;
const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
const SASL_AUTHENTICATION_FAILED: i16 = 58;

const SALT: &[u8] = b"not very random";
const ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).unwrap();
const SERVER_NONCE: &str = "theserverspart";

/// How a client shows who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mechanism {
    /// It says its password.
    Plain,
    /// It shows that it knows its password.
    ScramSha256,
    /// The same, by another digest.
    ScramSha512,
    /// It has a token; an unsigned one, here.
    OAuthBearer,
    /// It has a token that AWS's credentials have signed.
    AwsIam,
    /// It has a token that an endpoint has given it.
    Oidc,
}

impl Mechanism {
    /// As `sasl.mechanism` has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
            Self::OAuthBearer | Self::AwsIam | Self::Oidc => "OAUTHBEARER",
        }
    }
}

/// Who may come in, and how.
#[derive(Clone, Debug)]
pub struct Account {
    /// How.
    pub mechanism: Mechanism,
    /// Name, the token's subject, or AWS's access key.
    pub user: String,
    /// What the user knows; of a token, the secret that signs it.
    pub password: String,
}

/// What one side of SCRAM has said so far.
struct Scram {
    client_first: String,
    server_first: String,
}

/// How far a connection has come.
pub(super) struct Session {
    account: Account,
    scram: Option<Scram>,
    is_in: bool,
}

impl Session {
    pub(super) fn new(account: &Account) -> Self {
        Self { account: account.clone(), scram: None, is_in: false }
    }

    /// What the client is told at the door; nothing if the request is for the broker.
    ///
    /// # Errors
    /// Whoever has not come in and asks for anything else is cut off, as brokers do.
    pub(super) fn answer(&mut self, request: &[u8]) -> io::Result<Option<Vec<u8>>> {
        let id_bytes = usize::try_from(i16::from_be_bytes([request[12], request[13]])).unwrap_or(0);
        let body = request.get(14 + id_bytes..).unwrap_or_default();
        let answer = match api_key(request) {
            API_VERSIONS => return Ok(None),
            SASL_HANDSHAKE => {
                let name = self.account.mechanism.name();
                let is_known = body.get(2..) == Some(name.as_bytes());
                let mut answer =
                    if is_known { NONE } else { UNSUPPORTED_SASL_MECHANISM }.to_be_bytes().to_vec();
                answer.extend(1_i32.to_be_bytes());
                answer.extend(text(name));
                answer
            }
            SASL_AUTHENTICATE => {
                let (error, reason, said) = match self.authenticate(body.get(4..).unwrap_or_default()) {
                    Some(said) => (NONE, (-1_i16).to_be_bytes().to_vec(), said),
                    None => (SASL_AUTHENTICATION_FAILED, text("Authentication failed"), Vec::new()),
                };
                let mut answer = error.to_be_bytes().to_vec();
                answer.extend(reason);
                answer.extend(i32::try_from(said.len()).expect("a short text").to_be_bytes());
                answer.extend(said);
                answer
            }
            _ if self.is_in => return Ok(None),
            _ => return Err(io::ErrorKind::PermissionDenied.into()),
        };
        // The request's number comes first.
        let length = u32::try_from(4 + answer.len()).expect("a short answer");
        Ok(Some([&length.to_be_bytes(), &request[8..12], &answer[..]].concat()))
    }

    /// Names the requests above among those that the broker knows.
    pub(super) fn declare(&self, request: &[u8], answer: &mut Vec<u8>) {
        if api_key(request) != API_VERSIONS || i16::from_be_bytes([answer[8], answer[9]]) != NONE {
            return;
        }
        let is_compact = i16::from_be_bytes([request[6], request[7]]) >= 3;
        for (api, version_max) in [(SASL_HANDSHAKE, 1_i16), (SASL_AUTHENTICATE, 0)] {
            let mut entry = [api.to_be_bytes(), [0, 0], version_max.to_be_bytes()].concat();
            if is_compact {
                // A count in seven bits, and no tagged fields.
                answer[10] += 1;
                assert!(answer[10] < 0x80, "the count takes another byte");
                entry.push(0);
                answer.splice(11..11, entry);
            } else {
                let count = i32::from_be_bytes([answer[10], answer[11], answer[12], answer[13]]) + 1;
                answer[10..14].copy_from_slice(&count.to_be_bytes());
                answer.splice(14..14, entry);
            }
        }
        let length = u32::try_from(answer.len() - 4).expect("a short answer");
        answer[..4].copy_from_slice(&length.to_be_bytes());
    }

    /// What the client is told in turn; nothing if it is turned away.
    fn authenticate(&mut self, said: &[u8]) -> Option<Vec<u8>> {
        let said = std::str::from_utf8(said).ok()?;
        let Account { user, password, .. } = &self.account;
        let answer = match self.account.mechanism {
            Mechanism::Plain => (said == format!("\0{user}\0{password}")).then(Vec::new)?,
            Mechanism::OAuthBearer => is_token_of(user, said).then(Vec::new)?,
            Mechanism::AwsIam => (iam::key_of(token_in(said)?, password)? == *user).then(Vec::new)?,
            Mechanism::Oidc => (jwt::subject_of(token_in(said)?, password)? == *user).then(Vec::new)?,
            Mechanism::ScramSha256 | Mechanism::ScramSha512 => {
                if self.scram.is_none() {
                    return self.begin_scram(said);
                }
                self.end_scram(said)?
            }
        };
        self.is_in = true;
        Some(answer)
    }

    fn begin_scram(&mut self, said: &str) -> Option<Vec<u8>> {
        let client_first = said.strip_prefix("n,,")?;
        let nonce = client_first.strip_prefix(&format!("n={},r=", self.account.user))?;
        let salt = base64_simd::STANDARD.encode_to_string(SALT);
        let server_first = format!("r={nonce}{SERVER_NONCE},s={salt},i={ITERATIONS}");
        self.scram =
            Some(Scram { client_first: client_first.to_owned(), server_first: server_first.clone() });
        Some(server_first.into_bytes())
    }

    fn end_scram(&mut self, said: &str) -> Option<Vec<u8>> {
        let scram = self.scram.take()?;
        let (without_proof, proof) = said.rsplit_once(",p=")?;
        let proof = base64_simd::STANDARD.decode_to_vec(proof).ok()?;
        let (of_password, hmac_of, digest_of) = match self.account.mechanism {
            Mechanism::ScramSha512 => (pbkdf2::PBKDF2_HMAC_SHA512, hmac::HMAC_SHA512, &digest::SHA512),
            _ => (pbkdf2::PBKDF2_HMAC_SHA256, hmac::HMAC_SHA256, &digest::SHA256),
        };
        let sign = |key: &[u8], text: &[u8]| hmac::sign(&hmac::Key::new(hmac_of, key), text);
        let mut salted = vec![0; digest_of.output_len()];
        pbkdf2::derive(of_password, ITERATIONS, SALT, self.account.password.as_bytes(), &mut salted);
        let said_by_both = format!("{},{},{without_proof}", scram.client_first, scram.server_first);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(digest_of, client_key.as_ref());
        let signature = sign(stored_key.as_ref(), said_by_both.as_bytes());
        let expected = client_key.as_ref().iter().zip(signature.as_ref()).map(|(key, by)| key ^ by);
        if !expected.eq(proof.iter().copied()) {
            return None;
        }
        let server_key = sign(&salted, b"Server Key");
        let signature = sign(server_key.as_ref(), said_by_both.as_bytes());
        Some(format!("v={}", base64_simd::STANDARD.encode_to_string(signature)).into_bytes())
    }
}

/// Whether a client has a token for this subject. Nobody has signed it.
fn is_token_of(user: &str, said: &str) -> bool {
    let claims = token_in(said).and_then(|token| token.split('.').nth(1));
    let claims = claims.and_then(|part| base64_simd::URL_SAFE_NO_PAD.decode_to_vec(part).ok());
    let claims: Option<serde_json::Value> = claims.and_then(|json| serde_json::from_slice(&json).ok());
    claims.is_some_and(|claims| claims["sub"] == user)
}

/// What a client shows (RFC 7628).
fn token_in(said: &str) -> Option<&str> {
    said.split('\x01').find_map(|part| part.strip_prefix("auth=Bearer "))
}

/// A text with its length in two bytes.
fn text(text: &str) -> Vec<u8> {
    [&i16::try_from(text.len()).expect("a short text").to_be_bytes(), text.as_bytes()].concat()
}
