//! `[kinesis]`: where Kinesis is, and how events are put into its streams.

use std::time::Duration;

use serde::Deserialize;
use toml::Value;

use crate::units::{ByteSize, Span};

use super::{
    context::{Context, Placed, positive},
    template::{Template, Topic, is_name_byte},
    toml_values::{table, text},
};

/// The most that a stream can be set to take as one record, partition key included, and the most of one request
/// (Kinesis Data Streams developer guide, "Quotas and limits").
pub const RECORD_BYTES_MAX: ByteSize = ByteSize(10 << 20);
/// Below this the envelope of an event with a long path leaves no room for its message.
const RECORD_BYTES_MIN: ByteSize = ByteSize(64 << 10);
/// The least time for a request: Kinesis may be a continent away.
const REQUEST_TIMEOUT_MIN: Duration = Duration::from_millis(100);
/// Requests at a time beyond which more help nobody: each holds up to `publisher.batch_bytes` in memory.
const REQUESTS_MAX: u32 = 64;
/// The most bytes of a stream's name.
pub(super) const STREAM_NAME_BYTES_MAX: usize = 128;
/// The characters of a partition key, at most (API reference, `PutRecordsRequestEntry`).
pub const PARTITION_KEY_CHARS_MAX: usize = 256;

/// `[kinesis]`; a text that is empty is not set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KinesisConfig {
    /// The stream of what no directory gives another.
    pub stream_name: Topic,
    /// The AWS region; unset: what the AWS environment says.
    pub region: String,
    /// The profile of the AWS configuration files; unset: what the AWS environment says.
    pub profile: String,
    /// Where the service is instead of at AWS.
    pub endpoint_url: String,
    /// The role to be assumed; unset: none.
    pub role_arn: String,
    /// The session's name when a role is assumed; unset: `bywash`.
    pub role_session_name: String,
    /// What decides an event's shard.
    pub partition_key: PartitionKey,
    /// Pack events into the Kinesis Producer Library's aggregated records.
    pub aggregate: bool,
    /// Never send a record while an earlier one of its key may still be refused.
    pub strict_order: bool,
    /// The most bytes that the streams take as one record, partition key included.
    pub record_bytes_max: ByteSize,
    /// The most requests at a time.
    pub requests_max: u32,
    /// How long a request may take before it counts as failed.
    pub request_timeout: Span,
}

/// What decides an event's shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PartitionKey {
    /// The file's path: its events keep their order.
    Path,
    /// Another one for each event, as fifo2kinesis: events are spread, and their order is lost.
    Random,
    /// One key for all.
    Constant(String),
    /// One that the event decides.
    Made(Template),
}

impl Default for KinesisConfig {
    fn default() -> Self {
        Self {
            stream_name: Topic::Named(String::new()),
            region: String::new(),
            profile: String::new(),
            endpoint_url: String::new(),
            role_arn: String::new(),
            role_session_name: String::new(),
            partition_key: PartitionKey::Path,
            aggregate: false,
            strict_order: true,
            record_bytes_max: ByteSize(1 << 20),
            requests_max: 8,
            request_timeout: Span(Duration::from_secs(10)),
        }
    }
}

impl PartitionKey {
    /// The key that a text of the configuration stands for.
    ///
    /// # Errors
    /// If it is longer than Kinesis allows, or a template in which something is wrong.
    pub fn parse(text: String) -> Result<Self, String> {
        match text.as_str() {
            "" => Ok(Self::Path),
            "random" => Ok(Self::Random),
            _ if text.chars().count() <= PARTITION_KEY_CHARS_MAX => {
                Ok(Template::parse(&text)?.map_or(Self::Constant(text), Self::Made))
            }
            _ => {
                Err(format!("`{text}` is no partition key: use at most {PARTITION_KEY_CHARS_MAX} characters"))
            }
        }
    }

    /// The text that stands for it in the configuration.
    pub fn text(&self) -> &str {
        match self {
            Self::Path => "",
            Self::Random => "random",
            Self::Constant(key) => key,
            Self::Made(template) => template.text(),
        }
    }
}

/// The keys in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    stream_name: Placed<String>,
    region: Placed<String>,
    profile: Placed<String>,
    endpoint_url: Placed<String>,
    role_arn: Placed<String>,
    role_session_name: Placed<String>,
    partition_key: Placed<String>,
    aggregate: Option<bool>,
    strict_order: Option<bool>,
    record_bytes_max: Placed<ByteSize>,
    requests_max: Placed<u32>,
    request_timeout: Placed<Span>,
}

/// Takes over what the section says.
pub(super) fn apply(table: Table, to: &mut KinesisConfig, context: &mut Context<'_>) {
    context.set(&mut to.stream_name, table.stream_name, checked_route);
    context.set(&mut to.endpoint_url, table.endpoint_url, checked_endpoint_url);
    context.set(&mut to.role_arn, table.role_arn, checked_role_arn);
    context.set(&mut to.role_session_name, table.role_session_name, checked_session_name);
    context.set(&mut to.partition_key, table.partition_key, PartitionKey::parse);
    context.set(&mut to.record_bytes_max, table.record_bytes_max, checked_record_bytes);
    context.set(&mut to.requests_max, table.requests_max, checked_requests);
    context.set(&mut to.request_timeout, table.request_timeout, checked_timeout);
    context.set(&mut to.region, table.region, checked_region);
    context.set(&mut to.profile, table.profile, checked_profile);
    to.aggregate = table.aggregate.unwrap_or(to.aggregate);
    to.strict_order = table.strict_order.unwrap_or(to.strict_order);
}

/// The section, as the file has it.
pub(super) fn print(kinesis: &KinesisConfig) -> Value {
    Value::Table(table([
        ("stream_name", text(&kinesis.stream_name)),
        ("region", text(&kinesis.region)),
        ("profile", text(&kinesis.profile)),
        ("endpoint_url", text(&kinesis.endpoint_url)),
        ("role_arn", text(&kinesis.role_arn)),
        ("role_session_name", text(&kinesis.role_session_name)),
        ("partition_key", text(kinesis.partition_key.text())),
        ("aggregate", Some(kinesis.aggregate.into())),
        ("strict_order", Some(kinesis.strict_order.into())),
        ("record_bytes_max", text(kinesis.record_bytes_max)),
        ("requests_max", Some(i64::from(kinesis.requests_max).into())),
        ("request_timeout", text(kinesis.request_timeout)),
    ]))
}

/// The stream of events, be it one that they decide.
pub(super) fn checked_route(name: String) -> Result<Topic, String> {
    Topic::parse(name)?.checked(checked_stream_name)
}

/// The characters and length that Kinesis allows (API reference, `CreateStream`).
///
/// # Errors
/// If it is no stream's name.
pub fn checked_stream_name(name: String) -> Result<String, String> {
    if name.len() <= STREAM_NAME_BYTES_MAX && name.bytes().all(is_name_byte) {
        Ok(name)
    } else {
        Err(format!("`{name}` cannot name a stream: use 1 to 128 letters, digits, `.`, `_` or `-`"))
    }
}

/// # Errors
/// If it is no address of a web service.
pub fn checked_endpoint_url(url: String) -> Result<String, String> {
    let rest = url.strip_prefix("http://").or_else(|| url.strip_prefix("https://"));
    let is_address = |rest: &str| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
            _ => (authority, None),
        };
        let is_port = |port: &str| port.parse::<u16>().is_ok_and(|port| port > 0);
        let fits = |c: char| !c.is_whitespace() && !c.is_control();
        !host.is_empty() && rest.chars().all(fits) && port.is_none_or(is_port)
    };
    if url.is_empty() || rest.is_some_and(is_address) {
        Ok(url)
    } else {
        Err(format!("`{url}` is not an endpoint: use https://host or http://host:port"))
    }
}

/// A region's name becomes part of a host's.
pub(super) fn checked_region(region: String) -> Result<String, String> {
    if region.len() <= 63 && region.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    {
        Ok(region)
    } else {
        Err(format!(
            "`{region}` cannot name a region: use lower-case letters, digits and `-`, such as us-east-1"
        ))
    }
}

pub(super) fn checked_profile(profile: String) -> Result<String, String> {
    if profile.contains(|c: char| c.is_control() || c == '[' || c == ']') {
        return Err(format!(
            "`{}` cannot name a profile: use what stands in the brackets of ~/.aws/config",
            profile.escape_debug()
        ));
    }
    Ok(profile)
}

/// # Errors
/// If it is no role's name.
pub fn checked_role_arn(arn: String) -> Result<String, String> {
    if arn.is_empty()
        || arn.starts_with("arn:") && arn.split_once(":role/").is_some_and(|(_, name)| !name.is_empty())
    {
        Ok(arn)
    } else {
        Err(format!("`{arn}` is not a role: use arn:aws:iam::ACCOUNT:role/NAME"))
    }
}

/// The characters and length that STS allows (API reference, `AssumeRole`).
///
/// # Errors
/// If it cannot name a session.
pub fn checked_session_name(name: String) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"_+=,.@-".contains(&b);
    if name.is_empty() || (2..=64).contains(&name.len()) && name.bytes().all(allowed) {
        Ok(name)
    } else {
        Err(format!("`{name}` cannot name a session: use 2 to 64 letters, digits or any of `_+=,.@-`"))
    }
}

fn checked_record_bytes(size: ByteSize) -> Result<ByteSize, String> {
    if (RECORD_BYTES_MIN..=RECORD_BYTES_MAX).contains(&size) {
        Ok(size)
    } else {
        Err(format!("`{size}` cannot be a record's size: use {RECORD_BYTES_MIN} to {RECORD_BYTES_MAX}"))
    }
}

fn checked_requests(n: u32) -> Result<u32, String> {
    match positive(n)? {
        n if n <= REQUESTS_MAX => Ok(n),
        n => Err(format!("`{n}` is too large: use 1 to {REQUESTS_MAX}")),
    }
}

fn checked_timeout(span: Span) -> Result<Span, String> {
    if span.0 < REQUEST_TIMEOUT_MIN {
        Err(format!("`{span}` gives no request time to succeed: use {} or more", Span(REQUEST_TIMEOUT_MIN)))
    } else {
        Ok(span)
    }
}
