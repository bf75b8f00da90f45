//! The SDK's client: region, credentials, role, time-outs.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, ConfigLoader, Region, SdkConfig, identity::IdentityCache, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, sts::AssumeRoleProvider,
    timeout::TimeoutConfig,
};
use aws_sdk_kinesis::{
    Client,
    config::{SharedCredentialsProvider, SharedHttpClient},
};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use bywash_common::config::KinesisConfig;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Credentials are fetched again this long before they expire; the SDK shortens it by up to a half at random.
const CREDENTIALS_BUFFER: Duration = Duration::from_secs(60);
/// How long fetching credentials may take: a chain of several requests.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(20);
/// The name of the session when a role is assumed.
const SESSION_NAME: &str = "bywash";

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
    let sdk = sdk_config(config).await;
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

async fn sdk_config(config: &KinesisConfig) -> SdkConfig {
    let identities =
        IdentityCache::lazy().buffer_time(CREDENTIALS_BUFFER).load_timeout(CREDENTIALS_TIMEOUT).build();
    // This publisher sends again by itself, only what failed; the SDK would send all.
    let mut loader: ConfigLoader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(config))
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .identity_cache(identities);
    if !config.region.is_empty() {
        loader = loader.region(Region::new(config.region.clone()));
    }
    if !config.profile.is_empty() {
        loader = loader.profile_name(&config.profile);
    }
    let sdk = loader.load().await;
    if config.role_arn.is_empty() {
        return sdk;
    }
    let session =
        Some(config.role_session_name.as_str()).filter(|name| !name.is_empty()).unwrap_or(SESSION_NAME);
    let role =
        AssumeRoleProvider::builder(&config.role_arn).session_name(session).configure(&sdk).build().await;
    sdk.into_builder().credentials_provider(SharedCredentialsProvider::new(role)).build()
}

/// TLS by rustls with the system's certificates; plain HTTP where the endpoint's URL says so.
fn http_client() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// A connection that stalls in whatever state ends with the attempt's time-out.
fn timeouts(config: &KinesisConfig) -> TimeoutConfig {
    let request = config.request_timeout.0;
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(request))
        .operation_attempt_timeout(request)
        .build()
}
