//! The webhook: the verdict as JSON, or what a template makes of it, signed as Standard Webhooks has it.

use std::time::{SystemTime, UNIX_EPOCH};

use reqwest::header::{HeaderMap, HeaderValue};

use super::http::{Endpoint, Request};
use super::sign::Keys;
use super::template::{self, Form, Template};
use super::{Fault, Wrong, secret, text};
use crate::config;
use crate::notify::{Delivery, Notification, Outcome, Receiver};

#[derive(Debug)]
pub(super) struct Webhook {
    endpoint: Endpoint,
    keys: Option<Keys>,
    template: Option<Template>,
    content_type: String,
}

const JSON: &str = "application/json";

pub(super) fn build(settings: &config::Webhook, host: &str) -> Result<Webhook, Wrong> {
    let mut endpoint = Endpoint::build(&settings.http, "")?;
    let mut keys = None;
    if let Some(file) = &settings.secret_file {
        let written = secret::read(file, "secret_file")?;
        written.expose().lines().for_each(|l| endpoint.hide(l.trim()));
        let parsed = Keys::parse(written.expose());
        keys = Some(parsed.map_err(|why| Fault::new(why).help("one key a line").at("secret_file"))?);
    }
    let content_type = settings.content_type.clone().unwrap_or(JSON.into());
    let template = match &settings.template {
        None => None,
        Some(t) => {
            let (key, text, _) = template::read(t)?;
            Some(Template::new(key, text, form(&content_type), host)?)
        }
    };
    Ok(Webhook { endpoint, keys, template, content_type })
}

/// How values are escaped in a body of this type.
fn form(content_type: &str) -> Form {
    let kind = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match kind.as_str() {
        json if json.ends_with("/json") || json.ends_with("+json") => Form::Json,
        "text/html" | "application/xml" | "text/xml" => Form::Html,
        _ => Form::Text,
    }
}

impl Webhook {
    async fn send(&self, n: &Notification) -> Outcome {
        let (body, content_type, note) = match self.body(n) {
            Ok(made) => made,
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
        match self.endpoint.post(Request { body, content_type, headers }).await {
            Outcome::Delivered { .. } => Outcome::Delivered { note },
            other => other,
        }
    }

    /// The body, its type, and what went wrong with the template, if anything did.
    fn body(&self, n: &Notification) -> serde_json::Result<(Vec<u8>, String, Option<String>)> {
        match self.template.as_ref().map(|t| t.render(n)) {
            None => Ok((text::json(&n.content)?, JSON.into(), None)),
            Some(Ok(body)) => Ok((body.into_bytes(), self.content_type.clone(), None)),
            Some(Err(why)) => {
                let plain = template::instead(&n.content, &why).into_bytes();
                let note = format!("the template failed, so plain text was sent: {why}");
                Ok((plain, "text/plain; charset=utf-8".into(), Some(note)))
            }
        }
    }
}

impl Receiver for Webhook {
    fn deliver<'a>(&'a self, n: &'a Notification) -> Delivery<'a> {
        Box::pin(self.send(n))
    }
}
