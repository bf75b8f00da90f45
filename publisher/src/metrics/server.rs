//! The server: a thread, its connections, and what a client can cost at most.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::ready,
    net::{SocketAddr, TcpListener as Bound},
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use bywash_common::config::Config;
use hyper::{
    Method, Request, Response, StatusCode,
    header::{ALLOW, CONTENT_TYPE, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::{AbortHandle, yield_now},
    time::{sleep, timeout},
};

use crate::rate::LogRate;

use super::{all, exposition, families::Seen, places::Places};

/// Where the metrics are.
const PATH: &str = "/metrics";
/// Whether the process lives: it answers.
const HEALTH_PATH: &str = "/healthz";
/// Whether it drains the ring.
const READY_PATH: &str = "/readyz";
/// What any other answer is.
const PLAIN: &str = "text/plain; charset=utf-8";
/// How many connections are open at most; one more closes the oldest.
const CONNECTIONS_MAX: usize = 16;
/// How long a connection may take in all: to send its request and to read the answer.
const CONNECTION_TIME_MAX: Duration = Duration::from_secs(10);
/// The most bytes of a request. hyper takes no less.
const REQUEST_BYTES_MAX: usize = 8 << 10;
/// How long nobody is let in when the system has refused to: for want of descriptors, say.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);
/// At most one line of each kind of trouble in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Why metrics cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Nobody can listen there.
    #[error(
        "cannot listen on {listen} for metrics: {error}; set metrics.listen to an address of this machine and a port that is free \
         (0 for one that the system chooses)"
    )]
    Bind {
        /// `metrics.listen`
        listen: SocketAddr,
        /// What the system said.
        error: std::io::Error,
    },
    /// The system gives no thread or descriptor.
    #[error("cannot start serving metrics: {0}")]
    Start(#[from] std::io::Error),
}

/// Serves metrics until it is dropped.
#[derive(Debug)]
pub struct Server {
    /// Dropped to end the thread.
    alive: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens where the configuration says, and names the place in the log; gives none if that is nowhere.
    ///
    /// # Errors
    /// A [`ServeError`] with what is in the way.
    pub fn start(config: &Config) -> Result<Option<Self>, ServeError> {
        let Some(listen) = config.metrics.listen else { return Ok(None) };
        let bound = Bound::bind(listen).map_err(|error| ServeError::Bind { listen, error })?;
        bound.set_nonblocking(true)?;
        let address = bound.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(bound)?
        };
        let (alive, end) = oneshot::channel();
        let places = Arc::new(Places::new(config));
        // What is open when the end comes is closed with the runtime.
        let serve = move || runtime.block_on(serve(listener, places, end));
        let thread = std::thread::Builder::new().name("metrics".to_owned()).spawn(serve)?;
        tracing::info!("metrics are at http://{address}{PATH}");
        Ok(Some(Self { alive: Some(alive), thread: Some(thread) }))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that serves metrics has failed");
        }
    }
}

async fn serve(listener: TcpListener, places: Arc<Places>, mut end: oneshot::Receiver<()>) {
    let mut open: VecDeque<AbortHandle> = VecDeque::with_capacity(CONNECTIONS_MAX);
    let mut log = LogRate::new(LOG_INTERVAL);
    loop {
        let accepted = tokio::select! {
            _ = &mut end => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                open.retain(|client| !client.is_finished());
                if open.len() >= CONNECTIONS_MAX
                    && let Some(oldest) = open.pop_front()
                {
                    oldest.abort();
                }
                open.push_back(
                    tokio::spawn(answer(stream, Arc::clone(&places), CONNECTION_TIME_MAX)).abort_handle(),
                );
                // Of many that come at once, each gets its answer before it can be the oldest.
                yield_now().await;
            }
            Err(error) => {
                if let Some(held_back) = log.pass() {
                    tracing::warn!("metrics: cannot let a client in: {error}{held_back}");
                }
                tokio::select! {
                    _ = &mut end => return,
                    () = sleep(ACCEPT_PAUSE) => {}
                }
            }
        }
    }
}

/// Answers the one request of a connection, which may take `time_max` in all.
pub(super) async fn answer(stream: TcpStream, places: Arc<Places>, time_max: Duration) {
    let service = service_fn(|request| ready(Ok::<_, Infallible>(respond(&request, &places))));
    let connection = http1::Builder::new()
        .keep_alive(false)
        // The time of the whole connection is limited instead.
        .header_read_timeout(None)
        .max_header_size(REQUEST_BYTES_MAX)
        .max_buf_size(REQUEST_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(time_max, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("metrics: a client went wrong: {error}"),
        Err(_) => tracing::debug!("metrics: a client took longer than {time_max:?}"),
    }
}

/// The answer to a request, whatever its body.
fn respond<B>(request: &Request<B>, places: &Places) -> Response<String> {
    let is_read = [Method::GET, Method::HEAD].contains(request.method());
    let seen = || Seen::now(places).map_err(|error| error.to_string());
    let (status, text) = match request.uri().path() {
        PATH | HEALTH_PATH | READY_PATH if !is_read => {
            (StatusCode::METHOD_NOT_ALLOWED, "use GET or HEAD".to_owned())
        }
        PATH => match seen() {
            Ok(seen) => (StatusCode::OK, all::page(&seen)),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error),
        },
        HEALTH_PATH => (StatusCode::OK, "alive".to_owned()),
        READY_PATH => match seen().and_then(|seen| seen.readiness()) {
            Ok(()) => (StatusCode::OK, "draining the ring".to_owned()),
            Err(why) => (StatusCode::SERVICE_UNAVAILABLE, why),
        },
        _ => (StatusCode::NOT_FOUND, format!("there are {PATH}, {HEALTH_PATH} and {READY_PATH}")),
    };
    let is_page = status == StatusCode::OK && request.uri().path() == PATH;
    let mut response = Response::new(if is_page { text } else { text + "\n" });
    *response.status_mut() = status;
    let headers = response.headers_mut();
    let content_type = if is_page { exposition::CONTENT_TYPE } else { PLAIN };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}
