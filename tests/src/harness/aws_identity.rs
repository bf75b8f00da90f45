//! Those of AWS's services that give credentials out, as far as its SDK asks them: the endpoint of a container or a
//! machine, STS (AssumeRole, AssumeRoleWithWebIdentity) and the SSO portal.

use std::{
    io::{self, BufReader},
    net::TcpStream,
    sync::{Arc, Mutex},
    time::Duration,
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{acceptor::Acceptor, http::HttpMessage};

/// Long behind the end of any test: what is refused before is refused though it has not expired.
const EXPIRATION: &str = "2099-01-01T00:00:00Z";
const EXPIRATION_MS: u64 = 4_070_908_800_000;

/// What is given out, and to whom.
#[derive(Default)]
struct State {
    /// The access key that is given out.
    key: String,
    /// Whoever shows another token, or signs with another key, is told that it has expired.
    accepted: Option<String>,
    /// How many asked.
    requests: usize,
    /// How long what is given out lasts; nothing for longer than any test.
    life: Option<Duration>,
}

/// A running service.
pub struct AwsIdentity {
    acceptor: Acceptor,
    state: Arc<Mutex<State>>,
}

impl AwsIdentity {
    /// Starts it; it gives `key` out to everybody.
    pub fn start(key: &str) -> Self {
        let mut acceptor = Acceptor::bind();
        let state = Arc::new(Mutex::new(State { key: key.to_owned(), ..State::default() }));
        let serving = Arc::clone(&state);
        acceptor.start(move |client| serve(&serving, client));
        Self { acceptor, state }
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}", self.acceptor.address())
    }

    /// Gives another access key out from now on.
    pub fn give_out(&self, key: &str) {
        key.clone_into(&mut self.state.lock().unwrap().key);
    }

    /// Tells everybody else from now on that what they show has expired.
    pub fn accept_only(&self, shown: &str) {
        self.state.lock().unwrap().accepted = Some(shown.to_owned());
    }

    /// What is given out from now on lasts so long.
    pub fn last(&self, life: Duration) {
        self.state.lock().unwrap().life = Some(life);
    }

    /// How many have asked.
    pub fn requests(&self) -> usize {
        self.state.lock().unwrap().requests
    }
}

fn serve(state: &Mutex<State>, client: &TcpStream) -> io::Result<()> {
    let mut requests = BufReader::new(client);
    while let Some(request) = HttpMessage::read(&mut requests)? {
        answer(&mut state.lock().unwrap(), &request).write(&mut &*client)?;
    }
    Ok(())
}

fn answer(state: &mut State, request: &HttpMessage) -> HttpMessage {
    state.requests += 1;
    let body = String::from_utf8_lossy(&request.body);
    let action = body.split('&').find_map(|pair| pair.strip_prefix("Action="));
    if let Some(shown) = &state.accepted {
        // In the body, a header's signature, or a header of its own.
        let is_shown = body.contains(shown) || request.headers.iter().any(|(_, value)| value.contains(shown));
        if !is_shown {
            return match action {
                Some(_) => message(
                    403,
                    "text/xml",
                    "<ErrorResponse><Error><Type>Sender</Type><Code>ExpiredToken</Code><Message>it has expired\
                     </Message></Error></ErrorResponse>"
                        .to_owned(),
                ),
                None => json_message(401, &json!({ "__type": "UnauthorizedException", "message": "it has expired" })),
            };
        }
    }
    let key = &state.key;
    let expiration = state.life.map_or(EXPIRATION.to_owned(), |life| (Timestamp::now() + life).to_string());
    match action {
        Some(action) => {
            let result = format!(
                "<{action}Response><{action}Result><Credentials><AccessKeyId>{key}</AccessKeyId><SecretAccessKey>s\
                 </SecretAccessKey><SessionToken>t</SessionToken><Expiration>{expiration}</Expiration></Credentials>\
                 <AssumedRoleUser><Arn>arn:aws:sts::1:assumed-role/r/s</Arn><AssumedRoleId>A:s</AssumedRoleId>\
                 </AssumedRoleUser></{action}Result></{action}Response>"
            );
            message(200, "text/xml", result)
        }
        None if request.start.contains("/federation/credentials") => json_message(
            200,
            &json!({ "roleCredentials": {
                "accessKeyId": key, "secretAccessKey": "s", "sessionToken": "t", "expiration": EXPIRATION_MS
            } }),
        ),
        None => json_message(
            200,
            &json!({ "AccessKeyId": key, "SecretAccessKey": "s", "Token": "t", "Expiration": expiration }),
        ),
    }
}

fn json_message(status: u16, body: &Value) -> HttpMessage {
    message(status, "application/json", body.to_string())
}

fn message(status: u16, kind: &str, body: String) -> HttpMessage {
    let headers = vec![("Content-Type".to_owned(), kind.to_owned())];
    HttpMessage { start: format!("HTTP/1.1 {status} X"), headers, body: body.into_bytes() }
}
