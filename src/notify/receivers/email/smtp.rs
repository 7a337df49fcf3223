//! One transaction with an SMTP server, in which each recipient is asked for alone.

use std::fmt;
use std::time::Duration;

use lettre::Address;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::authentication::{Credentials, Mechanism};
use lettre::transport::smtp::client::{
    AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters, TlsParametersBuilder,
};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::{ClientId, Extension, MailParameter};
use whystall_event::text::escape;

use super::super::http::lookup;
use super::super::secret::{self, Redactor};
use super::super::{Fault, Wrong};
use super::Fate;
use crate::config::{Smtp, Tls};

const CONNECT: Duration = Duration::from_secs(15);

pub(super) struct Server {
    host: String,
    port: u16,
    tls: Tls,
    parameters: TlsParameters,
    login: Option<Credentials>,
    hello: ClientId,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut s = f.debug_struct("Server");
        s.field("host", &self.host).field("port", &self.port).field("tls", &self.tls).finish_non_exhaustive()
    }
}

pub(super) fn build(settings: &Smtp, host: &str, redactor: &mut Redactor) -> Result<Server, Wrong> {
    let mut parameters = TlsParametersBuilder::new(settings.host.clone());
    if let Some(path) = &settings.ca_file {
        let wrong = || Fault::new("there is no certificate (PEM) that can be used in it").at("ca_file");
        let pem = secret::read_file(path, "ca_file")?;
        if !pem.windows(10).any(|w| w == b"-----BEGIN") {
            return Err(wrong());
        }
        let certificate = Certificate::from_pem(&pem).map_err(|_| wrong())?;
        parameters = parameters.certificate_store(CertificateStore::None).add_root_certificate(certificate);
    }
    let parameters = parameters.build().map_err(|e| Fault::new(e.to_string()).at("ca_file"))?;
    let login = match &settings.login {
        None => None,
        Some((user, file)) => {
            let password = secret::read(file, "password_file")?;
            redactor.hide(password.expose());
            redactor.hide(&secret::base64(password.expose()));
            redactor.hide(&secret::base64(&format!("\0{user}\0{}", password.expose())));
            Some(Credentials::new(user.clone(), password.expose().to_string()))
        }
    };
    // RFC 5321 wants a name; what is none is no reason not to deliver.
    let named = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
    let hello = ClientId::Domain(if named { host.to_string() } else { "localhost".into() });
    let (host, port, tls) = (settings.host.clone(), settings.port, settings.tls);
    Ok(Server { host, port, tls, parameters, login, hello })
}

impl Server {
    /// The fate of each recipient, in order.
    pub(super) async fn send(&self, from: &Address, to: &[Address], message: &[u8]) -> Vec<Fate> {
        let mut fates: Vec<Option<Fate>> = vec![None; to.len()];
        let failed = self.transaction(from, to, message, &mut fates).await.err();
        // What ended the transaction is the fate of all that have none of their own.
        let rest = failed.unwrap_or(Fate::Later("the server did not say".into()));
        fates.into_iter().map(|f| f.unwrap_or_else(|| rest.clone())).collect()
    }

    async fn transaction(
        &self,
        from: &Address,
        to: &[Address],
        message: &[u8],
        fates: &mut [Option<Fate>],
    ) -> Result<(), Fate> {
        let mut server = self.connect().await?;
        let mut options = Vec::new();
        if std::iter::once(from).chain(to).any(|a| !AsRef::<str>::as_ref(a).is_ascii()) {
            if !server.server_info().supports_feature(Extension::SmtpUtfEight) {
                server.abort().await;
                return Err(Fate::Never("the server takes no addresses beyond ASCII".into()));
            }
            options.push(MailParameter::SmtpUtfEight);
        }
        if let Err(e) = server.command(Mail::new(Some(from.clone()), options)).await {
            server.abort().await;
            return Err(fate(&e));
        }
        let mut taken = 0;
        for (address, slot) in to.iter().zip(fates.iter_mut()) {
            match server.command(Rcpt::new(address.clone(), Vec::new())).await {
                Ok(_) => taken += 1,
                Err(e) if e.status().is_some() => *slot = Some(fate(&e)),
                Err(e) => return Err(fate(&e)),
            }
        }
        if taken > 0 {
            let sent = match server.command(Data).await {
                Ok(_) => server.message(message).await,
                Err(e) => Err(e),
            };
            let fate = sent.map_or_else(|e| fate(&e), |_| Fate::Taken);
            for slot in fates.iter_mut().filter(|f| f.is_none()) {
                *slot = Some(fate.clone());
            }
        }
        // The message is the server's by now, whatever it says to this.
        let _ = server.quit().await;
        Ok(())
    }

    async fn connect(&self) -> Result<AsyncSmtpConnection, Fate> {
        let addresses = lookup(&self.host, self.port, true).await.map_err(Fate::Later)?;
        let implicit = (self.tls == Tls::Implicit).then(|| self.parameters.clone());
        if self.tls == Tls::None && addresses.iter().any(|a| !a.ip().is_loopback()) {
            return Err(Fate::Later("without TLS only a server on this host is allowed".into()));
        }
        let connected =
            AsyncSmtpConnection::connect_tokio1(&addresses[..], Some(CONNECT), &self.hello, implicit, None)
                .await;
        let mut server = connected.map_err(|e| unsent(&e))?;
        if self.tls == Tls::Starttls {
            if !server.can_starttls() {
                server.abort().await;
                return Err(Fate::Later("the server offers no STARTTLS, which is required".into()));
            }
            server.starttls(self.parameters.clone(), &self.hello).await.map_err(|e| unsent(&e))?;
        }
        if let Some(login) = &self.login {
            let known = [Mechanism::Plain, Mechanism::Login];
            if let Err(e) = server.auth(&known, login).await {
                server.abort().await;
                return Err(unsent(&e));
            }
        }
        Ok(server)
    }
}

/// An error before any recipient was named. Whatever its code is, it is none of a recipient's: it may be put right.
fn unsent(e: &Error) -> Fate {
    Fate::Later(describe(e))
}

fn fate(e: &Error) -> Fate {
    if e.is_permanent() { Fate::Never(describe(e)) } else { Fate::Later(describe(e)) }
}

/// The error with its cause, in one line.
fn describe(e: &Error) -> String {
    let mut text = e.to_string();
    let mut next = std::error::Error::source(e);
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    escape(&text).into_owned()
}
