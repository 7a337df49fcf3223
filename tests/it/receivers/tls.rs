//! A webhook behind TLS, served by Python's own server on OpenSSL.

use std::process::Command;

use super::peers::{Ca, Peer, python, script};
use super::{deliver, delivered, firing, receiver, retry};

#[test]
fn tls_is_verified() {
    let (Some(python), Some(ca)) = (python(), Ca::make()) else { return };
    let peer = Peer::start(
        Command::new(python)
            .arg(script("https.py"))
            .arg(ca.path("localhost.pem"))
            .arg(ca.path("localhost.key"))
            .arg(""),
    );
    let port = peer.port();
    let ca_file = format!("ca_file = {:?}", ca.path("ca.pem"));
    let to = |host: &str, lines: &str| {
        let lines =
            format!("url = \"https://{host}:{port}/hook\"\nproxy = \"none\"\ntimeout = \"10s\"\n{lines}");
        deliver(&*receiver("webhook", &lines), &firing("n1"))
    };
    assert_eq!(to("localhost", &ca_file), delivered());
    let seen = peer.json();
    assert_eq!((seen["path"].as_str(), seen["client"].as_str()), (Some("/hook"), None));
    assert_eq!(seen["headers"]["webhook-id"], "n1");
    // The certificate is for another name.
    assert!(retry(&to("127.0.0.1", &ca_file)).0.contains("certificate"));
    // It is signed by nobody whom we trust.
    let other = format!("ca_file = {:?}", ca.path("other.pem"));
    assert!(retry(&to("localhost", &other)).0.contains("certificate"));
    assert!(peer.lines.try_recv().is_err());
}

#[test]
fn a_client_certificate_is_shown() {
    let (Some(python), Some(ca)) = (python(), Ca::make()) else { return };
    let peer = Peer::start(
        Command::new(python)
            .arg(script("https.py"))
            .arg(ca.path("localhost.pem"))
            .arg(ca.path("localhost.key"))
            .arg(ca.path("ca.pem")),
    );
    let port = peer.port();
    let lines = format!(
        "url = \"https://localhost:{port}/\"\nproxy = \"none\"\ntimeout = \"10s\"\nca_file = {:?}",
        ca.path("ca.pem")
    );
    retry(&deliver(&*receiver("webhook", &lines), &firing("n")));
    let ours = format!(
        "{lines}\nclient_cert_file = {:?}\nclient_key_file = {:?}",
        ca.path("client.pem"),
        ca.path("client.key")
    );
    assert_eq!(deliver(&*receiver("webhook", &ours), &firing("n")), delivered());
    assert_eq!(peer.json()["client"], "client");
}
