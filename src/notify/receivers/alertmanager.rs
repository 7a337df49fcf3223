//! Prometheus' Alertmanager, by its v2 API. An incident is one alert: its labels stay through its life, so that the
//! Alertmanager groups, silences and resolves it, and what changes is in annotations.
//!
//! Only the severity is both a label, which routes there are made of, and may change. Then the alert with the former
//! severity is resolved in the same request.

use std::collections::BTreeMap;

use reqwest::header::HeaderMap;
use serde::Serialize;
use whystall_engine::script::Severity;
use whystall_engine::verdict::{State, Verdict};
use whystall_event::text::{escape, shorten};
use whystall_event::{SEC, format_rfc3339, parse_rfc3339};

use super::http::{Endpoint, Request};
use super::recent::Recent;
use super::{Wrong, text};
use crate::config;
use crate::notify::{Content, Delivery, Notice, NoticeKind, Notification, Outcome, Receiver};
use crate::render;

const EXPIRE: u64 = 24 * 3600 * SEC;
/// Characters of one annotation.
const ANNOTATION: usize = 4000;

#[derive(Debug)]
pub(super) struct Alertmanager {
    endpoint: Endpoint,
    labels: BTreeMap<String, String>,
    expire_ns: u64,
    severities: Recent<Severity>,
}

/// An alert as the API takes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<&'static str, String>,
    starts_at: String,
    ends_at: String,
}

pub(super) fn build(settings: &config::Alertmanager) -> Result<Alertmanager, Wrong> {
    Ok(Alertmanager {
        endpoint: Endpoint::build(&settings.http, "/api/v2/alerts")?,
        labels: settings.labels.clone(),
        expire_ns: settings.expire_ns.unwrap_or(EXPIRE),
        severities: Recent::new(),
    })
}

impl Receiver for Alertmanager {
    fn deliver<'a>(&'a self, n: &'a Notification) -> Delivery<'a> {
        Box::pin(self.send(n))
    }
}

impl Alertmanager {
    async fn send(&self, n: &Notification) -> Outcome {
        let now = now_ns();
        let alerts = match &n.content {
            Content::Verdict(v) => self.incident(v, now),
            Content::Notice(notice) => vec![self.notice(&n.id, notice, now)],
        };
        let body = match serde_json::to_vec(&alerts) {
            Ok(body) => body,
            Err(e) => return Outcome::Permanent { why: format!("this cannot be written as JSON: {e}") },
        };
        let request = Request { body, content_type: "application/json".into(), headers: HeaderMap::new() };
        let outcome = self.endpoint.post(request).await;
        if let (Outcome::Delivered { .. }, Content::Verdict(v)) = (&outcome, &n.content) {
            self.severities.set(&v.incident, v.severity);
        }
        outcome
    }

    /// The incident's alert, and those with a severity that it had before.
    fn incident(&self, v: &Verdict, now: u64) -> Vec<Alert> {
        let mut alerts = vec![self.alert(v, v.severity, !is_open(v), now)];
        let former: Vec<Severity> = match self.severities.get(&v.incident) {
            Some(severity) => vec![severity],
            // Another process told what came before.
            None if v.seq > 1 => vec![Severity::Info, Severity::Warning, Severity::Critical],
            None => Vec::new(),
        };
        let former = former.into_iter().filter(|s| *s != v.severity);
        alerts.extend(former.map(|s| self.alert(v, s, true, now)));
        alerts
    }

    fn alert(&self, v: &Verdict, severity: Severity, over: bool, now: u64) -> Alert {
        let own = [
            ("alertname", "WhystallIncident".to_string()),
            ("incident", label(&v.incident)),
            ("host", label(&v.host)),
            ("severity", severity.name().to_string()),
        ];
        let content = Content::Verdict(Box::new(v.clone()));
        let hints = v.hints.iter().map(|h| match &h.command {
            Some(c) => format!("{}: {}", escape(&h.text), render::command(c)),
            None => escape(&h.text).into_owned(),
        });
        let annotations = [
            ("summary", escape(&v.summary).into_owned()),
            ("description", text::plain(&content)),
            ("rule", v.rule.clone()),
            ("cause", v.cause.clone()),
            ("subject", escape(&v.subject).into_owned()),
            ("state", text::state(v).to_lowercase()),
            ("hints", hints.collect::<Vec<_>>().join("\n")),
        ];
        let starts = parse_rfc3339(&v.started_at).unwrap_or(now);
        // What is open ends when nothing more is heard of it; the Alertmanager's own `resolve_timeout` is far too short for
        // a sender that only tells what changes.
        let ended = v.resolved_at.as_deref().or(Some(&v.updated_at)).and_then(parse_rfc3339).unwrap_or(now);
        let ends =
            if over { ended.min(now).max(starts + 1_000_000) } else { now.saturating_add(self.expire_ns) };
        self.of(own, annotations, starts, ends)
    }

    fn notice(&self, id: &str, n: &Notice, now: u64) -> Alert {
        let (kind, lasts) = match n.kind {
            NoticeKind::Test => ("test", 60 * SEC),
            NoticeKind::Heartbeat => ("heartbeat", self.expire_ns),
            NoticeKind::Digest => ("digest", 3600 * SEC),
            NoticeKind::Receiver => ("receiver", 3600 * SEC),
        };
        let mut own = vec![
            ("alertname", "WhystallNotice".to_string()),
            ("host", label(&n.host)),
            ("kind", kind.to_string()),
            ("severity", Severity::Info.name().to_string()),
        ];
        // Heartbeats continue one alert, which routes can wait for; others are each their own.
        if n.kind != NoticeKind::Heartbeat {
            own.push(("notification", label(id)));
        }
        let annotations = [("summary", escape(&n.title).into_owned()), ("description", n.text.clone())];
        let starts = parse_rfc3339(&n.at).unwrap_or(now).min(now);
        self.of(own, annotations, starts, now.saturating_add(lasts))
    }

    fn of(
        &self,
        own: impl IntoIterator<Item = (&'static str, String)>,
        annotations: impl IntoIterator<Item = (&'static str, String)>,
        starts: u64,
        ends: u64,
    ) -> Alert {
        let mut labels = self.labels.clone();
        labels.extend(own.into_iter().map(|(k, v)| (k.to_string(), v)));
        let annotations = annotations.into_iter().filter(|(_, v)| !v.is_empty());
        Alert {
            labels,
            annotations: annotations.map(|(k, v)| (k, shorten(&v, ANNOTATION).into_owned())).collect(),
            starts_at: format_rfc3339(starts),
            ends_at: format_rfc3339(ends),
        }
    }
}

fn is_open(v: &Verdict) -> bool {
    matches!(v.state, State::Firing | State::Updated)
}

fn label(s: &str) -> String {
    shorten(&escape(s), 200).into_owned()
}

fn now_ns() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::samples;
    use super::*;

    const NOW: u64 = 1_800_000_000_000_000_000;

    fn receiver() -> Alertmanager {
        let http = config::Http { url: Some("http://127.0.0.1:9093".into()), ..config::Http::default() };
        let labels = BTreeMap::from([("team".to_string(), "ops".to_string())]);
        build(&config::Alertmanager { http, labels, expire_ns: None }).unwrap()
    }

    fn verdict(state: State, severity: Severity, seq: u32) -> Verdict {
        let Content::Verdict(mut v) = samples::verdict("node-1").content else { panic!() };
        (v.state, v.severity, v.seq) = (state, severity, seq);
        *v
    }

    #[test]
    fn labels_stay_and_the_end_comes_with_the_resolve() {
        let r = receiver();
        let firing = &r.incident(&verdict(State::Firing, Severity::Warning, 1), NOW)[0];
        let mut end = verdict(State::Resolved, Severity::Warning, 3);
        (end.cause, end.rule, end.summary) = ("other".into(), "other".into(), "other".into());
        end.resolved_at = Some("2026-11-22T10:05:00.000Z".into());
        r.severities.set(&end.incident, Severity::Warning);
        let alerts = r.incident(&end, NOW);
        assert_eq!(alerts.len(), 1);
        assert_eq!((&firing.labels, &firing.starts_at), (&alerts[0].labels, &alerts[0].starts_at));
        assert_eq!(alerts[0].ends_at, "2026-11-22T10:05:00.000Z");
        assert_eq!(parse_rfc3339(&firing.ends_at), Some(NOW + EXPIRE));
        assert_eq!(firing.labels["team"], "ops");
        let named: Vec<&str> = firing.labels.keys().map(String::as_str).collect();
        assert!(named.iter().all(|l| *l == "team" || config::OWN_LABELS.contains(l)), "{named:?}");
    }

    #[test]
    fn a_former_severity_is_resolved() {
        let r = receiver();
        let now = |v: &Verdict| -> Vec<(String, bool)> {
            let alerts = r.incident(v, NOW);
            alerts
                .iter()
                .map(|a| (a.labels["severity"].clone(), parse_rfc3339(&a.ends_at) <= Some(NOW)))
                .collect()
        };
        let second = verdict(State::Updated, Severity::Critical, 2);
        let all = [("critical".into(), false), ("info".into(), true), ("warning".into(), true)];
        assert_eq!(now(&second), all, "after a restart");
        r.severities.set(&second.incident, Severity::Warning);
        assert_eq!(now(&second), [("critical".into(), false), ("warning".into(), true)]);
        r.severities.set(&second.incident, Severity::Critical);
        assert_eq!(now(&second), [("critical".into(), false)]);
    }

    #[test]
    fn notices_are_alerts_of_their_own() {
        let Content::Notice(mut n) = samples::notice("h").content else { panic!() };
        let r = receiver();
        assert_eq!(r.notice("7", &n, NOW).labels["notification"], "7");
        n.kind = NoticeKind::Heartbeat;
        let beat = r.notice("8", &n, NOW);
        assert!(!beat.labels.contains_key("notification") && beat.labels["kind"] == "heartbeat");
    }
}
