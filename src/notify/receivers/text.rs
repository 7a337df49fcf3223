//! A notification as text: one line, or what a terminal would show. Untrusted parts are escaped here.

use whystall_engine::verdict::{State, Verdict};
use whystall_event::text::{escape, shorten};

use crate::notify::Content;
use crate::render::{self, Style};

/// Characters of a title.
const TITLE: usize = 160;

/// The state as people read it.
pub(super) fn state(v: &Verdict) -> &'static str {
    match v.state {
        State::Firing => "FIRING",
        State::Updated => "UPDATED",
        State::Resolved => "RESOLVED",
        State::Withdrawn => "WITHDRAWN",
    }
}

/// One line of bounded length without control characters.
pub(super) fn title(content: &Content) -> String {
    let line = match content {
        Content::Verdict(v) => {
            format!("[{} {}] {}: {}", state(v), v.severity.name(), escape(&v.host), escape(&v.summary))
        }
        Content::Notice(n) => format!("[whystall] {}: {}", escape(&n.host), escape(&n.title)),
    };
    shorten(&line, TITLE).into_owned()
}

/// Everything, in lines.
pub(super) fn plain(content: &Content) -> String {
    match content {
        Content::Verdict(v) => render::verdict(v, Style::new(false)),
        Content::Notice(n) => {
            let lines: Vec<_> = n.text.lines().map(escape).collect();
            format!(
                "{}\n\n{}\n\n{} on {}\n",
                escape(&n.title),
                lines.join("\n"),
                escape(&n.at),
                escape(&n.host)
            )
        }
    }
}

/// The verdict or the notice as JSON.
pub(super) fn json(content: &Content) -> serde_json::Result<Vec<u8>> {
    match content {
        Content::Verdict(v) => serde_json::to_vec(v),
        Content::Notice(n) => serde_json::to_vec(n),
    }
}
