//! Email: one message a notification, with an outcome for each recipient.

mod html;
mod message;
mod progress;
mod sendmail;
mod smtp;

use std::time::Duration;

use lettre::Address;

use super::recent::Recent;
use super::secret::Redactor;
use super::template::{self, Form, Template};
use super::{Fault, Wrong};
use crate::config::{self, Via};
use crate::notify::{Content, Delivery, Notification, Outcome, Receiver};

pub use progress::Progress;

const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(super) struct Email {
    way: Way,
    from: Address,
    to: Vec<Address>,
    template: Option<Template>,
    timeout: Duration,
    redactor: Redactor,
    /// The id of the first notification of each incident, which the others answer.
    first: Recent<String>,
}

#[derive(Debug)]
enum Way {
    Smtp(smtp::Server),
    Sendmail(sendmail::Program),
}

/// What became of one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    Taken,
    Later(String),
    Never(String),
}

pub(super) fn build(settings: &config::Email, host: &str) -> Result<Email, Wrong> {
    let address = |text: &str, key| {
        let wrong = |_| Fault::new("this is no email address").help("write name@host.example").at(key);
        text.parse::<Address>().map_err(wrong)
    };
    let from = address(&settings.from, "from")?;
    let to = settings.to.iter().map(|t| address(t, "to")).collect::<Result<Vec<_>, _>>()?;
    let mut redactor = Redactor::default();
    let way = match &settings.via {
        Via::Smtp(smtp) => Way::Smtp(smtp::build(smtp, host, &mut redactor)?),
        Via::Sendmail(path) => Way::Sendmail(sendmail::build(path)?),
    };
    let template = match &settings.template {
        None => None,
        Some(t) => {
            let (key, text, html) = template::read(t)?;
            Some(Template::new(key, text, if html { Form::Html } else { Form::Text }, host)?)
        }
    };
    let timeout = settings.timeout_ns.map_or(TIMEOUT, Duration::from_nanos);
    Ok(Email { way, from, to, template, timeout, redactor, first: Recent::new() })
}

impl Receiver for Email {
    fn deliver<'a>(&'a self, n: &'a Notification) -> Delivery<'a> {
        Box::pin(self.send(n))
    }
}

impl Email {
    async fn send(&self, n: &Notification) -> Outcome {
        let mut progress = Progress::resume(n.progress.as_deref(), &self.to);
        let left = progress.left(&self.to);
        if left.is_empty() {
            return progress.outcome(None);
        }
        let first = match &n.content {
            Content::Verdict(v) => self.first.get(&v.incident),
            Content::Notice(_) => None,
        };
        let (message, note) =
            match message::make(n, &self.from, &self.to, self.template.as_ref(), first.as_deref()) {
                Ok(made) => made,
                Err(why) => return Outcome::Permanent { why },
            };
        let sent = async {
            match &self.way {
                Way::Smtp(server) => server.send(&self.from, &left, &message).await,
                Way::Sendmail(program) => program.send(&self.from, &left, &message).await,
            }
        };
        let fates = match tokio::time::timeout(self.timeout, sent).await {
            Ok(fates) => fates,
            Err(_) => vec![Fate::Later("not done within its deadline".into()); left.len()],
        };
        for (address, fate) in left.iter().zip(fates) {
            progress.note(address, fate, &self.redactor);
        }
        if let Content::Verdict(v) = &n.content
            && first.is_none()
            && progress.taken()
        {
            self.first.set(&v.incident, n.id.clone());
        }
        progress.outcome(note)
    }
}
