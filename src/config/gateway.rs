//! `[gateway]`: what holds for the whole daemon.

use super::document::{Table, Value};
use super::units::{integer, is_host_name, some_duration};
use super::{Expiry, GatewaySettings, identity, tls};
use crate::tls::ServerTls;
use landbridge_proto::ike::puzzle::{HARDEST, TIME_TO_SEARCH, usual_time};
use landbridge_proto::policy::connection::Gateway;
use landbridge_proto::wire::{GatewayIdentity, Identification};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

/// Where the control socket is, unless the configuration or `--socket` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/landbridge/control.sock";

/// An SPI has room for so many owners (`policy::spi`).
const MOST_WORKERS: u64 = 64;

/// The daemon's settings, the key exchange's, and the identity that connections take when they give none.
pub(super) struct Read {
    pub settings: GatewaySettings,
    pub ike: Gateway,
    pub id: Option<Identification>,
    pub tls: Option<ServerTls>,
    pub expiries: Vec<Expiry>,
}

/// Reads the table; a value that is wrong is reported and leaves its default.
pub(super) fn read(table: Option<Table<'_, '_>>) -> Read {
    let mut settings = GatewaySettings {
        control_socket: PathBuf::from(DEFAULT_SOCKET),
        workers: None,
        port: 500,
        nat_port: 4500,
        tcp_listen: Vec::new(),
        tls_listen: Vec::new(),
        log_level: "info".to_owned(),
        metrics_listen: None,
        state_dir: None,
    };
    // The key exchange deals out inbound SAs among as many owners as the data path has workers.
    let mut workers = default_workers();
    settings.workers = Some(workers.into());
    let mut ike = Gateway {
        workers,
        ..Gateway::default()
    };
    let mut id = None;
    let Some(table) = table else {
        return Read {
            settings,
            ike,
            id,
            tls: None,
            expiries: Vec::new(),
        };
    };

    id = table
        .get("id")
        .and_then(|value| identity::read(&value))
        .flatten()
        .or(id);
    if let Some(value) = table.get("control_socket") {
        set(&mut settings.control_socket, socket(&value));
    }
    if let Some(value) = table.get("workers") {
        set(&mut workers, integer(&value, 1..=MOST_WORKERS));
    }
    (settings.workers, ike.workers) = (Some(workers.into()), workers);
    let port = table
        .get("port")
        .inspect(|value| set(&mut settings.port, integer(value, 1..=65_535)));
    if let Some(value) = table.get("nat_port") {
        set(&mut settings.nat_port, integer(&value, 1..=65_535));
    }
    if settings.port == settings.nat_port
        && let Some(value) = port
    {
        value.error("port and nat_port must differ", None);
    }
    if let Some(value) = table.get("tcp_listen") {
        set(&mut settings.tcp_listen, tcp_listen(&value));
    }
    let tls_listen = table.get("tls_listen");
    if let Some(value) = &tls_listen {
        set(&mut settings.tls_listen, tcp_listen(value));
        let same = |at: &SocketAddr, other: &SocketAddr| {
            let all = at.ip().is_unspecified() || other.ip().is_unspecified();
            at.port() == other.port() && (all || at.ip() == other.ip())
        };
        let mut with = settings.tls_listen.iter();
        if let Some(both) = with.find(|at| settings.tcp_listen.iter().any(|other| same(at, other))) {
            value.error(
                format!("{both} is in tcp_listen too"),
                Some("a port is with TLS or without".to_owned()),
            );
        }
    }
    let (tls, expiries) = tls::server(&table, tls_listen.as_ref());
    if let Some(value) = table.get("log_level") {
        set(&mut settings.log_level, log_level(&value));
    }
    if let Some(value) = table.get("metrics_listen") {
        settings.metrics_listen = metrics_listen(&value);
    }
    if let Some(value) = table.get("state_dir") {
        settings.state_dir = state_dir(&value);
    }
    ike.nat_port = settings.nat_port;
    read_ike(&table, &mut ike);
    table.finish();
    Read {
        settings,
        ike,
        id,
        tls,
        expiries,
    }
}

fn read_ike(table: &Table<'_, '_>, ike: &mut Gateway) {
    if let Some(value) = table.get("cookie_threshold") {
        set(&mut ike.cookie_threshold, integer(&value, 0..=1_000_000));
    }
    if let Some(value) = table.get("half_open_limit") {
        set(&mut ike.half_open_limit, integer(&value, 1..=1_000_000));
    }
    ike.puzzle_threshold = ike.half_open_limit / 4;
    if let Some(value) = table.get("puzzle_threshold") {
        set(&mut ike.puzzle_threshold, integer(&value, 0..=1_000_000));
    }
    if let Some(value) = table.get("puzzle_difficulty") {
        set(&mut ike.puzzle_difficulty, difficulty(&value));
    }
    if let Some(value) = table.get("puzzle_difficulty_accepted") {
        set(&mut ike.puzzle_difficulty_accepted, difficulty(&value));
    }
    if let Some(value) = table.get("half_open_limit_per_address") {
        set(&mut ike.half_open_limit_per_address, integer(&value, 1..=1_000_000));
    }
    if let Some(value) = table.get("half_open_timeout") {
        set(&mut ike.half_open_timeout, some_duration(&value));
    }
    if let Some(value) = table.get("retransmit_timeout") {
        set(&mut ike.retransmit_timeout, some_duration(&value));
    }
    if let Some(value) = table.get("retransmit_base") {
        set(&mut ike.retransmit_base_percent, retransmit_base(&value));
    }
    if let Some(value) = table.get("retransmit_tries") {
        set(&mut ike.retransmit_tries, integer(&value, 1..=100));
    }
    if let Some(value) = table.get("nat_keepalive") {
        set(&mut ike.nat_keepalive, some_duration(&value));
    }
    if let Some(value) = table.get("quick_crash_detection") {
        set(&mut ike.quick_crash_detection, value.boolean());
    }
    if let Some(value) = table.get("redirect_to") {
        ike.redirect_to = redirect_to(&value);
    }
    if let Some(value) = table.get("redirect_timeout") {
        set(&mut ike.redirect_timeout, some_duration(&value));
    }
    read_retry(table, &mut ike.retry);
}

/// Another gateway (RFC 5685): its address, or its name.
pub(super) fn redirect_to(value: &Value<'_, '_>) -> Option<GatewayIdentity> {
    match another_gateway(value.string()?) {
        Ok(found) => Some(found),
        Err((message, remedy)) => {
            value.error(message, remedy.map(str::to_owned));
            None
        }
    }
}

/// Where peers may be sent, by the configuration or by an order.
///
/// # Errors
/// Why not, and what to write instead.
pub fn another_gateway(text: &str) -> Result<GatewayIdentity, (String, Option<&'static str>)> {
    let nobody = |address: IpAddr| {
        let broadcast = address == IpAddr::V4(Ipv4Addr::BROADCAST);
        address.is_unspecified() || address.is_multicast() || address.is_loopback() || broadcast
    };
    match GatewayIdentity::parse(text) {
        Some(GatewayIdentity::Address(address)) if nobody(address.to_canonical()) => {
            Err((format!("{text} is no gateway's address"), None))
        }
        Some(found @ GatewayIdentity::Address(_)) => Ok(found),
        Some(found @ GatewayIdentity::Name(_)) if is_host_name(text) => Ok(found),
        _ => {
            let remedy = "write the address or the name of the gateway that peers are to go to";
            Err((format!("{text:?} is not an address or name"), Some(remedy)))
        }
    }
}

/// The waits between attempts.
fn read_retry(table: &Table<'_, '_>, retry: &mut (Duration, Duration)) {
    if let Some(value) = table.get("retry_min") {
        set(&mut retry.0, some_duration(&value));
        retry.1 = retry.1.max(retry.0);
    }
    if let Some(value) = table.get("retry_max") {
        set(&mut retry.1, some_duration(&value));
        if retry.1 < retry.0 {
            value.error(
                format!("it is shorter than retry_min ({})", humantime::format_duration(retry.0)),
                None,
            );
        }
    }
}

/// One a core, at most 8.
fn default_workers() -> u8 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u8::try_from(cores.min(8)).unwrap_or(1)
}

/// The factor as a percentage.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the range is checked before"
)]
fn retransmit_base(value: &Value<'_, '_>) -> Option<u32> {
    let factor = value.number()?;
    // RFC 7296 §2.4: "retransmission times MUST increase exponentially".
    if !(1.1..=10.0).contains(&factor) {
        value.error(format!("{factor} is not between 1.1 and 10"), None);
        return None;
    }
    Some((factor * 100.0).round() as u32)
}

/// Zero bits of a puzzle; 0: none. RFC 8019 §4.4: "This is a number between 8 and 255"; above [`HARDEST`] there are no solutions of
/// ours, and whoever is slower than we take it for has no time for less.
fn difficulty(value: &Value<'_, '_>) -> Option<u8> {
    let bits: u8 = integer(value, 0..=HARDEST.into())?;
    if (1..8).contains(&bits) {
        value.error(
            format!("{bits} is too easy: write 0 for no puzzles, or 8 to {HARDEST}"),
            None,
        );
        return None;
    }
    let time = usual_time(bits);
    if time > TIME_TO_SEARCH {
        value.warn(format!(
            "{bits} bits take one core {} seconds, and a search ends after {}: hardly anybody will solve that; {} bits are the most that fit",
            time.as_secs(),
            TIME_TO_SEARCH.as_secs(),
            (0..bits).rfind(|bits| usual_time(*bits) <= TIME_TO_SEARCH).unwrap_or(0)
        ));
    }
    Some(bits)
}

fn socket(value: &Value<'_, '_>) -> Option<PathBuf> {
    let path = PathBuf::from(value.string()?);
    // sun_path holds 108 octets with the terminator (unix(7)).
    if !path.is_absolute() || path.as_os_str().len() > 107 {
        value.error("an absolute path of at most 107 octets is expected", None);
        return None;
    }
    Some(path)
}

fn state_dir(value: &Value<'_, '_>) -> Option<PathBuf> {
    let path = PathBuf::from(value.string()?);
    if !path.is_absolute() {
        value.error("an absolute path is expected", None);
        return None;
    }
    Some(path)
}

fn metrics_listen(value: &Value<'_, '_>) -> Option<SocketAddr> {
    let text = value.string()?;
    let Ok(address) = text.parse::<SocketAddr>() else {
        let remedy = "write for example \"127.0.0.1:9811\", or \"[::1]:9811\"".to_owned();
        value.error(format!("{text:?} is not an address with a port"), Some(remedy));
        return None;
    };
    if address.port() == 0 {
        value.error("the port may not be 0", None);
        return None;
    }
    if !address.ip().is_loopback() {
        value.warn(format!(
            "whoever reaches {address} reads the names of the connections and how much they carry: there is neither TLS nor a \
             password; take an address of 127.0.0.0/8 and a proxy, or let a firewall decide"
        ));
    }
    Some(address)
}

/// Addresses with ports; without an address all of them are meant, of both families.
fn tcp_listen(value: &Value<'_, '_>) -> Option<Vec<SocketAddr>> {
    let (mut list, mut complete) = (Vec::new(), true);
    for (text, item) in value.strings()? {
        let found = match text.strip_prefix(':').map(str::parse::<u16>) {
            Some(Ok(port)) => vec![
                SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)),
                SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)),
            ],
            Some(Err(_)) => Vec::new(),
            None => text.parse().into_iter().collect(),
        };
        if found.is_empty() {
            let remedy = "write for example \":4500\", \"192.0.2.1:443\" or \"[2001:db8::1]:4500\"".to_owned();
            item.error(format!("{text:?} is not a port to listen on"), Some(remedy));
            complete = false;
        } else if found.iter().any(|address| address.port() == 0) {
            item.error("the port may not be 0", None);
            complete = false;
        }
        list.extend(found);
    }
    list.sort_unstable();
    list.dedup();
    complete.then_some(list)
}

fn log_level(value: &Value<'_, '_>) -> Option<String> {
    let text = value.string()?;
    // EnvFilter takes any bare word for a target, so a mistyped level would silence everything.
    let level = |word: &str| ["off", "error", "warn", "info", "debug", "trace"].contains(&word);
    let fine = text
        .split(',')
        .all(|part| part.contains(['=', '[']) || level(&part.trim().to_ascii_lowercase()));
    if !fine || tracing_subscriber::EnvFilter::builder().parse(text).is_err() {
        let remedy = "write error, warn, info, debug or trace, or for example \"landbridge=debug,info\"".to_owned();
        value.error(format!("{text:?} is not a level"), Some(remedy));
        return None;
    }
    Some(text.to_owned())
}

/// Replaces a default by what was read, if it could be read.
pub(super) fn set<T>(place: &mut T, found: Option<T>) {
    if let Some(found) = found {
        *place = found;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_sent_to_gateways() {
        for text in ["203.0.113.7", "2001:db8::7", "gw2.example.com", "gw_2.example"] {
            assert_eq!(another_gateway(text).ok(), GatewayIdentity::parse(text), "{text}");
        }
        for text in [
            "",
            "203.0.113.777",
            "_gw.example",
            "two words",
            "gw..example",
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "::ffff:127.0.0.1",
            "224.0.0.5",
            "255.255.255.255",
        ] {
            assert!(another_gateway(text).is_err(), "{text}");
        }
    }
}
