//! Receivers and routes: their shape. Nothing here connects or reads a secret.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use toml::de::DeTable;
use whystall_event::SEC;

use super::delivery::{self, Delivery};
use super::peer::{Alertmanager, Email, Http, Proxy, Smtp, Template, Tls, Via, Webhook};
use super::walk::{Value, Walk};
use super::{Glob, Severity};

/// Where notifications go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receiver {
    /// Unique, not empty.
    pub name: String,
    /// How it is reached.
    pub kind: ReceiverKind,
    /// How it is served.
    pub delivery: Delivery,
    /// Where its table is in the file.
    pub span: Range<usize>,
    /// Where the values of its keys are.
    pub keys: BTreeMap<String, Range<usize>>,
}

impl Receiver {
    /// Where the value of this key is in the file, or the whole table.
    pub fn span_of(&self, key: &str) -> Range<usize> {
        self.keys.get(key).unwrap_or(&self.span).clone()
    }
}

/// How a receiver is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiverKind {
    /// The verdict as JSON, or what a template makes of it, to a URL.
    Webhook(Webhook),
    /// An Alertmanager's v2 API; the URL is its base.
    Alertmanager(Alertmanager),
    /// A Slack-compatible incoming webhook.
    Slack(Http),
    /// Email.
    Email(Email),
    /// The systemd journal.
    Journal,
}

/// Which notifications go to which receivers.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Route {
    /// By property of the verdict: one of the patterns must match; all properties must. Empty matches everything.
    pub matches: BTreeMap<String, Vec<Glob>>,
    /// Names of receivers that exist; at least one.
    pub receivers: Vec<String>,
    /// How long to wait for more of the same incident, nanoseconds.
    pub group_wait_ns: Option<u64>,
    /// After how long to notify again of what lasts, nanoseconds.
    pub repeat_interval_ns: Option<u64>,
    /// After how long those in `escalate_to` are told of what lasts, nanoseconds; both or none.
    pub escalate_after_ns: Option<u64>,
    /// Names of receivers that exist.
    pub escalate_to: Vec<String>,
    /// Where its table is in the file.
    pub span: Range<usize>,
}

const TYPES: [(&str, Type); 5] = [
    ("webhook", Type::Webhook),
    ("alertmanager", Type::Alertmanager),
    ("slack", Type::Slack),
    ("email", Type::Email),
    ("journal", Type::Journal),
];
const TLS: [(&str, Tls); 3] = [("starttls", Tls::Starttls), ("implicit", Tls::Implicit), ("none", Tls::None)];
const HTTP_KEYS: &[&str] = &[
    "name",
    "type",
    "url",
    "url_file",
    "bearer_file",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "proxy",
    "proxy_file",
    "timeout",
    "connect_timeout",
    "allow_special_addresses",
];
const WEBHOOK_KEYS: &[&str] = &["secret_file", "template", "template_file", "content_type"];
const ALERTMANAGER_KEYS: &[&str] = &["labels", "expire"];
const EMAIL_KEYS: &[&str] = &[
    "name",
    "type",
    "smtp",
    "sendmail",
    "tls",
    "from",
    "to",
    "username",
    "password_file",
    "ca_file",
    "template",
    "template_file",
    "timeout",
];
/// Labels of alerts that whystall sets itself.
pub const OWN_LABELS: &[&str] = &["alertname", "incident", "host", "severity", "kind", "notification"];
const ROUTE_KEYS: &[&str] =
    &["match", "receivers", "group_wait", "repeat_interval", "escalate_after", "escalate_to"];
const MATCH_KEYS: &[&str] = crate::notify::dispatch::LABELS;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Type {
    Webhook,
    Alertmanager,
    Slack,
    Email,
    Journal,
}

pub(super) fn receivers(walk: &mut Walk, list: &[Value<'_>]) -> Vec<Receiver> {
    let mut all: Vec<Receiver> = Vec::new();
    for value in list {
        let Some(table) = walk.table(value) else { continue };
        let name =
            required(walk, table, "receiver", "name", value).and_then(|v| Some((walk.filled(v)?, v.span())));
        if let Some((name, span)) = &name
            && all.iter().any(|r| r.name == *name)
        {
            walk.problem(span.clone(), format!("there are two receivers called `{name}`"));
        }
        let kind = required(walk, table, "receiver", "type", value)
            .and_then(|v| walk.one_of(v, "type of receiver", &TYPES));
        let delivery = delivery::of_receiver(walk, table);
        walk.common = delivery::RECEIVER_KEYS;
        let kind = kind.and_then(|kind| match kind {
            Type::Webhook => webhook(walk, table, value).map(ReceiverKind::Webhook),
            Type::Alertmanager => alertmanager(walk, table, value).map(ReceiverKind::Alertmanager),
            Type::Slack => http(walk, table, value, &[]).map(ReceiverKind::Slack),
            Type::Email => email(walk, table, value).map(ReceiverKind::Email),
            Type::Journal => {
                walk.only(table, &["name", "type"]);
                Some(ReceiverKind::Journal)
            }
        });
        walk.common = &[];
        // One whose kind is wrong still has a name that routes may refer to.
        if let Some((name, _)) = name {
            let keys = table.iter().map(|(k, v)| (k.get_ref().to_string(), v.span())).collect();
            let kind = kind.unwrap_or(ReceiverKind::Journal);
            all.push(Receiver { name, kind, delivery, span: value.span(), keys });
        }
    }
    all
}

pub(super) fn routes(walk: &mut Walk, list: &[Value<'_>], receivers: &[Receiver]) -> Vec<Route> {
    let names: Vec<&str> = receivers.iter().map(|r| r.name.as_str()).collect();
    let mut all = Vec::new();
    for value in list {
        let Some(table) = walk.table(value) else { continue };
        walk.only(table, ROUTE_KEYS);
        let mut route = Route { span: value.span(), ..Route::default() };
        if let Some(matches) = table.get("match").and_then(|v| walk.table(v)) {
            walk.only(matches, MATCH_KEYS);
            route.matches = matches
                .iter()
                .map(|(k, v)| (k.get_ref().to_string(), patterns(walk, k.get_ref(), v)))
                .collect();
        }
        if let Some(v) = required(walk, table, "route", "receivers", value) {
            route.receivers = known_receivers(walk, v, &names);
            if v.get_ref().as_array().is_some_and(|a| a.is_empty()) {
                walk.problem(v.span(), "a route needs at least one receiver");
            }
        }
        route.group_wait_ns = table.get("group_wait").and_then(|v| walk.duration(v, 0));
        route.repeat_interval_ns = table.get("repeat_interval").and_then(|v| walk.duration(v, 60 * SEC));
        route.escalate_after_ns = table.get("escalate_after").and_then(|v| walk.duration(v, SEC));
        if let Some(v) = table.get("escalate_to") {
            route.escalate_to = known_receivers(walk, v, &names);
        }
        if table.contains_key("escalate_after") != table.contains_key("escalate_to") {
            walk.problem(value.span(), "`escalate_after` and `escalate_to` belong together");
        }
        all.push(route);
    }
    all
}

fn known_receivers(walk: &mut Walk, value: &Value<'_>, known: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for (name, span) in walk.strings(value, "receivers' names") {
        if !known.contains(&name.as_str()) {
            walk.unknown(span, "receiver", &name, known);
        }
        all.push(name);
    }
    all
}

/// One pattern or a list of them.
fn patterns(walk: &mut Walk, key: &str, value: &Value<'_>) -> Vec<Glob> {
    let written = if value.get_ref().is_str() {
        walk.filled(value).map(|s| (s, value.span())).into_iter().collect()
    } else {
        walk.strings(value, "text, or one text")
    };
    for (name, span) in &written {
        if key == "severity" && !Severity::NAMES.iter().any(|(n, _)| n == name) {
            walk.unknown(span.clone(), "severity", name, &Severity::NAMES.map(|(n, _)| n));
        }
    }
    written.into_iter().map(|(s, _)| Glob::new(s)).collect()
}

fn required<'a, 't>(
    walk: &mut Walk,
    table: &'a DeTable<'t>,
    what: &str,
    key: &str,
    at: &Value<'_>,
) -> Option<&'a Value<'t>> {
    let found = table.get(key);
    if found.is_none() {
        walk.problem(at.span(), format!("this {what} has no `{key}`"));
    }
    found
}

fn file(walk: &mut Walk, table: &DeTable<'_>, key: &str) -> Option<PathBuf> {
    let value = table.get(key)?;
    walk.filled(value).map(PathBuf::from)
}

/// Two keys of which either both are given or none.
fn pair<T, U>(walk: &mut Walk, at: &Value<'_>, a: (&str, Option<T>), b: (&str, Option<U>)) -> Option<(T, U)> {
    match (a, b) {
        ((_, Some(a)), (_, Some(b))) => Some((a, b)),
        ((_, None), (_, None)) => None,
        ((has, Some(_)), (lacks, _)) | ((lacks, _), (has, _)) => {
            walk.problem(at.span(), format!("this receiver has `{has}` but no `{lacks}`"));
            None
        }
    }
}

/// Two keys of which at most one is given.
fn either(walk: &mut Walk, table: &DeTable<'_>, one: &str, other: &str) {
    if let Some(v) = table.get(other).filter(|_| table.contains_key(one)) {
        walk.problem(v.span(), format!("`{one}` and `{other}` cannot both be given"));
    }
}

fn http(walk: &mut Walk, table: &DeTable<'_>, at: &Value<'_>, more: &[&str]) -> Option<Http> {
    let known: Vec<&str> = HTTP_KEYS.iter().chain(more).copied().collect();
    walk.only(table, &known);
    if !table.contains_key("url") && !table.contains_key("url_file") {
        walk.problem(at.span(), "this receiver has no `url`");
    }
    either(walk, table, "url", "url_file");
    either(walk, table, "proxy", "proxy_file");
    let url = table.get("url").and_then(|v| {
        let url = walk.filled(v)?;
        address_of_http(walk, &url, v, "url_file");
        Some(url)
    });
    let proxy = match (table.get("proxy"), file(walk, table, "proxy_file")) {
        (Some(v), _) => match walk.filled(v)?.as_str() {
            "none" => Proxy::None,
            url => {
                address_of_http(walk, url, v, "proxy_file");
                Proxy::Url(url.to_string())
            }
        },
        (None, Some(file)) => Proxy::File(file),
        (None, None) => Proxy::Environment,
    };
    let (cert, key) = (file(walk, table, "client_cert_file"), file(walk, table, "client_key_file"));
    Some(Http {
        url,
        url_file: file(walk, table, "url_file"),
        bearer_file: file(walk, table, "bearer_file"),
        ca_file: file(walk, table, "ca_file"),
        client_cert: pair(walk, at, ("client_cert_file", cert), ("client_key_file", key)),
        proxy,
        timeout_ns: table.get("timeout").and_then(|v| walk.duration(v, SEC / 10)),
        connect_timeout_ns: table.get("connect_timeout").and_then(|v| walk.duration(v, SEC / 10)),
        allow_special_addresses: table
            .get("allow_special_addresses")
            .and_then(|v| walk.bool(v))
            .unwrap_or_default(),
    })
}

/// A URL of HTTP, with nothing secret in it that `instead` is for.
fn address_of_http(walk: &mut Walk, url: &str, at: &Value<'_>, instead: &str) {
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    let ok = host.is_some_and(|h| !h.is_empty() && !h.starts_with(['/', '?', '#', ':']))
        && !url.contains(|c: char| c.is_whitespace() || c.is_control());
    if !ok {
        walk.problem(at.span(), "this is no URL").help = Some("write https://host/path".into());
    } else if host.and_then(|h| h.split(['/', '?', '#']).next()).is_some_and(|h| h.contains('@')) {
        walk.problem(at.span(), "this URL has a password in it").help =
            Some(format!("write it into a file and name that with {instead}"));
    }
}

fn template(walk: &mut Walk, table: &DeTable<'_>) -> Option<Template> {
    either(walk, table, "template", "template_file");
    let text = table.get("template").and_then(|v| walk.filled(v)).map(Template::Inline);
    text.or_else(|| file(walk, table, "template_file").map(Template::File))
}

fn webhook(walk: &mut Walk, table: &DeTable<'_>, at: &Value<'_>) -> Option<Webhook> {
    let http = http(walk, table, at, WEBHOOK_KEYS);
    let template = template(walk, table);
    let content_type = table.get("content_type").and_then(|v| {
        if template.is_none() {
            walk.problem(v.span(), "`content_type` is only for what a `template` makes");
        }
        let written = walk.filled(v)?;
        if !written.chars().all(|c| c.is_ascii_graphic() || c == ' ') || !written.contains('/') {
            walk.problem(v.span(), "this is no type of content").help =
                Some("write for example \"application/json\"".into());
        }
        Some(written)
    });
    Some(Webhook { http: http?, secret_file: file(walk, table, "secret_file"), template, content_type })
}

fn alertmanager(walk: &mut Walk, table: &DeTable<'_>, at: &Value<'_>) -> Option<Alertmanager> {
    let http = http(walk, table, at, ALERTMANAGER_KEYS);
    let mut labels = BTreeMap::new();
    for (key, value) in table.get("labels").and_then(|v| walk.table(v)).into_iter().flatten() {
        let name = key.get_ref();
        let ok = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && !name.starts_with(|c: char| c.is_ascii_digit());
        if !ok || name.is_empty() {
            walk.problem(key.span(), "this is no name of a label").help =
                Some("letters, digits and `_`, not beginning with a digit".into());
        } else if OWN_LABELS.contains(&name.as_ref()) {
            walk.problem(key.span(), format!("the label `{name}` is set by whystall"));
        }
        labels.extend(walk.filled(value).map(|v| (name.to_string(), v)));
    }
    let expire_ns = table.get("expire").and_then(|v| walk.duration(v, 60 * SEC));
    Some(Alertmanager { http: http?, labels, expire_ns })
}

fn email(walk: &mut Walk, table: &DeTable<'_>, at: &Value<'_>) -> Option<Email> {
    walk.only(table, EMAIL_KEYS);
    let via = match table.get("sendmail") {
        Some(v) => {
            for key in ["smtp", "tls", "username", "password_file", "ca_file"] {
                either(walk, table, "sendmail", key);
            }
            let program = walk.filled(v).map(PathBuf::from);
            if program.as_ref().is_some_and(|p| !p.is_absolute()) {
                walk.problem(v.span(), "this is no whole path").help =
                    Some("write for example \"/usr/sbin/sendmail\"".into());
            }
            program.map(Via::Sendmail)
        }
        None => smtp(walk, table, at).map(Via::Smtp),
    };
    let from = required(walk, table, "receiver", "from", at).and_then(|v| {
        let from = walk.filled(v)?;
        address(walk, &from, v.span());
        Some(from)
    });
    let to = required(walk, table, "receiver", "to", at).map(|v| {
        let to = walk.strings(v, "email addresses");
        if v.get_ref().as_array().is_some_and(|a| a.is_empty()) {
            walk.problem(v.span(), "there is no recipient");
        }
        to.iter().for_each(|(a, span)| address(walk, a, span.clone()));
        to.into_iter().map(|(a, _)| a).collect()
    });
    let template = template(walk, table);
    let timeout_ns = table.get("timeout").and_then(|v| walk.duration(v, SEC / 10));
    Some(Email { via: via?, from: from?, to: to?, template, timeout_ns })
}

fn smtp(walk: &mut Walk, table: &DeTable<'_>, at: &Value<'_>) -> Option<Smtp> {
    let server = required(walk, table, "receiver", "smtp", at).and_then(|v| server(walk, v));
    let tls = table.get("tls").and_then(|v| Some((walk.one_of(v, "tls mode", &TLS)?, v)));
    if let (Some((Tls::None, v)), Some((host, _))) = (&tls, &server)
        && !is_loopback(host)
    {
        let help = "without TLS only a server on this host is allowed; use \"starttls\" or \"implicit\"";
        walk.problem(v.span(), format!("`{host}` is not this host")).help = Some(help.into());
    }
    let user = table.get("username").and_then(|v| walk.filled(v));
    let password = file(walk, table, "password_file");
    let login = pair(walk, at, ("username", user), ("password_file", password));
    let ca_file = file(walk, table, "ca_file");
    let (host, port) = server?;
    Some(Smtp { host, port, tls: tls.map(|(t, _)| t).unwrap_or_default(), login, ca_file })
}

fn server(walk: &mut Walk, value: &Value<'_>) -> Option<(String, u16)> {
    let written = walk.filled(value)?;
    let parsed = written.rsplit_once(':').and_then(|(host, port)| {
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let ok =
            !bare.is_empty() && !bare.contains(|c: char| c.is_whitespace() || c.is_control() || c == '/');
        let ok = ok && (bare.len() < host.len() || !bare.contains(':'));
        Some((bare.to_string(), port.parse::<u16>().ok().filter(|p| ok && *p > 0)?))
    });
    if parsed.is_none() {
        let message = format!("`{written}` is no server and port");
        walk.problem(value.span(), message).help =
            Some("write host:port, for example mail.example:587".into());
    }
    parsed
}

fn is_loopback(host: &str) -> bool {
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Only what can be no address is refused; the server knows the rest.
fn address(walk: &mut Walk, address: &str, span: Range<usize>) {
    let ok = address.rsplit_once('@').is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty());
    if !ok || address.contains(|c: char| c.is_whitespace() || c.is_control() || c == ',') {
        walk.problem(span, format!("`{address}` is no email address"));
    }
}
