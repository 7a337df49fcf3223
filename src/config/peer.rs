//! How receivers are reached: the shapes of their settings.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// A file or `credential:NAME`, whose content is read when the receiver is made.
pub type SecretFile = PathBuf;

/// A receiver behind HTTP. Either `url` or `url_file` is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Http {
    /// `http://…` or `https://…`, without a password in it.
    pub url: Option<String>,
    /// A file with the URL, where the URL itself is a secret.
    pub url_file: Option<SecretFile>,
    /// A file with a token that is sent as `Authorization: Bearer`.
    pub bearer_file: Option<SecretFile>,
    /// Certificates (PEM) that are trusted instead of the system's.
    pub ca_file: Option<SecretFile>,
    /// Our certificate (PEM) and its key; both or none.
    pub client_cert: Option<(SecretFile, SecretFile)>,
    /// How the peer is reached.
    pub proxy: Proxy,
    /// How long one request may take, nanoseconds.
    pub timeout_ns: Option<u64>,
    /// How long its connection may take, nanoseconds.
    pub connect_timeout_ns: Option<u64>,
    /// Whether link-local and metadata addresses are allowed.
    pub allow_special_addresses: bool,
}

/// The proxy for HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Proxy {
    /// What `HTTPS_PROXY`, `HTTP_PROXY`, `ALL_PROXY` and `NO_PROXY` say.
    #[default]
    Environment,
    /// None, whatever the environment says.
    None,
    /// This one.
    Url(String),
    /// The one whose URL is in this file, because a password is in it.
    File(SecretFile),
}

/// A webhook.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Webhook {
    /// Where it is.
    pub http: Http,
    /// A file with the keys that sign requests, one a line.
    pub secret_file: Option<SecretFile>,
    /// What makes the body, instead of the verdict's JSON.
    pub template: Option<Template>,
    /// The body's type; only with a template.
    pub content_type: Option<String>,
}

/// A template (minijinja).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Template {
    /// Its text.
    Inline(String),
    /// A file with its text.
    File(PathBuf),
}

/// An Alertmanager.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Alertmanager {
    /// Where it is.
    pub http: Http,
    /// Labels that each alert gets besides its own.
    pub labels: BTreeMap<String, String>,
    /// After how long an alert ends of which nothing more is heard, nanoseconds.
    pub expire_ns: Option<u64>,
}

/// A receiver of email.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Email {
    /// How messages leave.
    pub via: Via,
    /// The sender.
    pub from: String,
    /// The recipients, at least one.
    pub to: Vec<String>,
    /// What makes the text, instead of our own.
    pub template: Option<Template>,
    /// How long one delivery may take, nanoseconds.
    pub timeout_ns: Option<u64>,
}

/// How email leaves this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Via {
    /// By an SMTP server.
    Smtp(Smtp),
    /// By a program that takes the message on standard input and options as sendmail does.
    Sendmail(PathBuf),
}

/// An SMTP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Smtp {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: Tls,
    /// Who logs in, and a file with the password; both or none.
    pub login: Option<(String, SecretFile)>,
    /// Certificates (PEM) that are trusted instead of the system's.
    pub ca_file: Option<SecretFile>,
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
