//! A stream's shards, asked of Kinesis: aggregation packs for each of them.

use std::time::{Duration, Instant};

use aws_sdk_kinesis::{
    Client,
    types::{ShardFilter, ShardFilterType},
};

use super::{
    retry::OPERATOR_BACK_OFF_MAX,
    slices::{EQUAL_SLICES, SHARDS_MAX, Shard},
    trouble::{Failure, Trouble},
};

/// How soon at the earliest shards are listed again after an answer has named one that was not listed where it is.
const LIST_INTERVAL: Duration = Duration::from_secs(5);
/// How soon they are listed again where Kinesis refuses it.
const REFUSED_INTERVAL: Duration = Duration::from_secs(600);

/// When a stream's shards are to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listing {
    /// Never: nobody asks which there are.
    Off,
    /// At that moment.
    Due(Instant),
    /// The answer is on its way.
    Out,
    /// They are known, and are not to be listed again before that moment.
    Known(Instant),
}

impl Listing {
    /// The first state.
    pub fn new(is_wanted: bool, now: Instant) -> Self {
        if is_wanted { Self::Due(now) } else { Self::Off }
    }

    /// The moment at which they are to be listed.
    pub fn due(self) -> Option<Instant> {
        if let Self::Due(at) = self { Some(at) } else { None }
    }

    /// An answer has named another shard than the listed one.
    pub fn outdated(&mut self, now: Instant) {
        if let Self::Known(earliest) = *self {
            *self = Self::Due(earliest.max(now));
        }
    }

    /// They were listed.
    pub fn listed(&mut self, now: Instant) {
        *self = Self::Known(now + LIST_INTERVAL);
    }

    /// They could not be listed; says so where no request for the stream does.
    pub fn failed(&mut self, stream: &str, failure: &Failure, now: Instant) {
        let Failure { trouble, text } = failure;
        let wait = match trouble {
            Trouble::Denied | Trouble::Rejected | Trouble::Unknown => {
                tracing::warn!(
                    "Kinesis stream `{stream}`: its shards cannot be listed ({text}), so kinesis.aggregate fills {EQUAL_SLICES} \
                     equal shards at most: give the user or role the right kinesis:ListShards"
                );
                REFUSED_INTERVAL
            }
            _ => OPERATOR_BACK_OFF_MAX,
        };
        *self = Self::Due(now + wait);
    }
}

/// The open shards of a stream; one more than [`SHARDS_MAX`] at most.
///
/// # Errors
/// What Kinesis says.
pub async fn list(client: &Client, stream: &str) -> Result<Vec<Shard>, Failure> {
    let mut shards = Vec::new();
    let latest = ShardFilter::builder().r#type(ShardFilterType::AtLatest).build();
    let latest = latest.map_err(|error| Failure { trouble: Trouble::Unknown, text: error.to_string() })?;
    let mut request = client.list_shards().stream_name(stream).shard_filter(latest);
    loop {
        let page = request.send().await.map_err(|error| Failure::of(&error))?;
        for shard in page.shards() {
            // Not everything that speaks Kinesis' language knows the filter.
            let is_open =
                shard.sequence_number_range().is_none_or(|range| range.ending_sequence_number().is_none());
            let begin = shard.hash_key_range().and_then(|range| range.starting_hash_key().parse().ok());
            if let Some(begin) = begin.filter(|_| is_open) {
                shards.push(Shard { id: shard.shard_id().to_owned(), begin });
            }
        }
        match page.next_token() {
            Some(token) if shards.len() <= SHARDS_MAX => request = client.list_shards().next_token(token),
            _ => return Ok(shards),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_listed_again_when_another_one_answers_and_no_sooner_than_is_allowed() {
        let now = Instant::now();
        let mut listing = Listing::new(true, now);
        assert_eq!(listing.due(), Some(now));
        listing.listed(now);
        assert_eq!(listing.due(), None);
        listing.outdated(now);
        assert_eq!(listing.due(), Some(now + LIST_INTERVAL));
        let mut out = Listing::Out;
        out.outdated(now);
        assert_eq!(out, Listing::Out);
        let mut off = Listing::new(false, now);
        off.outdated(now);
        assert_eq!(off.due(), None);
    }
}
