//! Stands between a publisher and Kinesis, does to chosen requests what networks and services do, and holds each
//! request to Kinesis' limits.

use std::{
    collections::{BTreeSet, HashMap},
    io::{self, BufReader, Read},
    net::{Shutdown, SocketAddr, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

use super::{Kinesis, acceptor::Acceptor, http::HttpMessage};

/// What Kinesis takes in a request (API reference, `PutRecords`; the sizes are the defaults).
const REQUEST_RECORDS_MAX: usize = 500;
const REQUEST_BYTES_MAX: usize = 5 << 20;
const RECORD_BYTES_MAX: usize = 1 << 20;
/// How long temporary credentials last that the proxy makes short-lived: less than the publisher wants to have left.
const SHORT_LIFE: Duration = Duration::from_secs(20);

/// What happens to a PutRecords request, or to one that reads.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing.
    None,
    /// Records at these places fail with this code; the others are taken.
    Records(Vec<usize>, &'static str),
    /// Nothing is taken: this status, code and message.
    Call(u16, &'static str, &'static str),
    /// Nothing is taken or answered, and the connection stays open.
    Stall,
    /// Nothing is taken, and the connection is cut.
    Cut,
    /// The answer takes its time.
    Slow(Duration),
    /// All is taken, and the answer says that Kinesis failed.
    TakenThenError,
    /// All is taken, and the answer never comes.
    TakenThenStall,
    /// All is taken, and the connection is cut in place of an answer.
    TakenThenCut,
}

/// A PutRecords request.
#[derive(Clone, Debug)]
pub struct Put {
    /// The stream that it is for.
    pub stream: String,
    /// What decides the shard of each record: its explicit hash key, or else its partition key.
    pub keys: Vec<String>,
    /// What each carries.
    pub data: Vec<Vec<u8>>,
    /// The bytes that count against the limit.
    pub bytes: usize,
    /// Whose credentials signed it.
    pub access_key: String,
}

type Plan = Box<dyn FnMut(&Put) -> Fault + Send>;
type ReadPlan = Box<dyn FnMut() -> Fault + Send>;

/// What went through.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// PutRecords requests.
    pub puts: usize,
    /// Records in them.
    pub records: usize,
    /// The most PutRecords requests at a time.
    pub at_once_max: usize,
    /// The access keys of PutRecords requests.
    pub access_keys: BTreeSet<String>,
    /// The session names of AssumeRole requests, one for each.
    pub sessions: Vec<String>,
    /// What must not be.
    violations: Vec<String>,
}

/// What is on its way.
#[derive(Default)]
struct Out {
    requests: usize,
    /// How many of them hold records of a key.
    keys: HashMap<String, usize>,
}

struct State {
    upstream: SocketAddr,
    plan: Mutex<Plan>,
    read_plan: Mutex<ReadPlan>,
    seen: Mutex<Seen>,
    out: Mutex<Out>,
    /// Everything stands still.
    is_stalled: Mutex<bool>,
    moved: Condvar,
    /// A key's records may share a request.
    is_relaxed: AtomicBool,
    has_short_sessions: AtomicBool,
    /// Nobody may list shards.
    denies_listing: AtomicBool,
}

/// A running proxy.
pub struct FaultProxy {
    acceptor: Acceptor,
    state: Arc<State>,
}

impl FaultProxy {
    /// Starts a proxy that does no harm.
    pub fn start(kinesis: &Kinesis) -> Self {
        let mut acceptor = Acceptor::bind();
        let state = Arc::new(State {
            upstream: kinesis.address(),
            plan: Mutex::new(Box::new(|_| Fault::None)),
            read_plan: Mutex::new(Box::new(|| Fault::None)),
            seen: Mutex::default(),
            out: Mutex::default(),
            is_stalled: Mutex::new(false),
            moved: Condvar::new(),
            is_relaxed: AtomicBool::new(false),
            has_short_sessions: AtomicBool::new(false),
            denies_listing: AtomicBool::new(false),
        });
        let serving = Arc::clone(&state);
        acceptor.start(move |client| serve(&serving, client));
        Self { acceptor, state }
    }

    /// Decides about each PutRecords request from now on.
    pub fn plan(&self, plan: impl FnMut(&Put) -> Fault + Send + 'static) {
        *self.state.plan.lock().unwrap() = Box::new(plan);
    }

    /// Decides about each GetRecords request from now on.
    pub fn plan_reads(&self, plan: impl FnMut() -> Fault + Send + 'static) {
        *self.state.read_plan.lock().unwrap() = Box::new(plan);
    }

    /// Lets records of one key share a request.
    pub fn allow_shared_requests(&self) {
        self.state.is_relaxed.store(true, Ordering::Relaxed);
    }

    /// Lets nobody list shards.
    pub fn deny_listing(&self) {
        self.state.denies_listing.store(true, Ordering::Relaxed);
    }

    /// Makes the credentials of assumed roles expire soon.
    pub fn shorten_sessions(&self) {
        self.state.has_short_sessions.store(true, Ordering::Relaxed);
    }

    /// Answers nothing any more; connections stay open.
    pub fn stall(&self) {
        *self.state.is_stalled.lock().unwrap() = true;
    }

    /// Answers again; requests that came meanwhile are lost.
    pub fn resume(&self) {
        *self.state.is_stalled.lock().unwrap() = false;
        self.state.moved.notify_all();
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.acceptor.address())
    }

    /// What went through.
    ///
    /// # Panics
    /// If a request broke a limit, or the order that is promised.
    #[track_caller]
    pub fn seen(&self) -> Seen {
        let seen = self.state.seen.lock().unwrap().clone();
        assert!(seen.violations.is_empty(), "{:#?}", seen.violations);
        seen
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.resume();
        if !thread::panicking() {
            self.seen();
        }
    }
}

fn serve(state: &State, client: &TcpStream) -> io::Result<()> {
    let upstream = TcpStream::connect(state.upstream)?;
    for connection in [client, &upstream] {
        connection.set_nodelay(true)?;
    }
    let mut requests = BufReader::new(client);
    let mut answers = BufReader::new(&upstream);
    while let Some(request) = HttpMessage::read(&mut requests)? {
        if state.stood_still() {
            return Ok(());
        }
        let mut forward = |request: &HttpMessage| {
            request.write(&mut &upstream)?;
            HttpMessage::read(&mut answers)?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
        };
        if request.header("x-amz-target").is_some_and(|target| target.ends_with(".PutRecords")) {
            let put = Put::parse(&request)?;
            state.note(&put);
            let fault = (state.plan.lock().unwrap())(&put);
            let answer = answer(&request, &fault, &mut forward);
            state.forget(&put);
            match answer? {
                Some(answer) => answer.write(&mut &*client)?,
                None if matches!(fault, Fault::Stall | Fault::TakenThenStall) => {
                    // Until the client gives up.
                    drop(requests.read(&mut [0]));
                    return Ok(());
                }
                None => return client.shutdown(Shutdown::Both),
            }
        } else if request.header("x-amz-target").is_some_and(|target| target.ends_with(".GetRecords")) {
            let fault = (state.read_plan.lock().unwrap())();
            match answer(&request, &fault, &mut forward)? {
                Some(answer) => answer.write(&mut &*client)?,
                None => return client.shutdown(Shutdown::Both),
            }
        } else if state.denies_listing.load(Ordering::Relaxed)
            && request.header("x-amz-target").is_some_and(|target| target.ends_with(".ListShards"))
        {
            error(400, "AccessDeniedException", "not authorized to perform: kinesis:ListShards")
                .write(&mut &*client)?;
        } else {
            let mut answer = forward(&request)?;
            state.note_session(&request, &mut answer);
            answer.write(&mut &*client)?;
        }
    }
    Ok(())
}

/// What the client is told; nothing if it is to hear nothing.
fn answer(
    request: &HttpMessage,
    fault: &Fault,
    forward: &mut impl FnMut(&HttpMessage) -> io::Result<HttpMessage>,
) -> io::Result<Option<HttpMessage>> {
    Ok(match fault {
        Fault::None => Some(forward(request)?),
        Fault::Slow(time) => {
            let answer = forward(request)?;
            thread::sleep(*time);
            Some(answer)
        }
        Fault::Records(places, code) => Some(fail_records(request, places, code, forward)?),
        Fault::Call(status, code, message) => Some(error(*status, code, message)),
        Fault::Stall | Fault::Cut => None,
        Fault::TakenThenError => {
            forward(request)?;
            Some(error(500, "InternalFailure", "taken, in truth"))
        }
        Fault::TakenThenStall | Fault::TakenThenCut => {
            forward(request)?;
            None
        }
    })
}

fn error(status: u16, code: &str, message: &str) -> HttpMessage {
    json_answer(status, &json!({ "__type": code, "message": message }))
}

fn json_answer(status: u16, body: &Value) -> HttpMessage {
    let headers = vec![("Content-Type".to_owned(), "application/x-amz-json-1.1".to_owned())];
    HttpMessage { start: format!("HTTP/1.1 {status} X"), headers, body: body.to_string().into_bytes() }
}

/// Forwards the records that do not fail, and puts the results together.
fn fail_records(
    request: &HttpMessage,
    places: &[usize],
    code: &str,
    forward: &mut impl FnMut(&HttpMessage) -> io::Result<HttpMessage>,
) -> io::Result<HttpMessage> {
    let mut body: Value = serde_json::from_slice(&request.body)?;
    let records = std::mem::take(body["Records"].as_array_mut().unwrap());
    let fails = |place: &usize| places.contains(place);
    let failed = (0..records.len()).filter(fails).count();
    let good: Vec<_> =
        records.iter().enumerate().filter(|(i, _)| !fails(i)).map(|(_, r)| r.clone()).collect();
    let mut taken = Vec::new().into_iter();
    if !good.is_empty() {
        body["Records"] = good.into();
        let forwarded = forward(&HttpMessage { body: body.to_string().into_bytes(), ..request.clone() })?;
        let mut results: Value = serde_json::from_slice(&forwarded.body)?;
        let Some(list) = results["Records"].as_array_mut() else { return Ok(forwarded) };
        taken = std::mem::take(list).into_iter();
    }
    let result = |place: usize| {
        let failure = || Some(json!({ "ErrorCode": code, "ErrorMessage": "it failed" }));
        if fails(&place) { failure() } else { taken.next() }
    };
    let results: Vec<Value> = (0..records.len()).filter_map(result).collect();
    Ok(json_answer(200, &json!({ "FailedRecordCount": failed, "Records": results })))
}

impl Put {
    fn parse(request: &HttpMessage) -> io::Result<Self> {
        let body: Value = serde_json::from_slice(&request.body)?;
        let authorization = request.header("authorization").unwrap_or_default();
        let access_key = authorization.split_once("Credential=").and_then(|(_, rest)| rest.split('/').next());
        let mut put = Self {
            stream: body["StreamName"].as_str().unwrap_or_default().to_owned(),
            keys: Vec::new(),
            data: Vec::new(),
            bytes: 0,
            access_key: access_key.unwrap_or_default().to_owned(),
        };
        for record in body["Records"].as_array().into_iter().flatten() {
            let partition_key = record["PartitionKey"].as_str().unwrap_or_default();
            let data = record["Data"].as_str().unwrap_or_default();
            let data = base64_simd::STANDARD.decode_to_vec(data).map_err(io::Error::other)?;
            put.bytes += partition_key.len() + data.len();
            put.keys.push(record["ExplicitHashKey"].as_str().unwrap_or(partition_key).to_owned());
            put.data.push(data);
        }
        Ok(put)
    }
}

impl State {
    /// Waits while everything stands still; whether it did.
    fn stood_still(&self) -> bool {
        let stalled = self.is_stalled.lock().unwrap();
        let was_stalled = *stalled;
        drop(self.moved.wait_while(stalled, |stalled| *stalled).unwrap());
        was_stalled
    }

    fn note(&self, put: &Put) {
        let mut seen = self.seen.lock().unwrap();
        seen.puts += 1;
        seen.records += put.keys.len();
        seen.access_keys.insert(put.access_key.clone());
        let mut violations = Vec::new();
        if put.keys.is_empty() || put.keys.len() > REQUEST_RECORDS_MAX {
            violations.push(format!("a request of {} records", put.keys.len()));
        }
        if put.bytes > REQUEST_BYTES_MAX {
            violations.push(format!("a request of {} bytes", put.bytes));
        }
        for (key, data) in put.keys.iter().zip(&put.data) {
            if key.is_empty() || key.chars().count() > 256 || key.len() + data.len() > RECORD_BYTES_MAX {
                violations.push(format!("a record of {} bytes, key {key}", key.len() + data.len()));
            }
        }
        let mut out = self.out.lock().unwrap();
        let distinct: BTreeSet<_> = put.keys.iter().collect();
        if distinct.len() < put.keys.len() && !self.is_relaxed.load(Ordering::Relaxed) {
            violations.push(format!("records of one key in a request: {:?}", put.keys));
        }
        for key in distinct {
            let requests = out.keys.entry(key.clone()).or_default();
            *requests += 1;
            if *requests > 1 {
                violations.push(format!("two requests at a time hold records of {key}"));
            }
        }
        out.requests += 1;
        seen.at_once_max = seen.at_once_max.max(out.requests);
        seen.violations.append(&mut violations);
    }

    fn forget(&self, put: &Put) {
        let mut out = self.out.lock().unwrap();
        for key in put.keys.iter().collect::<BTreeSet<_>>() {
            if let Some(requests) = out.keys.get_mut(key) {
                *requests -= 1;
            }
        }
        out.keys.retain(|_, requests| *requests > 0);
        out.requests -= 1;
    }

    fn note_session(&self, request: &HttpMessage, answer: &mut HttpMessage) {
        let text = String::from_utf8_lossy(&request.body);
        if !text.contains("Action=AssumeRole") {
            return;
        }
        let name = text.split('&').find_map(|pair| pair.strip_prefix("RoleSessionName="));
        self.seen.lock().unwrap().sessions.push(name.unwrap_or_default().to_owned());
        if self.has_short_sessions.load(Ordering::Relaxed) {
            let body = String::from_utf8_lossy(&answer.body).into_owned();
            let (before, rest) = body.split_once("<Expiration>").expect("credentials expire");
            let (_, after) = rest.split_once("</Expiration>").expect("XML");
            let end = jiff::Timestamp::now() + SHORT_LIFE;
            let end = end.round(jiff::Unit::Second).expect("a time that can be rounded");
            answer.body = format!("{before}<Expiration>{end}</Expiration>{after}").into_bytes();
        }
    }
}
