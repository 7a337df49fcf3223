//! Requests to HTTP peers: TLS, proxies, deadlines, addresses that are refused, and what an answer means.

mod guard;
mod retry_after;
mod tls;

use std::error::Error;
use std::fmt;
use std::time::{Duration, SystemTime};

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Proxy, Response, StatusCode, Url};

use super::secret::{self, Redactor};
use super::{Fault, Wrong};
use crate::config::{Http, Proxy as ProxySetting};
use crate::notify::Outcome;

pub use guard::check_address;
pub(super) use guard::lookup;
pub use retry_after::parse_retry_after;

/// Unless the config says otherwise.
const TIMEOUT: Duration = Duration::from_secs(30);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// As much of an answer is read.
const ANSWER: usize = 2048;
const AGENT: &str = concat!("whystall/", env!("CARGO_PKG_VERSION"));

/// A peer behind a URL.
pub(super) struct Endpoint {
    client: Client,
    url: Url,
    bearer: Option<HeaderValue>,
    redactor: Redactor,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The URL may be a secret as a whole, and the client's own output has the proxy's.
        f.debug_struct("Endpoint").field("redactor", &self.redactor).finish_non_exhaustive()
    }
}

/// What is posted.
pub(super) struct Request {
    pub(super) body: Vec<u8>,
    pub(super) content_type: String,
    pub(super) headers: HeaderMap,
}

impl Endpoint {
    /// `below` is added to the path of the URL.
    pub(super) fn build(settings: &Http, below: &str) -> Result<Endpoint, Wrong> {
        let mut redactor = Redactor::default();
        let (url, key) = url(settings)?;
        redactor.hide_url(&url);
        let url = with_path(url, below);
        redactor.hide_url(&url);
        if !settings.allow_special_addresses {
            guard::check_host(&url).map_err(|why| guard::fault(why).at(key))?;
        }
        let mut client = Client::builder()
            .user_agent(AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .timeout(settings.timeout_ns.map_or(TIMEOUT, Duration::from_nanos))
            .connect_timeout(settings.connect_timeout_ns.map_or(CONNECT_TIMEOUT, Duration::from_nanos))
            .pool_max_idle_per_host(1)
            .pool_idle_timeout(Duration::from_secs(60))
            .dns_resolver(std::sync::Arc::new(guard::Resolver::new(settings.allow_special_addresses)));
        let through = match &settings.proxy {
            ProxySetting::Environment => None,
            ProxySetting::None => {
                client = client.no_proxy();
                None
            }
            ProxySetting::Url(text) => Some((text.clone(), "proxy")),
            ProxySetting::File(path) => {
                let text = secret::read(path, "proxy_file")?;
                redactor.hide(text.expose());
                Some((text.expose().to_string(), "proxy_file"))
            }
        };
        let mut secure = url.scheme() == "https";
        if let Some((text, key)) = through {
            let proxy = proxy_url(&text, settings, key)?;
            redactor.hide_url(&proxy);
            secure |= proxy.scheme() == "https";
            client = client.proxy(Proxy::all(proxy).map_err(|_| Fault::new("this is no proxy").at(key))?);
        }
        client = client.use_preconfigured_tls(tls::config(settings, secure)?);
        let mut bearer = None;
        if let Some(path) = &settings.bearer_file {
            let token = secret::read(path, "bearer_file")?;
            redactor.hide(token.expose());
            let value = HeaderValue::from_str(&format!("Bearer {}", token.expose()));
            let mut value = value.map_err(|_| Fault::new("the token fits no header").at("bearer_file"))?;
            value.set_sensitive(true);
            bearer = Some(value);
        }
        let client = client.build().map_err(|e| Fault::new(redactor.line(&chain(&e))).at(key))?;
        Ok(Endpoint { client, url, bearer, redactor })
    }

    /// Keeps this out of whatever is said about deliveries.
    pub(super) fn hide(&mut self, secret: &str) {
        self.redactor.hide(secret);
    }

    /// Sends one request and judges the answer.
    pub(super) async fn post(&self, request: Request) -> Outcome {
        let mut headers = request.headers;
        if let Ok(value) = HeaderValue::from_str(&request.content_type) {
            headers.insert(CONTENT_TYPE, value);
        }
        headers.extend(self.bearer.clone().map(|b| (AUTHORIZATION, b)));
        let sent = self.client.post(self.url.clone()).headers(headers).body(request.body).send().await;
        match sent {
            Ok(response) => self.judge(response).await,
            Err(e) => {
                let why = match (e.is_connect(), e.is_timeout()) {
                    (true, true) => "no connection within its deadline".to_string(),
                    (false, true) => "no answer within its deadline".to_string(),
                    _ => self.redactor.line(&chain(&e.without_url())),
                };
                Outcome::Retry { why, after: None, progress: None }
            }
        }
    }

    async fn judge(&self, response: Response) -> Outcome {
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|v| v.to_str().ok());
        let after = after.and_then(|v| parse_retry_after(v, SystemTime::now()));
        let said = beginning(response).await;
        if status.is_success() {
            return Outcome::Delivered { note: None };
        }
        let mut why = format!("it answered {}", status.as_u16());
        if status.is_redirection() {
            why.push_str(", a redirect, and those are not followed");
        } else if let said = self.redactor.line(&said)
            && !said.is_empty()
        {
            why = format!("{why}: {said}");
        }
        if is_permanent(status) {
            Outcome::Permanent { why }
        } else {
            Outcome::Retry { why, after, progress: None }
        }
    }
}

/// What the peer says will not change by asking again.
fn is_permanent(status: StatusCode) -> bool {
    let moved = matches!(status, StatusCode::MOVED_PERMANENTLY | StatusCode::PERMANENT_REDIRECT);
    let later = matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS);
    moved || (status.is_client_error() && !later)
}

/// The beginning of an answer. What is cut off or broken counts as far as it came.
async fn beginning(mut response: Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend(chunk.iter().take(ANSWER - bytes.len()));
        if bytes.len() >= ANSWER {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// An error with its causes, each once.
fn chain(e: &dyn Error) -> String {
    let mut texts = vec![e.to_string()];
    let mut next = e.source();
    while let Some(cause) = next {
        let text = cause.to_string();
        if !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
        next = cause.source();
    }
    texts.join(": ")
}

fn url(settings: &Http) -> Result<(Url, &'static str), Wrong> {
    let (text, key) = match (&settings.url, &settings.url_file) {
        (Some(url), _) => (secret::Secret::new(url), "url"),
        (None, Some(file)) => (secret::read(file, "url_file")?, "url_file"),
        (None, None) => return Err(Fault::new("there is no URL").at("url")),
    };
    let no_url = || Fault::new("this is no URL").help("write https://host/path").at(key);
    let url = Url::parse(text.expose()).map_err(|_| no_url())?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(no_url());
    }
    Ok((url, key))
}

fn with_path(mut url: Url, below: &str) -> Url {
    if !below.is_empty() {
        let path = format!("{}{below}", url.path().trim_end_matches('/'));
        url.set_path(&path);
    }
    url
}

fn proxy_url(text: &str, settings: &Http, key: &'static str) -> Result<Url, Wrong> {
    let help = "write http://host:port";
    let url = Url::parse(text).map_err(|_| Fault::new("this is no URL").help(help).at(key))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Fault::new("this is no HTTP proxy").help(help).at(key));
    }
    if !settings.allow_special_addresses {
        guard::check_host(&url).map_err(|why| guard::fault(why).at(key))?;
    }
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_permanent() {
        let permanent = |code: u16| is_permanent(StatusCode::from_u16(code).unwrap());
        assert!([301, 308, 400, 401, 403, 404, 410, 413, 422, 499].into_iter().all(permanent));
        assert!(![302, 303, 307, 408, 429, 500, 502, 503, 504, 599].into_iter().any(permanent));
    }

    #[test]
    fn paths_are_added() {
        let path = |url: &str| with_path(Url::parse(url).unwrap(), "/api/v2/alerts").to_string();
        assert_eq!(path("http://h:9093"), "http://h:9093/api/v2/alerts");
        assert_eq!(path("http://h/am/?x=1"), "http://h/am/api/v2/alerts?x=1");
    }
}
