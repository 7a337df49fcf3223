//! Notifications: what is handed to a receiver, and what comes of it.
//!
//! Who is told what and when (routes, grouping, retries, order, silences) is decided before; a receiver only renders and
//! delivers. It never knows windows or rules: it sees a verdict as data, or a notice about whystall itself.

pub mod dispatch;
mod inbox;
pub mod receivers;
pub mod service;

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use whystall_engine::verdict::Verdict;

/// One delivery to one receiver.
#[derive(Debug, Clone, PartialEq)]
pub struct Notification {
    /// The same across retries and restarts (header `webhook-id`, part of the `Message-ID`); URL-safe ASCII.
    pub id: String,
    /// What is told.
    pub content: Content,
    /// How often this was tried before.
    pub attempts: u32,
    /// What a partial delivery left to do, as the receiver itself wrote it in [`Outcome::Retry`].
    pub progress: Option<String>,
}

/// What a notification tells.
#[derive(Debug, Clone, PartialEq)]
pub enum Content {
    /// The state of an incident.
    Verdict(Box<Verdict>),
    /// Something about whystall itself.
    Notice(Notice),
}

/// A message that is about no incident.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Notice {
    /// Always [`NOTICE_SCHEMA`].
    pub schema: String,
    /// What it is about.
    pub kind: NoticeKind,
    /// One line.
    pub title: String,
    /// Lines for people.
    pub text: String,
    /// When it was made, RFC 3339.
    pub at: String,
    /// The host's name.
    pub host: String,
}

/// The name and version of a [`Notice`]'s shape.
pub const NOTICE_SCHEMA: &str = "whystall.notice/1";

/// What a [`Notice`] is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeKind {
    /// `whystall notify test`.
    Test,
    /// whystall is alive.
    Heartbeat,
    /// Notifications that were held back or lost, with their counts.
    Digest,
    /// Another receiver fails, or works again.
    Receiver,
}

/// What came of a try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It is there. `note` tells of parts that never will be (a recipient that does not exist).
    Delivered {
        /// What did not arrive, if anything.
        note: Option<String>,
    },
    /// It may succeed later.
    Retry {
        /// Why not now; holds no secret.
        why: String,
        /// Not before this time has passed, if the peer said so.
        after: Option<Duration>,
        /// What is left to do, for [`Notification::progress`].
        progress: Option<String>,
    },
    /// It never will.
    Permanent {
        /// Why; holds no secret.
        why: String,
    },
}

/// A delivery under way.
pub type Delivery<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// A way to deliver notifications. Deadlines are the receiver's own; dropping the future ends the try.
pub trait Receiver: Send + Sync + std::fmt::Debug {
    /// Delivers one notification.
    fn deliver<'a>(&'a self, n: &'a Notification) -> Delivery<'a>;
}
