//! As whom the publisher turns to AWS, and `kafka.aws`.

use serde::Deserialize;
use toml::Value;

use super::{
    context::{Context, Placed},
    kinesis::{KinesisConfig, checked_profile, checked_region, checked_role_arn, checked_session_name},
    toml_values::{table, text},
};

/// As whom AWS is asked, and where. A text that is empty is not set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsIdentity {
    /// The region; unset: what the AWS environment says.
    pub region: String,
    /// The profile of the AWS configuration files; unset: what the AWS environment says.
    pub profile: String,
    /// The role to be assumed; unset: none.
    pub role_arn: String,
    /// The session's name when a role is assumed; unset: `bywash`.
    pub role_session_name: String,
}

/// `kafka.aws`: Amazon MSK with IAM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KafkaAws {
    /// Whether brokers are shown tokens that AWS's credentials sign.
    pub iam: bool,
    /// Whose credentials; of nobody unless `iam`.
    pub identity: AwsIdentity,
}

/// The keys in the file.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    iam: Option<bool>,
    region: Placed<String>,
    profile: Placed<String>,
    role_arn: Placed<String>,
    role_session_name: Placed<String>,
}

/// Takes over what `kafka.aws` says.
pub(super) fn apply(table: Table, to: &mut KafkaAws, context: &mut Context<'_>) {
    to.iam = table.iam.unwrap_or(to.iam);
    let iam = to.iam;
    let identity = &mut to.identity;
    type Check = fn(String) -> Result<String, String>;
    let keys: [(&mut String, Placed<String>, Check); 4] = [
        (&mut identity.region, table.region, checked_region),
        (&mut identity.profile, table.profile, checked_profile),
        (&mut identity.role_arn, table.role_arn, checked_role_arn),
        (&mut identity.role_session_name, table.role_session_name, checked_session_name),
    ];
    for (key, value, check) in keys {
        context.set(key, value, |value| match iam || value.is_empty() {
            true => check(value),
            false => Err(format!("`{value}` is used by nobody: set kafka.aws.iam = true, or leave it out")),
        });
    }
}

/// The table, as the file has it.
pub(super) fn print(aws: &KafkaAws) -> Value {
    let KafkaAws { iam, identity } = aws;
    Value::Table(table([
        ("iam", Some((*iam).into())),
        ("region", text(&identity.region)),
        ("profile", text(&identity.profile)),
        ("role_arn", text(&identity.role_arn)),
        ("role_session_name", text(&identity.role_session_name)),
    ]))
}

impl KinesisConfig {
    /// As whom Kinesis is asked.
    pub fn identity(&self) -> AwsIdentity {
        AwsIdentity {
            region: self.region.clone(),
            profile: self.profile.clone(),
            role_arn: self.role_arn.clone(),
            role_session_name: self.role_session_name.clone(),
        }
    }
}
