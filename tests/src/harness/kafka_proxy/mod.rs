//! Stands between a publisher and a Kafka-protocol broker, cuts connections at chosen requests, and asks for TLS and SASL as
//! a broker of a guarded cluster does.
//!
//! Brokers tell their clients where they are: those answers are changed, so that clients come back to the proxy.
//! The protocol: <https://kafka.apache.org/protocol>.

mod iam;
pub mod jwt;
mod sasl;
mod tls;

pub use sasl::{Account, Mechanism};
pub use tls::Authority;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{Broker, acceptor::Acceptor};
use sasl::Session;

/// The key of Produce requests.
const PRODUCE: i16 = 0;
const METADATA: i16 = 3;
/// The keys of requests whose answers say where brokers are, FindCoordinator among them.
const WHEREABOUTS: [i16; 2] = [METADATA, 10];
/// Nothing that is sent here is larger.
const FRAME_BYTES_MAX: usize = 64 << 20;

/// A request's head: key, version, number, and the length of the client's id. No answer is shorter.
const HEAD_BYTES: usize = 10;

/// What happens to a Produce request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Nothing.
    None,
    /// The connection is cut when half of the request has arrived.
    InRequest,
    /// The broker takes the request, and the connection is cut in the middle of the answer.
    InAnswer,
}

/// What a client has to bring.
#[derive(Clone, Default)]
pub struct Guard {
    /// Speaks TLS, and how.
    pub tls: Option<Arc<ServerConfig>>,
    /// Lets nobody else in.
    pub account: Option<Account>,
}

type Plan = Box<dyn FnMut() -> Cut + Send>;

struct State {
    upstream: SocketAddr,
    address: SocketAddr,
    guard: Guard,
    plan: Mutex<Plan>,
    /// Who is let in in place of the account's user.
    user: Mutex<Option<String>>,
    forbids_topics: AtomicBool,
    cuts: AtomicU32,
}

/// A running proxy.
pub struct KafkaProxy {
    state: Arc<State>,
    _acceptor: Acceptor,
}

impl KafkaProxy {
    /// Starts a proxy that does no harm.
    pub fn start(broker: &Broker) -> Self {
        Self::start_guarded(broker, Guard::default())
    }

    /// Starts a proxy that lets in who knows how.
    pub fn start_guarded(broker: &Broker, guard: Guard) -> Self {
        let mut acceptor = Acceptor::bind();
        let state = Arc::new(State {
            upstream: broker.socket_address(),
            address: acceptor.address(),
            guard,
            plan: Mutex::new(Box::new(|| Cut::None)),
            user: Mutex::default(),
            forbids_topics: AtomicBool::new(false),
            cuts: AtomicU32::new(0),
        });
        let serving = Arc::clone(&state);
        acceptor.start(move |client| serving.serve(client));
        Self { state, _acceptor: acceptor }
    }

    /// Decides about each Produce request from now on.
    pub fn plan(&self, plan: impl FnMut() -> Cut + Send + 'static) {
        *self.state.plan.lock().unwrap() = Box::new(plan);
    }

    /// Lets another user in from now on, and nobody else. Who is in stays in.
    pub fn let_in_only(&self, user: &str) {
        *self.state.user.lock().unwrap() = Some(user.to_owned());
    }

    /// Has topics not come into being by being used, as `auto.create.topics.enable = false` does.
    pub fn forbid_topics(&self) {
        self.state.forbids_topics.store(true, Ordering::Relaxed);
    }

    /// How many connections were cut.
    pub fn cuts(&self) -> u32 {
        self.state.cuts.load(Ordering::Relaxed)
    }

    /// Its host and port.
    pub fn address(&self) -> String {
        self.state.address.to_string()
    }
}

impl State {
    /// One request after the other, as brokers answer them.
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        client.set_nodelay(true)?;
        let Some(tls) = &self.guard.tls else { return self.serve_wire(client) };
        let connection = ServerConnection::new(Arc::clone(tls)).map_err(io::Error::other)?;
        self.serve_wire(StreamOwned::new(connection, client))
    }

    fn serve_wire(&self, mut client: impl Read + Write) -> io::Result<()> {
        let mut upstream = TcpStream::connect(self.upstream)?;
        upstream.set_nodelay(true)?;
        let mut session = self.account().map(|account| Session::new(&account));
        loop {
            let mut request = read_frame(&mut client)?;
            if let Some(answer) = session.as_mut().and_then(|session| session.answer(&request).transpose()) {
                client.write_all(&answer?)?;
                client.flush()?;
                continue;
            }
            let api_key = api_key(&request);
            if api_key == METADATA && self.forbids_topics.load(Ordering::Relaxed) {
                forbid_topics(&mut request);
            }
            let cut = if api_key == PRODUCE { (self.plan.lock().unwrap())() } else { Cut::None };
            self.cuts.fetch_add((cut != Cut::None).into(), Ordering::Relaxed);
            if cut == Cut::InRequest {
                return upstream.write_all(&request[..request.len() / 2]);
            }
            upstream.write_all(&request)?;
            let mut answer = read_frame(&mut upstream)?;
            if WHEREABOUTS.contains(&api_key) {
                self.take_the_brokers_place(&mut answer);
            }
            if let Some(session) = &session {
                session.declare(&request, &mut answer);
            }
            if cut == Cut::InAnswer {
                client.write_all(&answer[..answer.len() / 2])?;
                return client.flush();
            }
            client.write_all(&answer)?;
            client.flush()?;
        }
    }

    /// Who is let in.
    fn account(&self) -> Option<Account> {
        let account = self.guard.account.clone()?;
        let user = self.user.lock().unwrap().clone().unwrap_or(account.user);
        Some(Account { user, ..account })
    }

    /// Puts the proxy's port behind the host wherever the broker's is there: in every version of an answer a port comes
    /// as four bytes right behind its host.
    fn take_the_brokers_place(&self, answer: &mut [u8]) {
        let place = |address: SocketAddr| {
            let mut bytes = address.ip().to_string().into_bytes();
            bytes.extend(u32::from(address.port()).to_be_bytes());
            bytes
        };
        let (theirs, ours) = (place(self.upstream), place(self.address));
        for at in 0..answer.len().saturating_sub(theirs.len() - 1) {
            if answer[at..].starts_with(&theirs) {
                answer[at..at + ours.len()].copy_from_slice(&ours);
            }
        }
    }
}

/// Takes `allow_auto_topic_creation` from a Metadata request, where it is followed by other switches and tagged fields.
fn forbid_topics(request: &mut [u8]) {
    let from_the_end = match i16::from_be_bytes([request[6], request[7]]) {
        ..=3 => return,
        4..=7 => 1,
        8 => 3,
        9..=10 => 4,
        11.. => 3,
    };
    let at = request.len() - from_the_end;
    request[at] = 0;
}

/// Which request it is.
fn api_key(request: &[u8]) -> i16 {
    i16::from_be_bytes([request[4], request[5]])
}

/// A request or an answer with its length in front.
fn read_frame(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    from.read_exact(&mut frame)?;
    let length = usize::try_from(i32::from_be_bytes([frame[0], frame[1], frame[2], frame[3]]));
    let length = length.ok().filter(|length| (HEAD_BYTES..=FRAME_BYTES_MAX).contains(length));
    frame.resize(4 + length.ok_or(ErrorKind::InvalidData)?, 0);
    from.read_exact(&mut frame[4..])?;
    Ok(frame)
}
