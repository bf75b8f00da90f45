//! `publisher check --connect`: whether Kinesis answers, and knows the streams.

use anyhow::{Context as _, bail};
use aws_sdk_kinesis::Client;
use bywash_common::config::Config;

use super::{
    client::ready,
    shards::list,
    slices::{EQUAL_SLICES, Slices},
    trouble::{Failure, Trouble},
};

/// Asks Kinesis for the streams, and gives what it says, a line each. Changes nothing.
///
/// # Errors
/// If Kinesis does not answer, or not as it should, with the reason and the way out.
pub fn connect(config: &Config, streams: &[&str]) -> anyhow::Result<Vec<String>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot set up a runtime for Kinesis")?;
    runtime.block_on(ask(config, streams))
}

async fn ask(config: &Config, streams: &[&str]) -> anyhow::Result<Vec<String>> {
    let ready = match ready(&config.kinesis).await {
        Ok(ready) => ready,
        Err(reason) => bail!("cannot set up a Kinesis client: {reason}"),
    };
    let mut lines = vec![format!("kinesis: {}", ready.place)];
    for stream in streams {
        match ready.client.describe_stream_summary().stream_name(*stream).send().await {
            Ok(answer) => {
                let summary = answer.stream_description_summary();
                let status = summary.map_or("unknown", |s| s.stream_status().as_str());
                let shards = summary.map_or(0, |s| s.open_shard_count());
                lines.push(format!("stream {stream}: {status}, {shards} shards"));
                if config.kinesis.aggregate {
                    lines.extend(ask_for_shards(&ready.client, stream).await?);
                }
            }
            Err(error) => {
                let Failure { trouble, text } = Failure::of(&error);
                match trouble {
                    // Sending needs no right to describe.
                    Trouble::Denied => {
                        lines.push(format!("stream {stream}: it cannot be described ({text})"));
                    }
                    trouble => bail!("stream `{stream}` ({}): {text}: {}", ready.place, trouble.way_out()),
                }
            }
        }
    }
    for template in config.templates() {
        lines.push(format!(
            "streams {}: asked for when events name them; those of streams that do not exist go to {}",
            template.text(),
            config.fallback_topic()
        ));
    }
    Ok(lines)
}

/// Whether aggregation can fill all shards of a stream; a line if that cannot be told.
async fn ask_for_shards(client: &Client, stream: &str) -> anyhow::Result<Option<String>> {
    match list(client, stream).await {
        Ok(shards) => match Slices::of(&shards) {
            Ok(_) => Ok(None),
            Err(error) => bail!("stream `{stream}`: {error}"),
        },
        Err(Failure { text, .. }) => Ok(Some(format!(
            "stream {stream}: its shards cannot be listed ({text}), so kinesis.aggregate fills {EQUAL_SLICES} equal shards at most: \
             give the user or role the right kinesis:ListShards"
        ))),
    }
}
