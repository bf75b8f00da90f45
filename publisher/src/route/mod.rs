//! Where an event goes: its topic or stream, and its key.
//!
//! Where the configuration names both, nothing is made for an event. What templates make is remembered for each file and writer. Names that
//! come of templates are bounded in number: those beyond `publisher.topics_max` are replaced by the fallback topic, until the next reload or
//! restart.

mod render;

use std::{
    collections::HashSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::Path,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use bywash_common::config::{Config, Topic};

use crate::{
    encode::{Cache, WriteEvent},
    rate::LogRate,
    sink_stats::sink_stats,
};

use render::Constants;

/// At most one line about names beyond the bound in this time.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// Where an event goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route<'a> {
    /// The topic or stream.
    pub topic: &'a str,
    /// The key, if it has one.
    pub key: Option<&'a [u8]>,
}

/// Where events go.
pub struct Routes {
    config: Config,
    /// Nothing where no template is in force.
    made: Option<Made>,
}

/// What templates make.
struct Made {
    constants: Constants,
    cache: Cache<Rendered>,
    names: Names,
}

/// What they make of a file and its writer. Nothing for what the configuration names.
struct Rendered {
    topic: Option<Name>,
    key: Option<Vec<u8>>,
}

/// A topic of a template.
struct Name {
    name: Arc<str>,
    /// It stands for one beyond the bound.
    is_fallback: bool,
}

/// The names that have come of templates.
struct Names {
    known: HashSet<Arc<str>>,
    max: usize,
    /// Those that nobody has been told of.
    new: Vec<Arc<str>>,
    fallback: Arc<str>,
    log: LogRate,
}

impl Names {
    fn new(config: &Config) -> Self {
        sink_stats().topics.store(0, Ordering::Relaxed);
        Self {
            known: HashSet::new(),
            max: config.publisher.topics_max as usize,
            new: Vec::new(),
            fallback: config.fallback_topic().into(),
            log: LogRate::new(LOG_INTERVAL),
        }
    }

    /// The topic of this name, if there may be one more, or else the one that stands for all further ones.
    fn admit(&mut self, name: &str) -> Name {
        if let Some(known) = self.known.get(name) {
            return Name { name: Arc::clone(known), is_fallback: false };
        }
        if self.known.len() >= self.max {
            if let Some(others) = self.log.pass() {
                tracing::warn!(
                    "events for the topic `{name}`, and for all others that are new, go to `{}`: templates have named {} topics, \
                     and publisher.topics_max is {}{others}",
                    self.fallback,
                    self.known.len(),
                    self.max
                );
            }
            return Name { name: Arc::clone(&self.fallback), is_fallback: true };
        }
        let name: Arc<str> = name.into();
        self.known.insert(Arc::clone(&name));
        self.new.push(Arc::clone(&name));
        sink_stats().topics.store(self.known.len() as u64, Ordering::Relaxed);
        Name { name, is_fallback: false }
    }
}

impl Routes {
    /// Where events go by this configuration.
    pub fn new(config: Config) -> Self {
        let is_made = config.templates().next().is_some() || config.key_template().is_some();
        let made = is_made.then(|| Made {
            constants: Constants::new(&config),
            cache: Cache::default(),
            names: Names::new(&config),
        });
        Self { config, made }
    }

    /// Where the event of a write goes. To be asked for each message: those that go to the fallback topic are counted.
    pub fn of<'a>(&'a mut self, event: &WriteEvent<'a>) -> Route<'a> {
        let Self { config, made } = self;
        let Some(made) = made else { return Route::fixed(config, event.path) };
        let Rendered { topic, key } = made.get(config, event);
        if topic.as_ref().is_some_and(|topic| topic.is_fallback) {
            sink_stats().fallbacks.fetch_add(1, Ordering::Relaxed);
        }
        let fixed = Route::fixed(config, event.path);
        Route {
            topic: topic.as_ref().map_or(fixed.topic, |topic| &topic.name),
            key: key.as_deref().or(fixed.key),
        }
    }

    /// How many bytes the key of a write's event has.
    pub fn key_bytes(&mut self, event: &WriteEvent<'_>) -> usize {
        let Self { config, made } = self;
        let key = made.as_mut().and_then(|made| made.get(config, event).key.as_ref());
        key.map(Vec::len).or(config.key_of(Some(event.path)).map(<[u8]>::len)).unwrap_or_default()
    }

    /// Has `send` send news, of the file at `path` if they are about one, to where they go: where that file's events go, unless news
    /// have a topic of their own.
    pub fn of_news<T>(&mut self, path: Option<&[u8]>, send: impl FnOnce(Route<'_>) -> T) -> T {
        let Self { config, made } = self;
        let rendered = made.as_mut().zip(path).map(|(made, path)| made.render(config, path, None));
        let (topic, key) = rendered.map_or((None, None), |Rendered { topic, key }| (topic, key));
        let named = path.map_or(config.fixed_topic(), |path| fixed_topic(config, path));
        let topic = topic.as_ref().map_or(named, |topic| &topic.name);
        let topic = config.event.loss_topic.as_deref().unwrap_or(topic);
        send(Route { topic, key: key.as_deref().or_else(|| config.key_of(path)) })
    }

    /// A topic that templates have named for the first time, and that nobody has been told of.
    pub fn take_new(&mut self) -> Option<Arc<str>> {
        self.made.as_mut()?.names.new.pop()
    }
}

/// The topic of what is written to `path`, where the configuration names it.
fn fixed_topic<'a>(config: &'a Config, path: &[u8]) -> &'a str {
    config.topic_of(Path::new(OsStr::from_bytes(path))).named().unwrap_or(config.fixed_topic())
}

impl<'a> Route<'a> {
    /// What the configuration names.
    fn fixed(config: &'a Config, path: &'a [u8]) -> Self {
        Self { topic: fixed_topic(config, path), key: config.key_of(Some(path)) }
    }
}

impl Made {
    fn get(&mut self, config: &Config, event: &WriteEvent<'_>) -> &Rendered {
        let Self { constants, cache, names } = self;
        let user = event.writer.map(|writer| writer.user);
        cache.get(event, || render(constants, names, config, event.path, user))
    }

    fn render(&mut self, config: &Config, path: &[u8], user: Option<&str>) -> Rendered {
        render(&self.constants, &mut self.names, config, path, user)
    }
}

/// What templates make of a file and the user who writes.
fn render(
    constants: &Constants,
    names: &mut Names,
    config: &Config,
    path: &[u8],
    user: Option<&str>,
) -> Rendered {
    let topic = match config.topic_of(Path::new(OsStr::from_bytes(path))) {
        Topic::Named(_) => None,
        Topic::Made(template) => Some(names.admit(&constants.name(template, config, path, user))),
    };
    let key = config.key_template().map(|template| constants.key(template, config, path, user));
    Rendered { topic, key }
}

#[cfg(test)]
mod tests;
