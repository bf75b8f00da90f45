//! Signed tokens (JSON Web Tokens, RFC 7519, by HS256).

use base64_simd::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use serde_json::{Value, json};

/// The token of a subject, signed with a key, that lasts so many seconds.
pub fn make(subject: &str, key: &str, seconds: i64) -> String {
    let now = Timestamp::now().as_second();
    let part = |value: Value| URL_SAFE_NO_PAD.encode_to_string(value.to_string());
    let head = part(json!({ "alg": "HS256", "typ": "JWT" }));
    let claims = part(json!({ "sub": subject, "iat": now, "exp": now + seconds }));
    let signed = format!("{head}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode_to_string(hmac::sign(&by(key), signed.as_bytes()));
    format!("{signed}.{signature}")
}

/// Whose token it is, if this key has signed it and it is not over.
pub(super) fn subject_of(token: &str, key: &str) -> Option<String> {
    let (signed, signature) = token.rsplit_once('.')?;
    let signature = URL_SAFE_NO_PAD.decode_to_vec(signature).ok()?;
    hmac::verify(&by(key), signed.as_bytes(), &signature).ok()?;
    let claims = URL_SAFE_NO_PAD.decode_to_vec(signed.split_once('.')?.1).ok()?;
    let claims: Value = serde_json::from_slice(&claims).ok()?;
    let is_valid = claims["exp"].as_i64()? > Timestamp::now().as_second();
    is_valid.then(|| claims["sub"].as_str().map(str::to_owned))?
}

fn by(key: &str) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes())
}
