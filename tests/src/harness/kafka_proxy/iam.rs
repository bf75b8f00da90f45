//! The broker's side of Amazon MSK's IAM: whether a token is an address that somebody's secret has signed, by the description of
//! AWS's signature (version 4, "query parameters") and nothing of the publisher's.

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use ring::{digest, hmac};

/// How far a token's time may be off.
const SKEW_MAX: SignedDuration = SignedDuration::from_mins(15);

/// The access key that a token is signed with, if its secret is `secret`.
pub(super) fn key_of(token: &str, secret: &str) -> Option<String> {
    let address = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(token).ok()?;
    let address = String::from_utf8(address).ok()?;
    let (host, query) = address.strip_prefix("https://")?.split_once("/?")?;
    let region = host.strip_prefix("kafka.")?.strip_suffix(".amazonaws.com")?;
    let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='));
    let date = value("X-Amz-Date")?;
    let time = DateTime::strptime("%Y%m%dT%H%M%SZ", date).ok()?.to_zoned(TimeZone::UTC).ok()?.timestamp();
    let is_now = Timestamp::now().duration_since(time).abs() < SKEW_MAX;
    let (key, scope) = value("X-Amz-Credential")?.split_once("%2F")?;
    let scope = scope.replace("%2F", "/");
    let is_connect = value("Action") == Some("kafka-cluster%3AConnect")
        && scope == format!("{}/{region}/kafka-cluster/aws4_request", &date[..8]);
    let is_signed = value("X-Amz-Signature")? == signature(host, query, date, &scope, secret);
    (is_now && is_connect && is_signed).then(|| key.to_owned())
}

fn signature(host: &str, query: &str, date: &str, scope: &str, secret: &str) -> String {
    let mut signed: Vec<&str> = query.split('&').collect();
    signed.retain(|pair| !pair.starts_with("X-Amz-Signature=") && !pair.starts_with("User-Agent="));
    signed.sort_unstable();
    let request = format!("GET\n/\n{}\nhost:{host}\n\nhost\n{}", signed.join("&"), digest_of(""));
    let to_sign = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", digest_of(&request));
    let mut key = format!("AWS4{secret}").into_bytes();
    for part in scope.split('/') {
        key = by(&key, part);
    }
    hex(&by(&key, &to_sign))
}

fn by(key: &[u8], text: &str) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text.as_bytes()).as_ref().to_vec()
}

fn digest_of(text: &str) -> String {
    hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
