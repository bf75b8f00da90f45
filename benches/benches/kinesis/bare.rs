//! What a program that has nothing to do but to send would take: the SDK as the publisher sets it up, and no more.

use std::{path::Path, time::Instant};

use aws_sdk_kinesis::{primitives::Blob, types::PutRecordsRequestEntry};
use bywash_benches::Writes;
use bywash_common::config::KinesisConfig;
use bywash_tests::harness::{Kinesis, Process, temporary_directory, wait};
use nix::sys::signal::Signal;
use publisher::sink::kinesis::ready;
use tokio::task::JoinSet;

use crate::Case;

/// The stream of the bare SDK.
pub const STREAM: &str = "bare";
/// What any Kinesis takes that does not look at signatures.
pub const CREDENTIALS: [&str; 2] = ["AWS_ACCESS_KEY_ID=bench", "AWS_SECRET_ACCESS_KEY=bench"];
/// The most records in a request.
const REQUEST_RECORDS: usize = 500;

/// Seconds to send as many events as the publisher does, in a process of its own.
pub fn measure(kinesis: &Kinesis, case: Case, events: usize) -> f64 {
    let directory = temporary_directory();
    let program = std::env::current_exe().expect("the running program's path");
    let url = format!("http://{}", kinesis.address());
    let numbers = [case.size, case.files, events].map(|n| n.to_string());
    let mut arguments: Vec<String> = CREDENTIALS.iter().map(ToString::to_string).collect();
    arguments.extend([program.display().to_string(), "bare".to_owned(), url]);
    arguments.extend(numbers);
    let mut process = Process::spawn("bare", Path::new("env"), arguments, directory.path(), Signal::SIGKILL);
    let status = process.wait(wait::TIMEOUT * 10);
    assert!(status.success(), "{}", process.log());
    process.stdout().trim().parse().expect("seconds")
}

/// Sends, and prints the seconds that it took: the URL, the size of a write, the number of files, that of events.
pub fn send(arguments: &[String]) {
    let [url, numbers @ ..] = arguments else { panic!("four arguments") };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    let [size, files, count] = numbers[..] else { panic!("four arguments") };
    let payloads = Writes { size, files, count }.payloads();
    let begin = Instant::now();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(send_all(url, payloads));
    println!("{}", begin.elapsed().as_secs_f64());
}

async fn send_all(url: &str, mut payloads: Vec<(String, Vec<u8>)>) {
    let region = "us-east-1".to_owned();
    let config = KinesisConfig { region, endpoint_url: url.to_owned(), ..KinesisConfig::default() };
    let client = ready(&config).await.map(|ready| ready.client).expect("a client");
    let mut requests = JoinSet::new();
    while !payloads.is_empty() {
        let records = payloads.drain(..REQUEST_RECORDS.min(payloads.len())).map(|(key, payload)| {
            let record = PutRecordsRequestEntry::builder().partition_key(key).data(Blob::new(payload));
            record.build().expect("a record")
        });
        let request = client.put_records().stream_name(STREAM).set_records(Some(records.collect()));
        requests.spawn(request.send());
        while requests.len() >= config.requests_max as usize {
            let answer =
                requests.join_next().await.expect("a request").expect("no panic").expect("an answer");
            assert_eq!(answer.failed_record_count(), Some(0));
        }
    }
    while let Some(answer) = requests.join_next().await {
        assert_eq!(answer.expect("no panic").expect("an answer").failed_record_count(), Some(0));
    }
}
