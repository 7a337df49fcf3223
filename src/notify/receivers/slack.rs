//! Incoming webhooks as Slack has them and Mattermost, Rocket.Chat and others understand: a title and an attachment.

use reqwest::header::HeaderMap;
use serde_json::{Value, json};
use whystall_engine::script::Severity;
use whystall_engine::verdict::{State, Verdict};
use whystall_event::text::{escape, shorten};

use super::http::{Endpoint, Request};
use super::{Wrong, text};
use crate::config::Http;
use crate::notify::{Content, Delivery, Notification, Receiver};
use crate::render;

/// Characters of the attachment, after escaping. Slack cuts what is longer by itself, at a place of its own choice.
const LONGEST: usize = 3500;
/// Characters of one part that comes from outside.
const PART: usize = 300;
/// Entries of a list.
const ENTRIES: usize = 5;

#[derive(Debug)]
pub(super) struct Slack {
    endpoint: Endpoint,
}

pub(super) fn build(settings: &Http) -> Result<Slack, Wrong> {
    Ok(Slack { endpoint: Endpoint::build(settings, "")? })
}

impl Receiver for Slack {
    fn deliver<'a>(&'a self, n: &'a Notification) -> Delivery<'a> {
        Box::pin(async move {
            let body = payload(&n.content).to_string().into_bytes();
            let request =
                Request { body, content_type: "application/json".into(), headers: HeaderMap::new() };
            self.endpoint.post(request).await
        })
    }
}

/// The whole message.
fn payload(content: &Content) -> Value {
    let title = safe(&text::title(content));
    let (colour, body) = match content {
        Content::Verdict(v) => (colour(v), verdict(v)),
        Content::Notice(n) => {
            let lines: Vec<String> = n.text.lines().take(40).map(|l| safe(&shorten(l, PART))).collect();
            ("#888888", lines)
        }
    };
    let mut text = String::new();
    for line in body {
        if text.chars().count() + line.chars().count() > LONGEST {
            text.push('…');
            break;
        }
        text.push_str(&line);
        text.push('\n');
    }
    json!({
        "text": title,
        "attachments": [{ "color": colour, "fallback": title, "text": text.trim_end(), "mrkdwn_in": ["text"] }],
    })
}

fn colour(v: &Verdict) -> &'static str {
    match (v.state, v.severity) {
        (State::Resolved, _) => "#2eb67d",
        (State::Withdrawn, _) => "#888888",
        (_, Severity::Critical) => "#e01e5a",
        (_, Severity::Warning) => "#ecb22e",
        (_, Severity::Info) => "#36c5f0",
    }
}

/// Lines of which each is whole in itself, so that cutting between them breaks nothing.
fn verdict(v: &Verdict) -> Vec<String> {
    let part = |s: &str| safe(&shorten(s, PART));
    let mut lines = vec![format!("cause {} on {}", code(&v.cause), code(&v.subject))];
    lines.push(format!("since {}, incident {} #{}", part(&v.started_at), part(&v.incident), v.seq));
    if let Some(at) = &v.resolved_at {
        lines.push(format!("resolved {}", part(at)));
    }
    if !matches!(v.state, State::Firing | State::Updated) {
        return lines;
    }
    if v.chain.len() > 1 {
        let steps = v.chain.iter().take(ENTRIES).enumerate();
        lines.extend(steps.map(|(i, l)| format!("{}. {} {}", i + 1, code(&l.cause), part(&l.summary))));
    }
    for r in v.ruled_out.iter().take(ENTRIES) {
        lines.push(format!("not {}: {}", code(&r.cause), part(&r.because)));
    }
    for h in v.hints.iter().take(ENTRIES) {
        lines.push(format!("• {}", part(&h.text)));
        lines.extend(h.command.as_ref().map(|c| format!("   {}", code(&render::command(c)))));
        lines.extend(h.risk.as_ref().map(|r| format!("   risk: {}", part(r))));
    }
    lines
}

/// Text between backticks, which end with the first backtick.
fn code(s: &str) -> String {
    format!("`{}`", safe(&shorten(s, PART)).replace('`', "ˋ"))
}

/// Text that is no markup, no link and calls nobody.
fn safe(s: &str) -> String {
    let mut out = String::new();
    for c in escape(s).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    // Mattermost and Discord call a whole channel by name, without any bracket.
    for name in ["channel", "here", "everyone", "all"] {
        out = out.replace(&format!("@{name}"), &format!("@\u{2060}{name}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    #[test]
    fn nothing_from_outside_is_markup() {
        let mut n = samples::verdict("h<!channel>");
        if let Content::Verdict(v) = &mut n.content {
            v.summary = "<!here> @channel <http://evil|click> & `x`\n\u{202e}".into();
            v.subject = "cgroup:/a`b<c".into();
        }
        let p = payload(&n.content);
        let all = p.to_string();
        assert!(!all.contains("<!") && !all.contains("<http") && !all.contains("@channel"), "{all}");
        assert!(
            p["text"].as_str().unwrap().contains("&lt;http://evil|click&gt; &amp; `x`\\n\\u{202e}"),
            "{all}"
        );
        assert!(all.contains("`cgroup:/aˋb&lt;c`"), "{all}");
    }

    #[test]
    fn length_is_bounded() {
        let mut n = samples::verdict("h");
        if let Content::Verdict(v) = &mut n.content {
            v.summary = "&".repeat(100_000);
            v.chain = vec![v.chain[0].clone(); 1000];
            v.hints = vec![v.hints[0].clone(); 1000];
            v.hints[0].command = Some(vec!["<".repeat(100_000)]);
            for link in &mut v.chain {
                link.summary = "&".repeat(1000);
            }
        }
        let p = payload(&n.content);
        assert!(p.to_string().len() < 12_000, "{}", p.to_string().len());
        assert!(p["attachments"][0]["text"].as_str().unwrap().contains("memcg.limit"));
    }
}
