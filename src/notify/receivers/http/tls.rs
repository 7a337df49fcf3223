//! TLS for HTTP peers: rustls on ring, the host's certificates or those of the config, and our own certificate.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::super::{Fault, Wrong, secret};
use crate::config::Http;

/// `needed`: whether it is an error that nothing can be verified.
pub(super) fn config(settings: &Http, needed: bool) -> Result<ClientConfig, Wrong> {
    let mut roots = RootCertStore::empty();
    match &settings.ca_file {
        Some(path) => {
            for certificate in certificates(&secret::read_file(path, "ca_file")?, "ca_file")? {
                let wrong = |e| Fault::new(format!("a certificate cannot be used: {e}")).at("ca_file");
                roots.add(certificate).map_err(wrong)?;
            }
        }
        None if needed => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                let help = "install ca-certificates, or name certificates with ca_file";
                return Err(Fault::new("this host has no certificates to verify with").help(help).at("url"));
            }
        }
        None => {}
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions();
    let builder = builder.map_err(|e| Fault::new(e.to_string()).at("url"))?.with_root_certificates(roots);
    let Some((certificate, key)) = &settings.client_cert else {
        return Ok(builder.with_no_client_auth());
    };
    let chain = certificates(&secret::read_file(certificate, "client_cert_file")?, "client_cert_file")?;
    let key = PrivateKeyDer::from_pem_slice(&secret::read_file(key, "client_key_file")?)
        .map_err(|_| Fault::new("there is no private key (PEM) in it").at("client_key_file"))?;
    builder
        .with_client_auth_cert(chain, key)
        .map_err(|e| Fault::new(format!("certificate and key do not fit: {e}")).at("client_key_file"))
}

/// All certificates of a PEM file, at least one.
fn certificates(pem: &[u8], key: &'static str) -> Result<Vec<CertificateDer<'static>>, Wrong> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        _ => Err(Fault::new("there is no certificate (PEM) in it").at(key)),
    }
}
