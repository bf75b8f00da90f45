//! The SDK's client for Kinesis.

use aws_sdk_kinesis::Client;
use bywash_common::config::KinesisConfig;

use crate::aws;

/// A client, and where it turns to.
pub struct Ready {
    /// The client.
    pub client: Client,
    /// Region and endpoint, for people.
    pub place: String,
}

/// Sets a client up. May take some seconds where the region must be asked for.
///
/// # Errors
/// If no region is to be found, with the way out.
pub async fn ready(config: &KinesisConfig) -> Result<Ready, String> {
    let sdk = aws::load(&config.identity(), config.request_timeout.0).await;
    let Some(region) = sdk.region() else {
        return Err("no AWS region: set kinesis.region, AWS_REGION, or the profile's".to_owned());
    };
    let mut place = format!("region {region}");
    let mut settings = aws_sdk_kinesis::config::Builder::from(&sdk);
    if !config.endpoint_url.is_empty() {
        place = format!("{place}, endpoint {}", config.endpoint_url);
        settings = settings.endpoint_url(&config.endpoint_url);
    }
    Ok(Ready { client: Client::from_conf(settings.build()), place })
}
