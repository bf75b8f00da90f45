//! The Kinesis API in a process of its own: ministack, a package of PyPI. It knows STS as well.

use std::{
    collections::BTreeMap,
    io::BufReader,
    net::{SocketAddr, TcpStream},
    path::Path,
    time::Duration,
};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{
    Message, Process, Reader, broker::free_address, http::HttpMessage, process, tool, topic::Source, wait,
};

/// How often another port is tried when somebody took the free one first.
const PORT_TRIES: usize = 5;
/// It answers in half a second on an idle machine.
const START_TIME_MAX: Duration = Duration::from_secs(30);
/// The most records in an answer.
const PAGE_RECORDS: u32 = 10_000;

/// A running Kinesis.
pub struct Kinesis {
    process: Process,
    address: SocketAddr,
    // Removed after the process is gone: fields are dropped in order.
    _directory: tempfile::TempDir,
}

impl Kinesis {
    /// Starts it on a free port and waits until it answers.
    pub fn start() -> Self {
        (0..PORT_TRIES)
            .find_map(|_| Self::try_start())
            .unwrap_or_else(|| panic!("Kinesis ended {PORT_TRIES} times right after its start"))
    }

    /// Nothing if the process ended at once, as it does when its port is taken.
    fn try_start() -> Option<Self> {
        let directory = super::temporary_directory();
        let address = free_address();
        let program = tool("ministack");
        let arguments = [
            // On all interfaces otherwise.
            "BIND_HOST=127.0.0.1".to_owned(),
            format!("GATEWAY_PORT={}", address.port()),
            format!("HOME={}", directory.path().display()),
            program.display().to_string(),
        ];
        let mut process =
            Process::spawn("kinesis", Path::new("env"), arguments, directory.path(), Signal::SIGKILL);
        let alive = wait::until("Kinesis to answer", START_TIME_MAX, || {
            if process.ended().is_some() {
                return Ok(false);
            }
            let answer = ask(address, "ListStreams", &json!({}));
            answer.map(|_| process.ended().is_none())
        });
        alive.then_some(Self { process, address, _directory: directory })
    }

    /// Its host and port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.process.pid().as_raw()
    }

    /// Ends it.
    pub fn terminate(mut self) {
        self.process.terminate(wait::TIMEOUT);
    }

    /// Makes a stream and waits until it takes records.
    #[track_caller]
    pub fn create_stream(&self, name: &str, shards: u32) {
        let stream = json!({ "StreamName": name, "ShardCount": shards });
        ask(self.address, "CreateStream", &stream).unwrap_or_else(|e| panic!("no stream {name}: {e}"));
        wait::until(&format!("the stream {name}"), wait::TIMEOUT, || {
            let answer = ask(self.address, "DescribeStreamSummary", &json!({ "StreamName": name }))?;
            let status = &answer["StreamDescriptionSummary"]["StreamStatus"];
            if status == "ACTIVE" { Ok(()) } else { Err(status.to_string()) }
        });
    }

    /// Gives a stream another number of shards, of equal ranges. Its records are gone then: this Kinesis keeps no closed shards.
    #[track_caller]
    pub fn reshard(&self, name: &str, shards: u32) {
        let wanted =
            json!({ "StreamName": name, "TargetShardCount": shards, "ScalingType": "UNIFORM_SCALING" });
        ask(self.address, "UpdateShardCount", &wanted)
            .unwrap_or_else(|e| panic!("{name} is not resharded: {e}"));
    }

    /// Deletes a stream, and waits until it is gone.
    #[track_caller]
    pub fn delete_stream(&self, name: &str) {
        let stream = json!({ "StreamName": name });
        ask(self.address, "DeleteStream", &stream).unwrap_or_else(|e| panic!("the stream {name} stays: {e}"));
        wait::until(&format!("the stream {name} to be gone"), wait::TIMEOUT, || {
            let answer = ask(self.address, "DescribeStreamSummary", &json!({ "StreamName": name }));
            if answer.is_err() { Ok(()) } else { Err(format!("{answer:?}")) }
        });
    }

    /// Puts a record into a stream's shard, from 0, of `shards` equal ones.
    #[track_caller]
    pub fn put(&self, stream: &str, shard: u32, shards: u32, data: &[u8]) {
        let hash_key = u128::MAX / u128::from(shards) * u128::from(shard) + 1;
        let record = json!({
            "StreamName": stream,
            "PartitionKey": "k",
            "ExplicitHashKey": hash_key.to_string(),
            "Data": base64_simd::STANDARD.encode_to_string(data),
        });
        ask(self.address, "PutRecord", &record).unwrap_or_else(|e| panic!("no record in {stream}: {e}"));
    }

    /// Reads a stream from its beginning.
    pub fn read(&self, stream: &str) -> Reader {
        let source = Stream {
            address: self.address,
            name: stream.to_owned(),
            iterators: BTreeMap::new(),
            position: 0,
        };
        Reader::new(Box::new(source), stream)
    }
}

/// The name and version, for people.
pub fn version() -> String {
    let python = tool("aws/bin/python");
    let script = "import importlib.metadata as m; print('ministack', m.version('ministack'))";
    process::run(std::process::Command::new(python).args(["-c", script]), wait::TIMEOUT)
        .stdout
        .trim()
        .to_owned()
}

/// What a public library of another language makes of aggregated records: partition key and data of each user record.
#[track_caller]
pub fn deaggregate(messages: &[Message]) -> Vec<Message> {
    const SCRIPT: &str = "
import base64, json, sys
from aws_kinesis_agg.deaggregator import deaggregate_records
for line in sys.stdin:
    record = {'kinesis': {'kinesisSchemaVersion': '1.0', 'sequenceNumber': '1', 'approximateArrivalTimestamp': 1,
                          'partitionKey': 'outer', 'data': line.strip()}}
    users = deaggregate_records(record)
    print(json.dumps([[u['kinesis']['partitionKey'], u['kinesis']['data'].decode()] for u in users]))
";
    let input = tempfile::NamedTempFile::new().expect("a file");
    let base64 = base64_simd::STANDARD;
    let lines: String = messages.iter().map(|m| base64.encode_to_string(&m.payload) + "\n").collect();
    std::fs::write(input.path(), lines).expect("a file that can be written");
    let command = format!("{} -c \"$0\" < {}", tool("aws/bin/python").display(), input.path().display());
    let printed = process::must_run(std::process::Command::new("bash").args(["-c", &command, SCRIPT]));
    let mut users = Vec::new();
    for line in printed.lines() {
        let records: Vec<(String, String)> = serde_json::from_str(line).expect("a list of records");
        for (key, data) in records {
            let payload = base64.decode_to_vec(data).expect("base64");
            users.push(Message {
                key: Some(key.into_bytes()),
                payload,
                position: users.len() as i64,
                ..Message::default()
            });
        }
    }
    users
}

/// Asks Kinesis for something.
///
/// # Errors
/// What it says instead, or why it does not answer.
pub fn ask(address: SocketAddr, action: &str, arguments: &Value) -> Result<Value, String> {
    let answer = exchange(address, action, arguments).map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&answer.body);
    if answer.status() != 200 {
        return Err(format!("{}: {text}", answer.start));
    }
    serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))
}

fn exchange(address: SocketAddr, action: &str, arguments: &Value) -> std::io::Result<HttpMessage> {
    let connection = TcpStream::connect(address)?;
    connection.set_read_timeout(Some(wait::TIMEOUT))?;
    let headers = [
        ("Host", address.to_string()),
        ("X-Amz-Target", format!("Kinesis_20131202.{action}")),
        ("Content-Type", "application/x-amz-json-1.1".to_owned()),
        ("Connection", "close".to_owned()),
    ];
    let request = HttpMessage {
        start: "POST / HTTP/1.1".to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value)).to_vec(),
        body: arguments.to_string().into_bytes(),
    };
    request.write(&mut &connection)?;
    HttpMessage::read(&mut BufReader::new(connection))?
        .ok_or_else(|| std::io::ErrorKind::UnexpectedEof.into())
}

/// All shards of a stream, the records of each in its order.
struct Stream {
    address: SocketAddr,
    name: String,
    /// Where to read on in each shard.
    iterators: BTreeMap<String, String>,
    position: i64,
}

impl Stream {
    fn look_for_shards(&mut self) -> Result<(), String> {
        let shards = ask(self.address, "ListShards", &json!({ "StreamName": self.name }))?;
        for shard in shards["Shards"].as_array().into_iter().flatten() {
            let id = shard["ShardId"].as_str().unwrap_or_default().to_owned();
            let begin =
                json!({ "StreamName": self.name, "ShardId": id, "ShardIteratorType": "TRIM_HORIZON" });
            let iterator = ask(self.address, "GetShardIterator", &begin)?;
            self.iterators.insert(id, iterator["ShardIterator"].as_str().unwrap_or_default().to_owned());
        }
        Ok(())
    }
}

impl Source for Stream {
    fn poll(&mut self, messages: &mut Vec<Message>) -> Result<(), String> {
        if self.iterators.is_empty() {
            self.look_for_shards()?;
        }
        for iterator in self.iterators.values_mut() {
            let next = json!({ "ShardIterator": iterator, "Limit": PAGE_RECORDS });
            let page = ask(self.address, "GetRecords", &next)?;
            for record in page["Records"].as_array().into_iter().flatten() {
                let data = record["Data"].as_str().unwrap_or_default();
                messages.push(Message {
                    key: record["PartitionKey"].as_str().map(|key| key.as_bytes().to_vec()),
                    payload: base64_simd::STANDARD.decode_to_vec(data).map_err(|e| e.to_string())?,
                    position: self.position,
                    ..Message::default()
                });
                self.position += 1;
            }
            *iterator = page["NextShardIterator"].as_str().unwrap_or_default().to_owned();
        }
        Ok(())
    }
}
