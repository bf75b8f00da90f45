//! `publisher check --connect`: whether Kinesis answers, and knows the streams.

use anyhow::{Context as _, bail};
use bywash_common::config::Config;

use super::{
    client::ready,
    record::SLICES,
    trouble::{Trouble, text_of},
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
                let shards_max = SLICES as i32;
                if config.kinesis.aggregate && shards > shards_max {
                    bail!(
                        "stream `{stream}` has {shards} shards, and kinesis.aggregate fills {shards_max} at most: set it to false, \
                         or give the stream fewer shards"
                    );
                }
                lines.push(format!("stream {stream}: {status}, {shards} shards"));
            }
            Err(error) => {
                let text = text_of(&error);
                match Trouble::of(&error, &text) {
                    // Sending needs no right to describe.
                    Trouble::Denied => {
                        lines.push(format!("stream {stream}: it cannot be described ({text})"));
                    }
                    trouble => bail!("stream `{stream}` ({}): {text}: {}", ready.place, trouble.way_out()),
                }
            }
        }
    }
    Ok(lines)
}
