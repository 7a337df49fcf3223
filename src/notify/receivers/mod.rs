//! The receivers: each renders a notification for its peer and delivers it, once a call.
//!
//! A receiver **never** retries, stores, groups or decides who is told; it knows neither windows nor rules, and it never
//! shows a secret. Adding one is a file here, a variant of [`ReceiverKind`] and a line in [`build`].

mod alertmanager;
mod email;
mod http;
mod journal;
mod recent;
mod samples;
mod secret;
mod sign;
mod slack;
mod template;
mod text;
mod webhook;

use crate::config::{Config, Receiver as Settings, ReceiverKind};
use crate::notify::Receiver;

pub use email::Progress;
pub use http::{check_address, parse_retry_after};
pub use secret::Secret;

/// Why a receiver cannot be made of its settings. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("receiver `{receiver}`: `{key}`: {}", .fault.why)]
pub struct BuildError {
    /// Its name.
    pub receiver: String,
    /// The key of its table that is at fault.
    pub key: &'static str,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong with the value of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What is wrong, without a full stop.
    pub why: String,
    /// What to do about it.
    pub help: Option<String>,
    /// Only the service can tell: a systemd credential that is asked for elsewhere.
    pub unknown_here: bool,
}

impl Fault {
    fn new(why: impl Into<String>) -> Fault {
        Fault { why: why.into(), help: None, unknown_here: false }
    }

    fn help(mut self, help: impl Into<String>) -> Fault {
        self.help = Some(help.into());
        self
    }

    fn at(self, key: &'static str) -> Wrong {
        (key, self)
    }
}

/// A fault and its key; the receiver's name is added in [`build`].
type Wrong = (&'static str, Fault);

/// Makes a receiver: reads its secrets, certificates and templates, and tries the templates. Connects to nothing.
///
/// # Errors
/// The first thing that is wrong.
pub fn build(receiver: &Settings, host: &str) -> Result<Box<dyn Receiver>, BuildError> {
    let made: Result<Box<dyn Receiver>, Wrong> = match &receiver.kind {
        ReceiverKind::Webhook(settings) => webhook::build(settings, host).map(|r| Box::new(r) as _),
        ReceiverKind::Alertmanager(settings) => alertmanager::build(settings).map(|r| Box::new(r) as _),
        ReceiverKind::Slack(settings) => slack::build(settings).map(|r| Box::new(r) as _),
        ReceiverKind::Email(settings) => email::build(settings, host).map(|r| Box::new(r) as _),
        ReceiverKind::Journal => Ok(Box::new(journal::Journal::new())),
    };
    made.map_err(|(key, fault)| BuildError { receiver: receiver.name.clone(), key, fault })
}

/// Everything that is wrong with the config's receivers, each with the receiver.
pub fn check<'a>(config: &'a Config, host: &str) -> Vec<(&'a Settings, BuildError)> {
    config.receivers.iter().filter_map(|r| Some((r, build(r, host).err()?))).collect()
}
