//! librdkafka's calls for transactions, made in a thread of their own.
//!
//! They take longer than they are told to: a request for a coordinator that is away waits until the connection has been tried
//! again, which is `reconnect.backoff.max.ms` later, and for as long as that attempt takes. The drain has to look at the spool and
//! for a stop meanwhile.

use std::{
    io,
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::Duration,
};

use rdkafka::{
    TopicPartitionList,
    consumer::ConsumerGroupMetadata,
    error::KafkaError,
    producer::{BaseProducer, Producer as _, ProducerContext},
};

/// How long one call may take, as librdkafka is told, and holds up the drain; one that takes longer is waited for again.
const STEP_TIMEOUT: Duration = Duration::from_millis(500);

/// A call.
pub enum Call {
    /// Ends what a predecessor has left.
    Begin,
    /// Puts the checkpoint into the transaction.
    Checkpoint(TopicPartitionList),
    /// Commits it.
    Commit,
    /// Takes it back.
    Abort,
}

/// The thread that makes them, one at a time.
pub struct Calls {
    ask: Sender<Call>,
    made: Receiver<Result<(), KafkaError>>,
    /// One is on its way.
    is_out: bool,
}

/// The thread has ended, which a panic in it has been said to be the reason of.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the thread for transactions has ended")]
pub struct Ended;

impl Calls {
    /// Starts the thread; it ends with this.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub fn start<C: ProducerContext + 'static>(
        producer: Arc<BaseProducer<C>>,
        group: ConsumerGroupMetadata,
    ) -> io::Result<Self> {
        let (ask, asked) = mpsc::channel();
        let (tell, made) = mpsc::channel();
        let work = move || {
            while let Ok(call) = asked.recv() {
                let result = match call {
                    Call::Begin => producer.init_transactions(STEP_TIMEOUT),
                    Call::Checkpoint(offsets) => {
                        producer.send_offsets_to_transaction(&offsets, &group, STEP_TIMEOUT)
                    }
                    Call::Commit => producer.commit_transaction(STEP_TIMEOUT),
                    Call::Abort => producer.abort_transaction(STEP_TIMEOUT),
                };
                if tell.send(result).is_err() {
                    return;
                }
            }
        };
        thread::Builder::new().name("transactions".to_owned()).spawn(work)?;
        Ok(Self { ask, made, is_out: false })
    }

    /// Makes a call, unless one is on its way, and gives the result of that; none if it is to be asked for again.
    ///
    /// # Errors
    /// [`Ended`] if there will be none.
    pub fn make(&mut self, call: Call) -> Result<Option<Result<(), KafkaError>>, Ended> {
        if !self.is_out {
            self.ask.send(call).map_err(|_| Ended)?;
            self.is_out = true;
        }
        match self.made.recv_timeout(STEP_TIMEOUT) {
            Ok(result) => {
                self.is_out = false;
                Ok(Some(result))
            }
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Ended),
        }
    }
}
