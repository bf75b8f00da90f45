//! What a client of librdkafka's is made of: its properties, and where its tokens come from.

use std::{
    error::Error,
    ops::Deref,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bywash_common::config::{Config, Unusable};
use rdkafka::{
    ClientConfig, ClientContext,
    client::OAuthToken,
    config::{FromClientConfigAndContext, RDKafkaLogLevel},
    consumer::{BaseConsumer, ConsumerContext},
    error::{KafkaError, KafkaResult},
    message::DeliveryResult,
    producer::{BaseProducer, ProducerContext},
};

use super::{
    config::{consumer_config, producer_config, transactional_config},
    msk::Signer,
    threaded_producer::BatchReports,
};

/// What MSK makes of a token does not depend on the name that comes with it.
const PRINCIPAL: &str = "bywash";

/// A client's properties, and where its tokens come from.
#[derive(Clone)]
pub struct Setup {
    /// librdkafka's properties.
    pub properties: ClientConfig,
    signer: Option<Arc<Signer>>,
}

impl Setup {
    /// Of a producer.
    ///
    /// # Errors
    /// An [`Unusable`] if the properties are wrong.
    pub fn of_producer(config: &Config) -> Result<Self, Unusable> {
        Ok(Self::new(producer_config(config)?, config))
    }

    /// Of a producer that writes in transactions.
    ///
    /// # Errors
    /// An [`Unusable`] if the properties are wrong.
    pub fn of_transactions(config: &Config, transactional_id: &str) -> Result<Self, Unusable> {
        Ok(Self::new(transactional_config(config, transactional_id)?, config))
    }

    /// Of a client that only reads.
    ///
    /// # Errors
    /// An [`Unusable`] if the properties are wrong.
    pub fn of_consumer(config: &Config) -> Result<Self, Unusable> {
        Ok(Self::new(consumer_config(config)?, config))
    }

    fn new(properties: ClientConfig, config: &Config) -> Self {
        let aws = &config.kafka.aws;
        let signer = aws.iam.then(|| Arc::new(Signer::new(aws.identity.clone())));
        Self { properties, signer }
    }

    /// Makes a producer.
    ///
    /// # Errors
    /// What librdkafka says.
    pub fn producer<C: ProducerContext>(&self, context: C) -> KafkaResult<BaseProducer<Known<C>>> {
        BaseProducer::from_config_and_context(&self.properties, self.known(context))
    }

    /// Makes a reader. A token is asked for when a client is polled, and questions to brokers do not do that: so the first one is
    /// asked for here.
    ///
    /// # Errors
    /// What librdkafka says.
    pub fn consumer<C: ConsumerContext>(&self, context: C) -> KafkaResult<BaseConsumer<Known<C>>> {
        let client = BaseConsumer::from_config_and_context(&self.properties, self.known(context))?;
        if self.signer.is_some() {
            client.poll(Duration::ZERO);
        }
        Ok(client)
    }

    fn known<C>(&self, context: C) -> Known<C> {
        Known { context, signer: self.signer.clone() }
    }
}

/// A client's context that has tokens to show.
pub struct Known<C> {
    context: C,
    signer: Option<Arc<Signer>>,
}

impl<C> Deref for Known<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.context
    }
}

impl<C: ClientContext> ClientContext for Known<C> {
    // Of OAUTHBEARER alone, and unless librdkafka asks an endpoint (OIDC) by itself.
    const ENABLE_REFRESH_OAUTH_TOKEN: bool = true;

    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.context.log(level, facility, line);
    }

    fn stats_raw(&self, statistics: &[u8]) {
        self.context.stats_raw(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.context.error(error, reason);
    }

    fn generate_oauth_token(&self, _: Option<&str>) -> Result<OAuthToken, Box<dyn Error>> {
        let Some(signer) = &self.signer else {
            return Err(
                "tokens that nobody signs (enable.sasl.oauthbearer.unsecure.jwt) are made once: restart the \
                        publisher for another"
                    .into(),
            );
        };
        let token = signer.token()?;
        let lifetime_ms = token.ends.duration_since(SystemTime::UNIX_EPOCH)?.as_millis().try_into()?;
        Ok(OAuthToken { token: token.text, principal_name: PRINCIPAL.to_owned(), lifetime_ms })
    }
}

impl<C: ProducerContext> ProducerContext for Known<C> {
    type DeliveryOpaque = C::DeliveryOpaque;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Self::DeliveryOpaque) {
        self.context.delivery(result, opaque);
    }
}

impl<C: ConsumerContext> ConsumerContext for Known<C> {}

impl<C: BatchReports> BatchReports for Known<C> {
    fn reported(&self) -> u64 {
        self.context.reported()
    }

    fn gather(&self) {
        self.context.gather();
    }

    fn settle(&self) {
        self.context.settle();
    }
}
