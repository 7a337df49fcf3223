//! The webhook: the verdict as JSON, or what a template makes of it, signed as Standard Webhooks has it.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::header::{HeaderMap, HeaderValue};

use super::http::{Endpoint, Request};
use super::sign::Keys;
use super::{Fault, Wrong, secret, text};
use crate::config;
use crate::notify::{Delivery, Notification, Outcome, Receiver};

#[derive(Debug)]
pub(super) struct Webhook {
    endpoint: Endpoint,
    keys: Option<Keys>,
}

pub(super) fn build(settings: &config::Webhook) -> Result<Webhook, Wrong> {
    let mut endpoint = Endpoint::build(&settings.http, "")?;
    let mut keys = None;
    if let Some(file) = &settings.secret_file {
        let written = secret::read(file, "secret_file")?;
        written.expose().lines().for_each(|l| endpoint.hide(l.trim()));
        let parsed = Keys::parse(written.expose());
        keys = Some(parsed.map_err(|why| Fault::new(why).help("one key a line").at("secret_file"))?);
    }
    Ok(Webhook { endpoint, keys })
}

impl Webhook {
    async fn send(&self, n: &Notification) -> Outcome {
        let body = match text::json(&n.content) {
            Ok(body) => body,
            Err(e) => return Outcome::Permanent { why: format!("this cannot be written as JSON: {e}") },
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        let mut headers = HeaderMap::new();
        let Ok(id) = HeaderValue::from_str(&n.id) else {
            return Outcome::Permanent { why: "the notification's id fits no header".into() };
        };
        headers.insert("webhook-id", id);
        headers.insert("webhook-timestamp", HeaderValue::from(now));
        if let Some(keys) = &self.keys {
            match HeaderValue::from_str(&keys.sign(&n.id, now, &body)) {
                Ok(signature) => headers.insert("webhook-signature", signature),
                Err(_) => return Outcome::Permanent { why: "the signature fits no header".into() },
            };
        }
        self.endpoint.post(Request { body, content_type: "application/json".into(), headers }).await
    }
}

impl Receiver for Webhook {
    fn deliver<'a>(&'a self, n: &'a Notification) -> Delivery<'a> {
        Box::pin(self.send(n))
    }
}
