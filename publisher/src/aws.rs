//! AWS's SDK as the configuration has it: region, credentials, role, time-outs.

use std::time::Duration;

use aws_config::{
    BehaviorVersion, ConfigLoader, Region, SdkConfig, identity::IdentityCache, retry::RetryConfig,
    stalled_stream_protection::StalledStreamProtectionConfig, sts::AssumeRoleProvider,
    timeout::TimeoutConfig,
};
use aws_sdk_kinesis::config::{SharedCredentialsProvider, SharedHttpClient};
use aws_smithy_http_client::{
    Builder,
    tls::{Provider, rustls_provider::CryptoMode},
};
use bywash_common::config::AwsIdentity;

/// How long a connection may take to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Credentials are fetched again this long before they expire; the SDK shortens it by up to a half at random.
const CREDENTIALS_BUFFER: Duration = Duration::from_secs(60);
/// How long fetching credentials may take: a chain of several requests.
pub const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(20);
/// The name of the session when a role is assumed.
const SESSION_NAME: &str = "bywash";

/// Sets the SDK up for an identity. May take some seconds where the region must be asked for.
pub async fn load(identity: &AwsIdentity, request_timeout: Duration) -> SdkConfig {
    let identities =
        IdentityCache::lazy().buffer_time(CREDENTIALS_BUFFER).load_timeout(CREDENTIALS_TIMEOUT).build();
    // This publisher sends again by itself, only what failed; the SDK would send all.
    let mut loader: ConfigLoader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http_client())
        .retry_config(RetryConfig::disabled())
        .timeout_config(timeouts(request_timeout))
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .identity_cache(identities);
    if !identity.region.is_empty() {
        loader = loader.region(Region::new(identity.region.clone()));
    }
    if !identity.profile.is_empty() {
        loader = loader.profile_name(&identity.profile);
    }
    let sdk = loader.load().await;
    if identity.role_arn.is_empty() {
        return sdk;
    }
    let session =
        Some(identity.role_session_name.as_str()).filter(|name| !name.is_empty()).unwrap_or(SESSION_NAME);
    let role =
        AssumeRoleProvider::builder(&identity.role_arn).session_name(session).configure(&sdk).build().await;
    sdk.into_builder().credentials_provider(SharedCredentialsProvider::new(role)).build()
}

/// TLS by rustls with the system's certificates; plain HTTP where the endpoint's URL says so.
fn http_client() -> SharedHttpClient {
    Builder::new().tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https()
}

/// A connection that stalls in whatever state ends with the attempt's time-out.
fn timeouts(request: Duration) -> TimeoutConfig {
    TimeoutConfig::builder()
        .connect_timeout(CONNECT_TIMEOUT.min(request))
        .operation_attempt_timeout(request)
        .build()
}
