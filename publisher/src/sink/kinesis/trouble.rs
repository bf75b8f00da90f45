//! What went wrong with a request, whether time or a person can mend it, and what the log says about it.

use std::{collections::HashMap, error::Error, time::Duration};

use aws_sdk_kinesis::{
    config::http::HttpResponse,
    error::{DisplayErrorContext, ProvideErrorMetadata, SdkError},
};

use crate::rate::LogRate;

use super::retry::{BACK_OFF_MAX, OPERATOR_BACK_OFF_MAX};

/// At most one line about each kind of trouble in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);
/// HTTP says with this that a request is too large.
const CONTENT_TOO_LARGE: u16 = 413;

/// What kind of trouble there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Trouble {
    /// More than the stream or the account may take.
    Throttled,
    /// No connection, or no answer in time.
    Unreachable,
    /// Kinesis failed.
    Server,
    /// There is no such stream.
    Missing,
    /// The rights do not suffice.
    Denied,
    /// There are no credentials, or they are wrong.
    Credentials,
    /// The credentials were good once.
    Expired,
    /// The clocks differ.
    Clock,
    /// The stream's encryption key cannot be used.
    EncryptionKey,
    /// Kinesis will never take the request.
    Rejected,
    /// Nothing of the above.
    Unknown,
}

impl Trouble {
    /// What an error means. What is not known to be the records' own fault is tried again: that is loud, but loses
    /// nothing.
    pub fn of<E: ProvideErrorMetadata>(error: &SdkError<E, HttpResponse>, text: &str) -> Self {
        match error {
            SdkError::ServiceError(context) => {
                let (code, message) = (error.code().unwrap_or_default(), error.message().unwrap_or_default());
                Self::of_code(code, message, context.raw().status().as_u16())
            }
            SdkError::ResponseError(_) => Self::Server,
            SdkError::TimeoutError(_) => Self::Unreachable,
            // The SDK has no kind of its own for credentials that cannot be loaded.
            _ if text.contains("redentials") => Self::Credentials,
            SdkError::DispatchFailure(_) => Self::Unreachable,
            _ => Self::Unknown,
        }
    }

    fn of_code(code: &str, message: &str, status: u16) -> Self {
        match code {
            "ProvisionedThroughputExceededException"
            | "LimitExceededException"
            | "KMSThrottlingException"
            | "ThrottlingException"
            | "Throttling"
            | "RequestLimitExceeded"
            | "TooManyRequestsException" => Self::Throttled,
            "ResourceNotFoundException" => Self::Missing,
            "AccessDeniedException"
            | "AccessDenied"
            | "KMSAccessDeniedException"
            | "OptInRequired"
            | "UnauthorizedOperation" => Self::Denied,
            "RequestExpired" | "RequestTimeTooSkewed" | "RequestInTheFuture" => Self::Clock,
            "InvalidSignatureException" | "SignatureDoesNotMatch" | "IncompleteSignature"
                if message.contains("expired") || message.contains("not yet current") =>
            {
                Self::Clock
            }
            "UnrecognizedClientException"
            | "InvalidClientTokenId"
            | "InvalidSignatureException"
            | "SignatureDoesNotMatch"
            | "IncompleteSignature"
            | "MissingAuthenticationTokenException" => Self::Credentials,
            "ExpiredTokenException" | "ExpiredToken" => Self::Expired,
            "KMSDisabledException"
            | "KMSInvalidStateException"
            | "KMSNotFoundException"
            | "KMSOptInRequired" => Self::EncryptionKey,
            "InvalidArgumentException" | "ValidationException" | "SerializationException" => Self::Rejected,
            _ if status == CONTENT_TOO_LARGE => Self::Rejected,
            "InternalFailure" | "InternalFailureException" | "ServiceUnavailable" => Self::Server,
            _ if status >= 500 => Self::Server,
            _ => Self::Unknown,
        }
    }

    /// Whether someone has to do something about it.
    pub fn needs_operator(self) -> bool {
        !matches!(self, Self::Throttled | Self::Unreachable | Self::Server)
    }

    /// Whether other credentials, read again, may end it.
    pub fn is_of_credentials(self) -> bool {
        matches!(self, Self::Credentials | Self::Expired)
    }

    /// Whether it is this stream's alone, so that others may do well.
    pub fn is_streams_own(self) -> bool {
        matches!(self, Self::Missing | Self::Denied | Self::EncryptionKey)
    }

    /// The longest wait between attempts.
    pub fn back_off_max(self) -> Duration {
        if self.needs_operator() { OPERATOR_BACK_OFF_MAX } else { BACK_OFF_MAX }
    }

    /// What to do about it.
    pub fn way_out(self) -> &'static str {
        match self {
            Self::Throttled => "if that lasts, give the stream more shards or on-demand capacity",
            Self::Unreachable => "look at the network, kinesis.endpoint_url and kinesis.region",
            Self::Server => {
                "if that lasts, look at kinesis.region and kinesis.endpoint_url, and at AWS's health dashboard"
            }
            Self::Missing => {
                "create the stream, or mend kinesis.stream_name, a directory's topic, kinesis.region or the account"
            }
            Self::Denied => {
                "give the user or role the right kinesis:PutRecords on the stream, or mend kinesis.role_arn"
            }
            Self::Credentials => {
                "give the service credentials that AWS's chain finds (environment, profile, role of the machine), or \
                 mend kinesis.profile and kinesis.role_arn"
            }
            Self::Expired => {
                "renew the credentials: files, token caches and endpoints are read again every few seconds; variables \
                 of the environment take a restart"
            }
            Self::Clock => "set this machine's clock (timedatectl set-ntp true)",
            Self::EncryptionKey => "look at the stream's KMS key and the rights on it",
            Self::Rejected => {
                "if all are refused, look at kinesis.record_bytes_max and publisher.batch_bytes"
            }
            Self::Unknown => "look up what Kinesis says",
        }
    }
}

/// An error with all its causes, in one line.
pub fn text_of<E: ProvideErrorMetadata + Error + 'static>(error: &SdkError<E, HttpResponse>) -> String {
    if let (Some(code), message) = (error.code(), error.message()) {
        return message.map_or_else(|| code.to_owned(), |message| format!("{code}: {message}"));
    }
    let whole = DisplayErrorContext(error).to_string();
    // Behind the causes come the values in Rust's notation.
    whole.split_once(" (").map_or(whole.clone(), |(causes, _)| causes.to_owned())
}

/// Why a request failed as a whole.
#[derive(Debug)]
pub struct Failure {
    /// Of what kind that is.
    pub trouble: Trouble,
    /// What Kinesis says.
    pub text: String,
}

impl Failure {
    /// What the SDK's error stands for.
    pub fn of<E: ProvideErrorMetadata + Error + 'static>(error: &SdkError<E, HttpResponse>) -> Self {
        let text = text_of(error);
        Self { trouble: Trouble::of(error, &text), text }
    }
}

/// What the log has said about a stream.
pub struct LogRates {
    rates: HashMap<Trouble, LogRate>,
    /// The log has spoken of trouble, and not yet of its end.
    is_announced: bool,
}

impl LogRates {
    /// Nothing.
    pub fn new() -> Self {
        Self { rates: HashMap::new(), is_announced: false }
    }

    /// Says that there is trouble with a stream, unless that was said a moment ago.
    pub fn trouble(&mut self, stream: &str, trouble: Trouble, text: &str) {
        let rate = self.rates.entry(trouble).or_insert_with(|| LogRate::new(LOG_INTERVAL));
        let Some(others) = rate.pass() else { return };
        self.is_announced = true;
        let way_out = trouble.way_out();
        if trouble.needs_operator() {
            tracing::error!(
                "Kinesis stream `{stream}`: {text}; events wait until that ends: {way_out}{others}"
            );
        } else {
            tracing::warn!(
                "Kinesis stream `{stream}`: {text}; events wait and are sent again: {way_out}{others}"
            );
        }
    }

    /// Says that a request is sent again in parts.
    pub fn rejected(&mut self, stream: &str, text: &str) {
        let rate = self.rates.entry(Trouble::Rejected).or_insert_with(|| LogRate::new(LOG_INTERVAL));
        if let Some(others) = rate.pass() {
            tracing::warn!(
                "Kinesis rejects a request for the stream `{stream}`: {text}; its records are sent again one by one{others}"
            );
        }
    }

    /// Says that trouble has ended.
    pub fn well(&mut self, stream: &str) {
        if std::mem::take(&mut self.is_announced) {
            tracing::info!("Kinesis stream `{stream}` takes events again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_kinesis_calls_invalid_is_final() {
        for (code, message, status, expected) in [
            ("InvalidArgumentException", "Records[3] too large", 400, Trouble::Rejected),
            ("ValidationException", "", 400, Trouble::Rejected),
            ("", "", 413, Trouble::Rejected),
            ("ProvisionedThroughputExceededException", "", 400, Trouble::Throttled),
            ("ResourceNotFoundException", "", 400, Trouble::Missing),
            ("AccessDeniedException", "", 400, Trouble::Denied),
            ("UnrecognizedClientException", "", 400, Trouble::Credentials),
            ("ExpiredTokenException", "", 400, Trouble::Expired),
            ("InvalidSignatureException", "Signature expired: 2026 is now earlier", 400, Trouble::Clock),
            ("InvalidSignatureException", "Signature not yet current", 400, Trouble::Clock),
            ("InvalidSignatureException", "does not match", 400, Trouble::Credentials),
            ("KMSDisabledException", "", 400, Trouble::EncryptionKey),
            ("InternalFailure", "", 500, Trouble::Server),
            ("", "", 503, Trouble::Server),
            ("SomethingNew", "", 400, Trouble::Unknown),
        ] {
            assert_eq!(Trouble::of_code(code, message, status), expected, "{code} {status}");
        }
    }
}
