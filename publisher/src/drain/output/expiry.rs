//! Expired records (`publisher.age_max`) are not sent.

use super::Output;
use crate::{
    delivery::{News, Outcome, SinkError, Stretch, Ticket},
    drain::expired::Run,
};

/// So many events are told of together at most.
const EVENTS_MAX: u64 = 10_000;

impl Output {
    /// Whether what was captured then is not sent any more.
    pub fn is_expired(&self, time_ns: u64) -> bool {
        self.expired.is(time_ns)
    }

    /// Gives up an event of `bytes` bytes that begins in the record of the ticket.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn give_up(
        &mut self,
        ticket: Ticket,
        (sequence, stretch): (u64, Option<Stretch>),
        time_ns: u64,
        bytes: usize,
    ) -> Result<(), SinkError> {
        self.frontier.replace_by_news(ticket);
        let begin = stretch.map_or(0, |stretch| stretch.begin);
        let bytes = bytes as u64;
        let Some(run) = &mut self.expired.run else {
            let (events, first_ns, last_ns) = (1, time_ns, time_ns);
            self.expired.run = Some(Run { ticket, sequence, begin, events, bytes, first_ns, last_ns });
            return Ok(());
        };
        run.events += 1;
        run.bytes += bytes;
        run.first_ns = run.first_ns.min(time_ns);
        run.last_ns = run.last_ns.max(time_ns);
        let mut later = ticket;
        if ticket < run.ticket {
            // A line may end behind one that began after it.
            later = std::mem::replace(&mut run.ticket, ticket);
            (run.sequence, run.begin) = (sequence, begin);
        }
        let is_full = run.events >= EVENTS_MAX;
        // The record of the run's ticket is before it and still open, so this gives nothing back to the agent.
        self.frontier.settle(later, Outcome::Expired);
        if is_full { self.announce_expired() } else { Ok(()) }
    }

    /// Sends the news of what was given up since the last time, if there is any. To be called before anything else is sent, and
    /// before the drain waits.
    ///
    /// # Errors
    /// A [`SinkError`] if the sink cannot go on.
    pub fn announce_expired(&mut self) -> Result<(), SinkError> {
        let Some(run) = self.expired.run.take() else { return Ok(()) };
        let Run { ticket, sequence, begin, events, bytes, first_ns, last_ns } = run;
        tracing::error!(
            "{events} events ({bytes} bytes) are older than publisher.age_max: they are given up"
        );
        let news = News::Expired { sequence, begin, events };
        // Where a stop comes first the ring keeps them.
        self.send_news(ticket, news, "too_old", None, [events, bytes, first_ns, last_ns]).map(drop)
    }
}
