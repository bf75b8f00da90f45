//! The tokens by which Amazon MSK knows who a client is: an address that is signed with AWS's credentials, as AWS's own signers
//! make it (aws-msk-iam-sasl-signer).

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use aws_sdk_kinesis::{
    config::{Credentials, ProvideCredentials},
    error::DisplayErrorContext,
};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SignatureLocation, SigningSettings, sign},
    sign::v4,
};
use bywash_common::config::AwsIdentity;
use tokio::time::timeout;

use crate::aws::{self, CREDENTIALS_TIMEOUT};

use super::background::BackgroundTask;

/// What is signed for.
const SERVICE: &str = "kafka-cluster";
/// How long MSK takes a token, as with AWS's signers.
const TOKEN_LIFE: Duration = Duration::from_secs(900);
/// How long a client uses one. librdkafka asks for another after four fifths of that, and every 10 s where there is none; credentials that
/// were mended are found that soon.
const TOKEN_USE: Duration = Duration::from_secs(300);
/// How long whoever needs a token waits for it. Credentials may take longer; they are there then when librdkafka asks again.
const TOKEN_WAIT: Duration = Duration::from_secs(2);
/// How long one request for credentials may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// A token.
#[derive(Clone)]
pub struct Token {
    /// What brokers are shown; a secret.
    pub text: String,
    /// Until then another one is not worth while.
    stale: SystemTime,
    /// When another one has to be there.
    pub ends: SystemTime,
}

/// Makes tokens, and gives each of them to all who ask while it is fresh.
pub struct Signer {
    identity: AwsIdentity,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// What nobody could wait for.
    background: Option<BackgroundTask<Result<Token, String>>>,
}

impl Signer {
    /// Asks nobody for anything yet.
    pub fn new(identity: AwsIdentity) -> Self {
        Self { identity, state: Mutex::default() }
    }

    /// A token, within [`TOKEN_WAIT`].
    ///
    /// # Errors
    /// Why there is none, and what to do about it.
    pub fn token(&self) -> Result<Token, String> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = state.token.as_ref().filter(|token| SystemTime::now() < token.stale) {
            return Ok(token.clone());
        }
        let background = match state.background.take() {
            Some(background) => background,
            None => {
                let identity = self.identity.clone();
                BackgroundTask::start("aws-token", move || make(&identity))
                    .map_err(|error| error.to_string())?
            }
        };
        match background.take(TOKEN_WAIT) {
            Ok(Some(made)) => {
                let token = made?;
                state.token = Some(token.clone());
                Ok(token)
            }
            Ok(None) => {
                state.background = Some(background);
                Err(format!("no AWS credentials within {TOKEN_WAIT:?}; they are still being asked for"))
            }
            Err(abandoned) => Err(abandoned.to_string()),
        }
    }
}

/// Fetches credentials, and signs with them.
fn make(identity: &AwsIdentity) -> Result<Token, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    // The time-out is made within the runtime, whose clock it needs.
    let found = runtime.block_on(async { timeout(CREDENTIALS_TIMEOUT, credentials(identity)).await });
    // Does not wait for a name server that does not answer.
    runtime.shutdown_background();
    let found = found.map_err(|_| format!("no AWS credentials within {CREDENTIALS_TIMEOUT:?}"))?;
    let (credentials, region) = found?;
    signed(credentials, &region, SystemTime::now())
}

/// The credentials of an identity, and its region.
async fn credentials(identity: &AwsIdentity) -> Result<(Credentials, String), String> {
    let sdk = aws::load(identity, REQUEST_TIMEOUT).await;
    let Some(region) = sdk.region() else {
        return Err("no AWS region: set kafka.aws.region, AWS_REGION, or the profile's".to_owned());
    };
    let Some(provider) = sdk.credentials_provider() else {
        return Err("no AWS credentials are looked for".to_owned());
    };
    let found = provider.provide_credentials().await.map_err(|error| {
        format!(
            "no AWS credentials: {}; give the service some that AWS's chain finds (environment, profile, role of the machine), \
             or mend kafka.aws.profile and kafka.aws.role_arn",
            DisplayErrorContext(error)
        )
    })?;
    Ok((found, region.to_string()))
}

/// The token that credentials make at some time.
fn signed(credentials: Credentials, region: &str, now: SystemTime) -> Result<Token, String> {
    let ends = credentials.expiry().map_or(now + TOKEN_USE, |expiry| expiry.min(now + TOKEN_USE));
    let Ok(left) = ends.duration_since(now) else {
        return Err("the AWS credentials have expired, and AWS gives no others".to_owned());
    };
    let address = address(credentials, region, now).map_err(|error| format!("cannot sign: {error}"))?;
    let text = base64_simd::URL_SAFE_NO_PAD.encode_to_string(address);
    Ok(Token { text, stale: now + left / 2, ends })
}

/// What a token says: that whoever has the credentials connects to a cluster.
fn address(
    credentials: Credentials,
    region: &str,
    now: SystemTime,
) -> Result<String, Box<dyn std::error::Error>> {
    let address = format!("https://kafka.{region}.amazonaws.com/?Action=kafka-cluster%3AConnect");
    let mut settings = SigningSettings::default();
    settings.signature_location = SignatureLocation::QueryParams;
    settings.expires_in = Some(TOKEN_LIFE);
    let identity = credentials.into();
    let parameters = v4::SigningParams::builder()
        .identity(&identity)
        .region(region)
        .name(SERVICE)
        .time(now)
        .settings(settings)
        .build()?;
    let request = SignableRequest::new("GET", &address, std::iter::empty(), SignableBody::Bytes(&[]))?;
    let (instructions, _) = sign(request, &parameters.into())?.into_parts();
    let mut request = hyper::Request::builder().uri(&address).body(())?;
    instructions.apply_to_request_http1x(&mut request);
    // Beside what is signed, as AWS's signers do.
    Ok(format!("{}&User-Agent=bywash%2F{}", request.uri(), env!("CARGO_PKG_VERSION")))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// 2024-05-08T12:00:00Z
    const NOW: Duration = Duration::from_secs(1_715_169_600);

    /// Credentials, a region, and the address that aws-msk-iam-sasl-signer-python 1.0.2 (botocore 1.44.8) signs with them
    /// at [`NOW`], without its name. The first are those of its own tests.
    const GOLDEN: [(&str, &str, Option<&str>, &str, &str); 3] = [
        (
            "MOCK_AWS_ACCESS_KEY",
            "MOCK_AWS_SECRET_KEY",
            Some("MOCK_AWS_TOKEN"),
            "us-west-2",
            "https://kafka.us-west-2.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256&\
             X-Amz-Credential=MOCK_AWS_ACCESS_KEY%2F20240508%2Fus-west-2%2Fkafka-cluster%2Faws4_request&\
             X-Amz-Date=20240508T120000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Security-Token=MOCK_AWS_TOKEN&\
             X-Amz-Signature=466808e6a1652199ca36c7d9e0903b5fda67b91dd8ad5f5b1d0c4c4294657186",
        ),
        (
            "MOCK_AWS_ACCESS_KEY",
            "MOCK_AWS_SECRET_KEY",
            None,
            "us-west-2",
            "https://kafka.us-west-2.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256&\
             X-Amz-Credential=MOCK_AWS_ACCESS_KEY%2F20240508%2Fus-west-2%2Fkafka-cluster%2Faws4_request&\
             X-Amz-Date=20240508T120000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&\
             X-Amz-Signature=8069ee76163df1ea0a6f1c9fe85a8b11357aeae245ab984897e1f15fd21e32f7",
        ),
        (
            "AKIDEXAMPLE",
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY",
            Some("a/b+c=="),
            "eu-central-1",
            "https://kafka.eu-central-1.amazonaws.com/?Action=kafka-cluster%3AConnect&X-Amz-Algorithm=AWS4-HMAC-SHA256&\
             X-Amz-Credential=AKIDEXAMPLE%2F20240508%2Feu-central-1%2Fkafka-cluster%2Faws4_request&\
             X-Amz-Date=20240508T120000Z&X-Amz-Expires=900&X-Amz-SignedHeaders=host&\
             X-Amz-Security-Token=a%2Fb%2Bc%3D%3D&\
             X-Amz-Signature=6710edaeba8c2058abe0efd96e3690e85d3c23e5f93c33adff0024a3d887a113",
        ),
    ];

    fn token(key: &str, secret: &str, session: Option<&str>, life: Option<Duration>, region: &str) -> Token {
        let now = SystemTime::UNIX_EPOCH + NOW;
        let credentials =
            Credentials::new(key, secret, session.map(str::to_owned), life.map(|life| now + life), "test");
        signed(credentials, region, now).map_err(|reason| panic!("{reason}")).unwrap()
    }

    #[test]
    fn tokens_are_those_of_aws_s_own_signer() {
        for (key, secret, session, region, golden) in GOLDEN {
            let token = token(key, secret, session, None, region);
            let address = base64_simd::URL_SAFE_NO_PAD.decode_to_vec(token.text).unwrap();
            let address = String::from_utf8(address).unwrap();
            let (signed, agent) = address.rsplit_once('&').unwrap();
            assert_eq!(agent, format!("User-Agent=bywash%2F{}", env!("CARGO_PKG_VERSION")));
            // In any order: what is signed is sorted.
            let parts = |address: &str| {
                let (place, query) = address.split_once('?').unwrap();
                let query: BTreeSet<String> = query.split('&').map(str::to_owned).collect();
                (place.to_owned(), query)
            };
            assert_eq!(parts(signed), parts(golden));
        }
    }

    #[test]
    fn a_token_is_not_used_for_longer_than_its_credentials_last() {
        let now = SystemTime::UNIX_EPOCH + NOW;
        let life = |seconds| token("k", "s", None, Some(Duration::from_secs(seconds)), "us-east-1");
        assert_eq!(life(3600).ends, now + TOKEN_USE);
        let short = life(60);
        assert_eq!((short.ends, short.stale), (now + Duration::from_secs(60), now + Duration::from_secs(30)));
        let expired = Credentials::new("k", "s", None, Some(now - Duration::from_secs(1)), "test");
        let refused = signed(expired, "us-east-1", now).map(|_| ()).unwrap_err();
        assert!(refused.contains("expired"), "{refused}");
    }
}
