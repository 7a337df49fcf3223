//! The message: headers that no name from outside can reach into, a text and an HTML part, and the thread of its incident.

use lettre::Address;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox, Message, MessageBuilder, MultiPart, SinglePart};

use super::super::template::{self, Form, Template};
use super::super::text;
use super::html;
use crate::notify::{Content, Notification};

/// Characters of an id inside `<…@…>`.
const ID: usize = 120;

/// The message as it is sent, and what went wrong with the template, if anything did.
///
/// # Errors
/// Why there is no message.
pub(super) fn make(
    n: &Notification,
    from: &Address,
    to: &[Address],
    template: Option<&Template>,
    first: Option<&str>,
) -> Result<(Vec<u8>, Option<String>), String> {
    let mut headers = Message::builder()
        .from(Mailbox::new(Some("whystall".into()), from.clone()))
        .subject(text::title(&n.content))
        .message_id(Some(message_id(&n.id, from)));
    for recipient in to {
        headers = headers.to(Mailbox::new(None, recipient.clone()));
    }
    if let Content::Verdict(v) = &n.content {
        headers = thread(headers, &v.incident, first, from);
    }
    // RFC 3834: nobody's vacation answers this.
    headers = headers.raw_header(HeaderValue::new(
        HeaderName::new_from_ascii_str("Auto-Submitted"),
        "auto-generated".into(),
    ));
    let made = template.map(|t| (t.form(), t.render(n)));
    let (plain, html, note) = match made {
        None => (text::plain(&n.content), html::render(n).ok(), None),
        Some((Form::Html, Ok(html))) => (text::plain(&n.content), Some(html), None),
        Some((_, Ok(plain))) => (plain, None, None),
        Some((_, Err(why))) => {
            let note = format!("the template failed, so our own text was sent: {why}");
            (template::instead(&n.content, &why), None, Some(note))
        }
    };
    // A line end is one, whatever a template's file has.
    let plain = plain.replace('\r', "");
    let message = match html {
        Some(html) => headers.multipart(MultiPart::alternative_plain_html(plain, html.replace('\r', ""))),
        None => headers.singlepart(SinglePart::plain(plain)),
    };
    Ok((message.map_err(|e| format!("no message can be made of this: {e}"))?.formatted(), note))
}

/// All messages of an incident refer to one id that is made of its own, so that they stay together also where the first is
/// not known (a restart) or not there (a recipient that was added). They answer the first, where it is known.
fn thread(headers: MessageBuilder, incident: &str, first: Option<&str>, from: &Address) -> MessageBuilder {
    let root = message_id(&format!("incident.{incident}"), from);
    match first.map(|id| message_id(id, from)) {
        Some(first) => headers.in_reply_to(first.clone()).references(format!("{root} {first}")),
        None => headers.in_reply_to(root.clone()).references(root),
    }
}

/// `<id@domain>`, of characters that need no quoting.
fn message_id(id: &str, from: &Address) -> String {
    let plain = |s: &str| -> String {
        let fit = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '_' };
        s.chars().take(ID).map(fit).collect()
    };
    format!("<{}@{}>", plain(id), plain(from.domain()))
}

#[cfg(test)]
mod tests {
    use super::super::super::samples;
    use super::*;

    fn made(n: &Notification, first: Option<&str>) -> String {
        let from = "whystall@node-1.example".parse().unwrap();
        let to = ["a@x.example".parse().unwrap(), "b@x.example".parse().unwrap()];
        let (message, note) = make(n, &from, &to, None, first).unwrap();
        assert_eq!(note, None);
        String::from_utf8(message).unwrap()
    }

    /// Names of the headers and their values, unfolded.
    fn headers(message: &str) -> Vec<(String, String)> {
        let (head, _) = message.split_once("\r\n\r\n").unwrap();
        let unfolded = head.replace("\r\n ", " ");
        let split = |l: &str| l.split_once(": ").map(|(n, v)| (n.to_string(), v.to_string())).expect(l);
        unfolded.split("\r\n").map(split).collect()
    }

    fn header(message: &str, name: &str) -> String {
        let all = headers(message);
        let mut found = all.iter().filter(|(n, _)| n == name).map(|(_, v)| v.clone());
        let one = found.next().unwrap_or_else(|| panic!("no {name}"));
        assert_eq!(found.next(), None, "{name} twice");
        one
    }

    #[test]
    fn incidents_are_threads() {
        let mut n = samples::verdict("node-1");
        n.id = "n1".into();
        let first = made(&n, None);
        let root = "<incident.01KAR5V9T0WJ8K3M2N4P5Q6R7S@node-1.example>";
        assert_eq!(header(&first, "Message-ID"), "<n1@node-1.example>");
        assert_eq!((header(&first, "In-Reply-To"), header(&first, "References")), (root.into(), root.into()));
        n.id = "n2".into();
        let second = made(&n, Some("n1"));
        assert_eq!(header(&second, "In-Reply-To"), "<n1@node-1.example>");
        assert_eq!(header(&second, "References"), format!("{root} <n1@node-1.example>"));
        assert!(!made(&samples::notice("h"), None).contains("References"));
    }

    #[test]
    fn nothing_from_outside_becomes_a_header() {
        let evil = "x\r\nBcc: evil@x.example\r\n\r\nbody\0\u{202e}\u{2028}é".to_string();
        let names: Vec<String> =
            headers(&made(&samples::verdict("h"), None)).into_iter().map(|(n, _)| n).collect();
        for text in [evil.clone(), "é".repeat(20_000), "x".repeat(20_000), "\n".repeat(500)] {
            let mut n = samples::verdict(&text);
            n.id = text.clone();
            if let Content::Verdict(v) = &mut n.content {
                (v.summary, v.subject, v.incident, v.cause) =
                    (text.clone(), text.clone(), text.clone(), text.clone());
                v.victims[0].comm = Some(text.clone());
                v.hints[0].command = Some(vec![text.clone()]);
            }
            let message = made(&n, Some(&text));
            let mut got: Vec<String> = headers(&message).into_iter().map(|(n, _)| n).collect();
            // Where there is too much for an HTML part, the text's encoding stands here.
            got.retain(|n| n != "Content-Transfer-Encoding");
            assert_eq!(got, names);
            assert!(message.split("\r\n").all(|l| l.len() <= 998 && !l.contains(['\r', '\n', '\0'])));
            assert!(message.is_ascii());
            assert!(header(&message, "Subject").len() < 1500);
        }
    }
}
