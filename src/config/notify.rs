//! Receivers and routes: their shape. Nothing here connects or reads a secret.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::Range;
use std::path::PathBuf;

use toml::de::DeTable;
use whystall_event::SEC;

use super::delivery::{self, Delivery};
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
}

/// How a receiver is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReceiverKind {
    /// The verdict as JSON to a URL.
    Webhook(Http),
    /// An Alertmanager's v2 API; the URL is its base.
    Alertmanager(Http),
    /// A Slack-compatible incoming webhook.
    Slack(Http),
    /// Email.
    Email(Email),
    /// The systemd journal.
    Journal,
}

/// A receiver behind HTTP. Either `url` or `url_file` is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// `http://…` or `https://…`.
    pub url: Option<String>,
    /// A file with the URL, where the URL itself is a secret.
    pub url_file: Option<PathBuf>,
    /// A file with the key that signs requests.
    pub secret_file: Option<PathBuf>,
    /// Certificates (PEM) that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Our certificate (PEM) and its key; both or none.
    pub client_cert: Option<(PathBuf, PathBuf)>,
    /// How long one request may take, nanoseconds.
    pub timeout_ns: Option<u64>,
}

/// A receiver of email.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: Tls,
    /// The sender.
    pub from: String,
    /// The recipients, at least one.
    pub to: Vec<String>,
    /// Who logs in, and a file with the password; both or none.
    pub login: Option<(String, PathBuf)>,
}

/// How a connection to an email server is protected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tls {
    /// STARTTLS, required.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// Not at all; only to the loopback.
    None,
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
    "secret_file",
    "ca_file",
    "client_cert_file",
    "client_key_file",
    "timeout",
];
const EMAIL_KEYS: &[&str] = &["name", "type", "smtp", "tls", "from", "to", "username", "password_file"];
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
            Type::Webhook => http(walk, table, value).map(ReceiverKind::Webhook),
            Type::Alertmanager => http(walk, table, value).map(ReceiverKind::Alertmanager),
            Type::Slack => http(walk, table, value).map(ReceiverKind::Slack),
            Type::Email => email(walk, table, value).map(ReceiverKind::Email),
            Type::Journal => {
                walk.only(table, &["name", "type"]);
                Some(ReceiverKind::Journal)
            }
        });
        walk.common = &[];
        // One whose kind is wrong still has a name that routes may refer to.
        if let Some((name, _)) = name {
            let kind = kind.unwrap_or(ReceiverKind::Journal);
            all.push(Receiver { name, kind, delivery, span: value.span() });
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

fn http(walk: &mut Walk, table: &DeTable<'_>, at: &Value<'_>) -> Option<Http> {
    walk.only(table, HTTP_KEYS);
    if !table.contains_key("url") && !table.contains_key("url_file") {
        walk.problem(at.span(), "this receiver has no `url`");
    }
    if let Some(v) = table.get("url_file").filter(|_| table.contains_key("url")) {
        walk.problem(v.span(), "`url` and `url_file` cannot both be given");
    }
    let url = table.get("url").and_then(|v| {
        let url = walk.filled(v)?;
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let ok = host.is_some_and(|h| !h.is_empty() && !h.starts_with(['/', '?', '#', ':']))
            && !url.contains(|c: char| c.is_whitespace() || c.is_control());
        if !ok {
            walk.problem(v.span(), "this is no URL").help = Some("write https://host/path".into());
        }
        Some(url)
    });
    let (cert, key) = (file(walk, table, "client_cert_file"), file(walk, table, "client_key_file"));
    Some(Http {
        url,
        url_file: file(walk, table, "url_file"),
        secret_file: file(walk, table, "secret_file"),
        ca_file: file(walk, table, "ca_file"),
        client_cert: pair(walk, at, ("client_cert_file", cert), ("client_key_file", key)),
        timeout_ns: table.get("timeout").and_then(|v| walk.duration(v, SEC / 10)),
    })
}

fn email(walk: &mut Walk, table: &DeTable<'_>, at: &Value<'_>) -> Option<Email> {
    walk.only(table, EMAIL_KEYS);
    let server = required(walk, table, "receiver", "smtp", at).and_then(|v| server(walk, v));
    let tls = table.get("tls").and_then(|v| Some((walk.one_of(v, "tls mode", &TLS)?, v)));
    if let (Some((Tls::None, v)), Some((host, _))) = (&tls, &server)
        && !is_loopback(host)
    {
        let help = "without TLS only a server on this host is allowed; use \"starttls\" or \"implicit\"";
        walk.problem(v.span(), format!("`{host}` is not this host")).help = Some(help.into());
    }
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
    let user = table.get("username").and_then(|v| walk.filled(v));
    let password = file(walk, table, "password_file");
    let login = pair(walk, at, ("username", user), ("password_file", password));
    let (host, port) = server?;
    Some(Email { host, port, tls: tls.map(|(t, _)| t).unwrap_or_default(), from: from?, to: to?, login })
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
