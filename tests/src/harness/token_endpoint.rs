//! An endpoint that gives tokens to whoever has a client's id and secret (OAuth 2.0, "client credentials": RFC 6749, section 4.4).

use std::{
    io::{self, BufReader},
    net::TcpStream,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use serde_json::json;

use super::{acceptor::Acceptor, http::HttpMessage, kafka_proxy::jwt};

/// The client whom it knows, and what that knows.
pub const CLIENT: (&str, &str) = ("shipper", "hunter2");

struct State {
    subject: String,
    key: String,
    seconds: i64,
    refuses: AtomicBool,
    given: AtomicUsize,
}

/// A running endpoint.
pub struct TokenEndpoint {
    acceptor: Acceptor,
    state: Arc<State>,
}

impl TokenEndpoint {
    /// Starts one that gives [`CLIENT`] tokens of `subject`, signed with `key`, that last so many seconds.
    pub fn start(subject: &str, key: &str, seconds: i64) -> Self {
        let state = Arc::new(State {
            subject: subject.to_owned(),
            key: key.to_owned(),
            seconds,
            refuses: AtomicBool::new(false),
            given: AtomicUsize::new(0),
        });
        let mut acceptor = Acceptor::bind();
        let serving = Arc::clone(&state);
        acceptor.start(move |client| serving.serve(client));
        Self { acceptor, state }
    }

    /// Where tokens are asked for.
    pub fn url(&self) -> String {
        format!("http://{}/token", self.acceptor.address())
    }

    /// Whether everybody is refused from now on.
    pub fn refuse(&self, refuses: bool) {
        self.state.refuses.store(refuses, Ordering::Relaxed);
    }

    /// How many tokens were given.
    pub fn given(&self) -> usize {
        self.state.given.load(Ordering::Relaxed)
    }
}

impl State {
    fn serve(&self, client: &TcpStream) -> io::Result<()> {
        let mut requests = BufReader::new(client);
        while let Some(request) = HttpMessage::read(&mut requests)? {
            self.answer(&request).write(&mut &*client)?;
        }
        Ok(())
    }

    fn answer(&self, request: &HttpMessage) -> HttpMessage {
        let (id, secret) = CLIENT;
        let basic = format!("Basic {}", base64_simd::STANDARD.encode_to_string(format!("{id}:{secret}")));
        let is_known = request.start.starts_with("POST /token ")
            && request.header("authorization") == Some(&basic)
            && String::from_utf8_lossy(&request.body).contains("grant_type=client_credentials");
        let (status, body) = if is_known && !self.refuses.load(Ordering::Relaxed) {
            self.given.fetch_add(1, Ordering::Relaxed);
            let token = jwt::make(&self.subject, &self.key, self.seconds);
            ("200 OK", json!({ "access_token": token, "token_type": "Bearer", "expires_in": self.seconds }))
        } else {
            ("401 Unauthorized", json!({ "error": "invalid_client", "error_description": "who is that?" }))
        };
        HttpMessage {
            start: format!("HTTP/1.1 {status}"),
            headers: vec![("Content-Type".to_owned(), "application/json".to_owned())],
            body: body.to_string().into_bytes(),
        }
    }
}
