//! TLS around TCP (RFC 9329 Appendix A): the gateway's certificate, and what a connection expects of the other end's.

use super::certificates::{self, AUTHORITY, Expiry, OURS, PEER};
use super::document::{Table, Value};
use super::{auth, secrets};
use crate::tls::{self, ClientTls, ServerTls};
use landbridge_proto::pki::Certificate;
use landbridge_proto::policy::connection::TcpUse;
use std::net::IpAddr;

/// What the gateway's certificates are listed under, where those of a connection have its name.
const GATEWAY: &str = "gateway";

/// `tls_cert_file` and `tls_private_key_file` of `[gateway]`.
pub(super) fn server(table: &Table<'_, '_>, listen: Option<&Value<'_, '_>>) -> (Option<ServerTls>, Vec<Expiry>) {
    let files = (table.get("tls_cert_file"), table.get("tls_private_key_file"));
    let (Some(cert), Some(key)) = &files else {
        let place = listen.or(files.0.as_ref()).or(files.1.as_ref());
        if let Some(place) = place {
            place.error(
                "TLS takes a certificate and its key",
                Some("name them in tls_cert_file and tls_private_key_file".to_owned()),
            );
        }
        return (None, Vec::new());
    };
    if listen.is_none() {
        cert.warn("nothing uses it without tls_listen");
    }
    let directory = table.findings().directory();
    let chain = cert
        .string()
        .and_then(|file| Some((file, certificates::certificates(cert, file, directory)?)));
    // Both are read before either is missed, so that all that is wrong is reported.
    let (Some((file, chain)), Some(key)) = (chain, secrets::tls_key(key, directory)) else {
        return (None, Vec::new());
    };
    let expiries = chain
        .iter()
        .map(|certificate| certificates::expiry(GATEWAY, OURS, file, certificate))
        .collect();
    match ServerTls::new(ders(&chain), key) {
        Ok(server) => (Some(server), expiries),
        Err(problem) => {
            cert.error(problem, None);
            (None, Vec::new())
        }
    }
}

/// `tcp_tls` of a connection and what belongs to it; the outer `None`: something is wrong.
pub(super) fn client(
    table: &Table<'_, '_>,
    connection: &str,
    tcp: TcpUse,
    hosts: &[String],
    expiries: &mut Vec<Expiry>,
) -> Option<Option<ClientTls>> {
    let switch = table.get("tcp_tls");
    let on = switch.as_ref().is_some_and(|value| value.boolean() == Some(true));
    let name = table.get("tcp_tls_name");
    let cas = auth::files(table, "tcp_tls_cacert_file", "tcp_tls_cacert_files");
    let certs = auth::files(table, "tcp_tls_cert_file", "tcp_tls_cert_files");
    if let Some(idle) = name.iter().chain(&cas).chain(&certs).next().filter(|_| !on) {
        idle.warn("nothing uses it without tcp_tls = true");
    }
    if let Some(value) = switch.filter(|_| on && matches!(tcp, TcpUse::Never | TcpUse::Accept)) {
        value.warn("it is for TCP connections that we open: set tcp to \"fallback\" or \"always\"");
    }
    let is_host_name = |host: &&str| tls::is_name(host) && host.parse::<IpAddr>().is_err();
    let (mut anchors, mut pinned, mut complete) = (Vec::new(), Vec::new(), true);
    let given = match &name {
        Some(value) => {
            let text = value.string()?;
            if !tls::is_name(text) {
                let remedy = "write the name that is in the other end's certificate".to_owned();
                value.error(format!("{text:?} is no host name or address"), Some(remedy));
                complete = false;
            }
            Some(text)
        }
        None => hosts.iter().map(String::as_str).find(is_host_name),
    };
    let several = hosts.iter().map(String::as_str).filter(is_host_name).count() > 1;
    if let (Some(value), None, Some(first), true) = (cas.first(), &name, given, several) {
        value.warn(format!(
            "a certificate is held against {first:?} whichever of remote_addrs it is from: if it has another name, write tcp_tls_name"
        ));
    }
    for (values, what) in [(&cas, AUTHORITY), (&certs, PEER)] {
        for value in values {
            let Some(list) = read(value, table, what) else {
                complete = false;
                continue;
            };
            let file = value.string().unwrap_or_default();
            expiries.extend(list.iter().map(|one| certificates::expiry(connection, what, file, one)));
            let place = if what == AUTHORITY { &mut anchors } else { &mut pinned };
            place.extend(ders(&list));
        }
    }
    if !complete {
        return None;
    }
    match ClientTls::new(given, anchors, pinned) {
        Ok(client) => Some(on.then_some(client)),
        Err(problem) => {
            let spot = cas.first().map_or(table.spot(), Value::spot);
            table.findings().error(spot, problem, None);
            None
        }
    }
}

/// The CAs of a file, or the one certificate that stands first in it.
fn read(value: &Value<'_, '_>, table: &Table<'_, '_>, what: &str) -> Option<Vec<Certificate>> {
    let file = value.string()?;
    let mut list = certificates::certificates(value, file, table.findings().directory())?;
    if what == PEER {
        list.truncate(1);
    } else if let Some(other) = list.iter().find(|certificate| !certificate.may_issue()) {
        let problem = format!("{} in {file} is not the certificate of a CA", other.subject_in_words());
        let remedy = "a certificate of the other end itself goes into tcp_tls_cert_files".to_owned();
        value.error(problem, Some(remedy));
        return None;
    }
    Some(list)
}

fn ders(list: &[Certificate]) -> Vec<Vec<u8>> {
    list.iter().map(|certificate| certificate.der().to_vec()).collect()
}
