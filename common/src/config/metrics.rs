//! `[metrics]`: where the publisher serves what it counts.

use std::net::SocketAddr;

use serde::Deserialize;
use toml::Value;

use super::{
    context::{Context, Placed},
    toml_values::{table, text},
};

/// `[metrics]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// Where the publisher answers `GET /metrics`; nowhere by default. The system chooses the port if it is 0.
    pub listen: Option<SocketAddr>,
}

/// The keys in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    listen: Placed<String>,
}

/// Takes over what the section says.
pub(super) fn apply(table: Table, to: &mut MetricsConfig, context: &mut Context<'_>) {
    context.set(&mut to.listen, table.listen, |listen| checked_address(&listen));
}

/// A name is none: at the start of a machine there may be nobody yet to look it up.
fn checked_address(listen: &str) -> Result<Option<SocketAddr>, String> {
    if listen.is_empty() {
        return Ok(None);
    }
    listen.parse().map(Some).map_err(|_| {
        format!(
            "`{listen}` is no address: use IP:PORT in numbers (host names are not looked up), such as `127.0.0.1:9598` or \
             `[::1]:9598`; port 0 for one that the system chooses; an empty text to serve no metrics"
        )
    })
}

/// The section, as the file has it.
pub(super) fn print(metrics: &MetricsConfig) -> Value {
    Value::Table(table([("listen", metrics.listen.and_then(text))]))
}
