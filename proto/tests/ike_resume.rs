//! Session resumption (RFC 5723) between two endpoints: when a ticket is asked for, kept and presented, and what must not be
//! resumed. What stands on the wire is in `ike_resume_wire.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
mod keys;

use ike_pump::{Letter, Pump, SITE, side_a, side_b};
use landbridge_proto::crypto::Secret;
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::pki::{Certificate, CertifiedKey, Crl, Trust};
use landbridge_proto::policy::connection::{
    Config, Connection, Gateway, LocalCredential, Ppk, Ppks, RemoteCredential, StartAction,
};
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::wire::{ExchangeType, Identification};
use std::sync::Arc;
use std::time::Duration;

const SECOND: Duration = Duration::from_secs(1);
const RESUME: ExchangeType = ExchangeType::IKE_SESSION_RESUME;

fn everything(_: &Letter) -> bool {
    true
}

fn nothing(_: &Letter) -> bool {
    false
}

fn with(mut connection: Connection) -> Connection {
    connection.resumption = true;
    connection.dpd_delay = Some(10 * SECOND);
    connection
}

fn ends() -> (Connection, Connection) {
    (with(side_a()), with(side_b()))
}

fn up((a, b): (Connection, Connection)) -> Pump {
    let mut pump = Pump::new(a, b);
    pump.connect();
    pump.run_for(SECOND, everything);
    pump.assert_joined();
    pump
}

/// Nothing gets through until the first end has given the peer up.
fn outage(pump: &mut Pump) {
    assert!(pump.is_up(0));
    for _ in 0..8000 {
        pump.run_for(SECOND, nothing);
        if !pump.is_up(0) {
            return;
        }
    }
    panic!("the peer is not given up: {:?}", pump.status(0));
}

/// The exchanges begun by the first end until both are up again, one for each message that arrives.
fn back(pump: &mut Pump) -> Vec<ExchangeType> {
    let mut begun = Vec::new();
    pump.run_for(10 * SECOND, |letter: &Letter| {
        if !letter.is_response() && letter.to == 1 {
            begun.push(letter.exchange());
        }
        true
    });
    begun
}

/// It comes back with its ticket.
fn resumes(pump: &mut Pump) {
    let begun = back(pump);
    assert_eq!(begun[..2], [RESUME, ExchangeType::IKE_AUTH], "{begun:?}");
    pump.assert_joined();
    assert!(pump.sa(0).resumed && pump.sa(1).resumed);
}

/// It comes back without, at once: the ticket cost one round trip, and it is not tried again.
fn begins_anew(pump: &mut Pump) {
    let begun = back(pump);
    let rest = begun.strip_prefix(&[RESUME]).unwrap_or(&begun);
    assert_eq!(rest[0], ExchangeType::IKE_SA_INIT, "{begun:?}");
    assert!(!rest.contains(&RESUME), "{begun:?}");
    pump.assert_joined();
    assert!(!pump.sa(0).resumed && !pump.sa(1).resumed);
}

fn reload(pump: &mut Pump, who: usize, connection: Connection) {
    let connections = [(Arc::clone(&connection.name), Arc::new(connection))];
    let config = Arc::new(Config {
        connections: connections.into(),
        gateway: Gateway::default(),
    });
    let now = pump.at();
    pump.ends[who].reconfigure(now, config);
    pump.drain();
}

fn rekey(pump: &mut Pump, who: usize) {
    let connection = SITE.into();
    pump.command(who, Command::RekeyIke { connection });
    pump.run_for(2 * SECOND, everything);
    pump.assert_joined();
}

/// Two round trips, in whichever way the other end has noticed; and again with the ticket that came with it.
#[test]
fn a_lost_peer_comes_back_in_two_round_trips() {
    for noticed in [false, true] {
        let (a, mut b) = ends();
        if !noticed {
            b.dpd_delay = None;
        }
        let mut pump = up((a, b));
        for _ in 0..3 {
            let (before, keys) = (pump.sa(0), pump.sad[1].pairs.values().next().unwrap().clone());
            outage(&mut pump);
            assert_eq!(pump.is_up(1), !noticed);
            resumes(&mut pump);
            let after = pump.sa(0);
            // §5: "SPIs: From new exchange", and fresh keys.
            assert_ne!((after.spi_i, after.spi_r), (before.spi_i, before.spi_r));
            assert_eq!(after.peer, before.peer);
            let now = pump.sad[1].pairs.values().next().unwrap();
            assert_ne!(now.inbound.key, keys.inbound.key);
            // §4.3.4: the old SA is gone at the responder, and with it what came of it.
            assert_eq!(pump.sad[1].pairs.len(), 1);
            assert_eq!(pump.ends[1].spis_in_use(), 1);
        }
        pump.rekey_child(1);
        pump.deliver_all();
        pump.assert_joined();
    }
}

/// "without public-key work": the responder may be one that can't sign at all just now.
#[test]
fn no_key_is_asked_for_a_signature() {
    let (mut a, mut b) = ends();
    for (side, own, peer) in [(&mut a, "rsa2048", "p256"), (&mut b, "p256", "rsa2048")] {
        side.local.credential = LocalCredential::RawKey(keys::key(own));
        side.remote.credential = RemoteCredential::RawKeys(vec![keys::key(peer).verifying_key()]);
    }
    let mut pump = Pump::new(a, b);
    pump.connect();
    sign(&mut pump);
    pump.assert_joined();
    outage(&mut pump);
    resumes(&mut pump);
    assert!(!pump.events[0].iter().any(|event| matches!(event, Event::Sign(_))));
}

fn sign(pump: &mut Pump) {
    for _ in 0..4 {
        pump.deliver_all();
        for who in 0..2 {
            for event in std::mem::take(&mut pump.events[who]) {
                if let Event::Sign(request) = event {
                    let name = request.key.elsewhere().unwrap().to_string();
                    let signature = keys::sign_rsa(&name, request.scheme, &request.octets);
                    let now = pump.at();
                    pump.ends[who].handle_signature(now, request.ticket, Ok(signature));
                }
            }
        }
        pump.drain();
    }
}

/// The other end was killed and has lost its key: TICKET_NACK, and at once a full exchange.
#[test]
fn a_peer_that_was_restarted_refuses() {
    let mut pump = up(ends());
    pump.restart(1, 9);
    outage(&mut pump);
    begins_anew(&mut pump);
    assert_eq!(pump.ends[1].counters().tickets_refused, 1);
}

/// RFC 4478: resuming is not authenticating. What was left of the time is left, and it ends when it would have.
#[test]
fn the_time_to_authenticate_anew_is_not_put_off() {
    let (a, mut b) = ends();
    b.reauth_time = Some(1000 * SECOND);
    let mut pump = up((a, b));
    let begun = pump.now;
    let mut last = begun;
    while pump.sa(0).resumed || last == begun {
        outage(&mut pump);
        pump.run_for(10 * SECOND, everything);
        pump.assert_joined();
        if pump.sa(0).resumed {
            last = pump.now;
            let due = pump.sa(1).reauth_at.unwrap();
            assert!(due <= begun + 1062 * SECOND, "{due:?}");
        }
    }
    assert!(last > begun + 300 * SECOND && last < begun + 1062 * SECOND);
    assert!(pump.sa(1).reauth_at.unwrap() > begun + 1100 * SECOND);
}

/// RFC 6290: an end that has given the SA up in an outage says so, with its token, as soon as it hears of it: the other one need
/// not wait until it tires.
#[test]
fn a_peer_that_has_lost_the_sa_alone_is_told_from_a_dead_one() {
    let (mut a, b) = ends();
    a.dpd_delay = Some(100 * SECOND);
    let mut pump = Pump::new(a, b);
    for end in &mut pump.ends {
        end.set_token_secret(Secret::new(vec![7; 32]));
    }
    pump.connect();
    pump.run_for(SECOND, everything);
    pump.assert_joined();
    while pump.is_up(1) {
        pump.run_for(SECOND, nothing);
    }
    let before = pump.sa(0).spi_i;
    // The first sign of life that gets through draws the token.
    for _ in 0..100 {
        pump.run_for(SECOND, everything);
    }
    pump.assert_joined();
    assert!(pump.sa(0).spi_i != before && pump.sa(0).resumed);
}

/// A peer that does not know the exchange does not answer; and one that is not there at all leaves the ticket for later.
#[test]
fn silence_costs_two_messages_and_keeps_the_ticket() {
    let mut pump = up(ends());
    outage(&mut pump);
    let begun = |pump: &mut Pump, what: fn(&Letter) -> bool| {
        let mut begun = Vec::new();
        pump.run_for(100 * SECOND, |letter: &Letter| {
            if letter.to == 1 {
                begun.push(letter.exchange());
            }
            what(letter)
        });
        begun
    };
    let first = begun(&mut pump, nothing);
    while !pump.wire.iter().any(|letter| letter.exchange() == RESUME) {
        pump.wire.clear();
        pump.tick();
    }
    let count = |list: &[ExchangeType]| list.iter().take_while(|exchange| **exchange == RESUME).count();
    assert_eq!(count(&first), 2, "{first:?}");
    assert_eq!(first[2], ExchangeType::IKE_SA_INIT);
    assert!(
        first[2..].contains(&RESUME),
        "each attempt presents it again: {first:?}"
    );
    pump.run_for(100 * SECOND, everything);
    pump.assert_joined();
    assert!(pump.sa(0).resumed);
    // One that drops what it does not know.
    outage(&mut pump);
    let without = |letter: &Letter| letter.exchange() != RESUME;
    let second = begun(&mut pump, without);
    assert_eq!(
        (count(&second), second[2]),
        (2, ExchangeType::IKE_SA_INIT),
        "{second:?}"
    );
    assert!(!pump.sa(0).resumed);
    pump.assert_joined();
}

#[test]
fn lost_and_repeated_messages() {
    for lost in 0..4 {
        let mut pump = up(ends());
        outage(&mut pump);
        let mut count = 0;
        pump.run_for(20 * SECOND, |_: &Letter| {
            count += 1;
            count - 1 != lost
        });
        pump.assert_joined();
        assert!(pump.sa(0).resumed && pump.sa(1).resumed, "{lost}");
    }
    // Each of them twice.
    let mut pump = up(ends());
    outage(&mut pump);
    for _ in 0..100 {
        if let Some(letter) = pump.wire.first().cloned() {
            pump.hand(&letter);
            pump.deliver(0);
        } else if !pump.is_up(0) {
            pump.tick();
        }
    }
    pump.assert_joined();
    assert!(pump.sa(1).resumed);
}

/// §6.2: "when an IKE SA is deleted by the client or the gateway, the client MUST delete its stored ticket."
#[test]
fn a_deleted_sa_is_not_resumed() {
    for who in 0..2 {
        let mut pump = up(ends());
        pump.down(who, None);
        pump.deliver_all();
        pump.run_for(SECOND, everything);
        if !pump.is_up(0) {
            pump.connect();
        }
        begins_anew_from_here(&mut pump);
    }
    // Taken down while the ticket was kept.
    let mut pump = up(ends());
    outage(&mut pump);
    pump.down(0, None);
    pump.connect();
    begins_anew_from_here(&mut pump);
    // Taken down while the peer is silent: the Delete waits behind an unanswered request.
    let mut pump = up(ends());
    pump.run_for(12 * SECOND, nothing);
    assert!(pump.is_up(0));
    pump.down(0, None);
    pump.run_for(300 * SECOND, nothing);
    assert!(!pump.is_up(0));
    pump.connect();
    begins_anew_from_here(&mut pump);
}

fn begins_anew_from_here(pump: &mut Pump) {
    pump.run_for(20 * SECOND, everything);
    pump.assert_joined();
    assert!(!pump.sa(0).resumed && !pump.saw(1, "IKE_SESSION_RESUME"));
}

/// A client that keeps one in spite of that is refused (§9.8).
#[test]
fn withdrawn_tickets_are_refused() {
    // The first end's future in which it does not hear of the Delete.
    for rekeyed in [false, true] {
        let mut pump = up(ends());
        let before = (pump.ends[0].clone(), pump.sad[0].clone());
        if rekeyed {
            rekey(&mut pump, 1);
        } else {
            pump.down(1, None);
            pump.deliver_all();
        }
        (pump.ends[0], pump.sad[0]) = before;
        outage(&mut pump);
        let refused = pump.ends[1].counters().tickets_refused;
        pump.run_for(60 * SECOND, everything);
        assert_eq!(pump.ends[1].counters().tickets_refused, refused + 1, "{rekeyed}");
        assert!(pump.is_up(0) && !pump.sa(0).resumed);
    }
}

/// "following a gateway-initiated IKE rekey", and its own, the client asks for a new one; so it does before the one there is
/// expires.
#[test]
fn there_is_a_ticket_after_a_rekey_and_after_a_long_time() {
    for who in 0..2 {
        let mut pump = up(ends());
        rekey(&mut pump, who);
        assert!(
            pump.saw(1, "INFORMATIONAL request 0 [N(TICKET_REQUEST)]"),
            "{:?}",
            pump.lines(1)
        );
        outage(&mut pump);
        resumes(&mut pump);
    }
    // Three days, in which the key changes too.
    let (mut a, mut b) = ends();
    (a.dpd_delay, b.dpd_delay) = (Some(7000 * SECOND), None);
    let mut pump = up((a, b));
    pump.run_for(3 * 24 * 3600 * SECOND, everything);
    outage(&mut pump);
    resumes(&mut pump);
}

/// However often it is resumed, it lives no longer on one key exchange than `rekey_time` says, of either end.
#[test]
fn resumptions_one_after_the_other_have_an_end() {
    let time = 3600 * SECOND;
    for times in [(Some(time), None), (None, Some(time))] {
        let (mut a, mut b) = ends();
        (a.ike_rekey_time, b.ike_rekey_time) = times;
        let mut pump = up((a, b));
        let (mut exchanged, mut resumed, mut anew) = (pump.now, 0, 0);
        for _ in 0..120 {
            outage(&mut pump);
            pump.run_for(5 * SECOND, everything);
            pump.assert_joined();
            if pump.sa(0).resumed {
                resumed += 1;
                assert!(pump.now.saturating_since(exchanged) < time, "{times:?}");
            } else {
                anew += 1;
                exchanged = pump.now;
            }
        }
        assert!(resumed > 80 && (1..10).contains(&anew), "{times:?}: {resumed}, {anew}");
    }
}

/// SK_d of a ticket is forgotten when it is used, withdrawn or over: the ticket alone does not hold it.
#[test]
fn nothing_is_left_of_a_ticket() {
    let kept = |pump: &Pump| [0, 1].map(|who| pump.ends[who].load().tickets);
    let (mut a, mut b) = ends();
    (a.ike_rekey_time, b.ike_rekey_time) = (Some(3600 * SECOND), Some(3600 * SECOND));
    let mut pump = up((a, b));
    assert_eq!(kept(&pump), [0, 1]);
    outage(&mut pump);
    assert_eq!(kept(&pump), [1, 1]);
    resumes(&mut pump);
    assert_eq!(kept(&pump), [0, 1], "the old one is used, and there is a new one");
    rekey(&mut pump, 0);
    pump.run_for(SECOND, everything);
    assert_eq!(kept(&pump), [0, 1]);
    pump.down(0, None);
    pump.deliver_all();
    assert_eq!(kept(&pump), [0, 0]);
    // One that is over goes with the next one that is given.
    pump.connect();
    pump.deliver_all();
    outage(&mut pump);
    pump.reconnect = false;
    pump.run_for(3700 * SECOND, nothing);
    assert_eq!(kept(&pump), [1, 1]);
    pump.connect();
    pump.run_for(5 * SECOND, everything);
    assert!(pump.is_up(0) && !pump.sa(0).resumed);
    assert_eq!(kept(&pump), [0, 1]);
}

/// §4.3.1: "A client MUST NOT present a ticket when it knows that the ticket's lifetime has expired", by either clock.
#[test]
fn a_ticket_ages() {
    for sleeps in [false, true] {
        let (mut a, mut b) = ends();
        b.ike_rekey_time = Some(3600 * SECOND);
        a.keep_trying = false;
        let mut pump = up((a, b));
        pump.reconnect = false;
        outage(&mut pump);
        if sleeps {
            // The monotonic clock stands still, the other does not.
            pump.unix += 3601;
        } else {
            pump.run_for(3601 * SECOND, nothing);
        }
        pump.connect();
        pump.run_for(20 * SECOND, everything);
        pump.assert_joined();
        assert!(!pump.sa(0).resumed && !pump.saw(1, "IKE_SESSION_RESUME"), "{sleeps}");
    }
}

fn psk(text: &str) -> Secret {
    Secret::new(text.as_bytes().to_vec())
}

/// What is configured anew at either end is not resumed, and neither is what may not be any more.
#[test]
fn a_connection_that_was_configured_anew_is_not_resumed() {
    type Change = fn(&mut Connection);
    let other_proposals: Change =
        |c| c.ike_proposals = vec![IkeProposal::parse("aes128gcm16-prfsha256-x25519").unwrap()];
    let other_psk: Change = |c| {
        c.local.credential = LocalCredential::Psk(psk("another"));
        c.remote.credential = RemoteCredential::Psk(vec![psk("another")]);
    };
    let with_ppk: Change = |c| {
        let keys = vec![Ppk::fixed("x", psk("a PPK"))];
        let send = Some(keys[0].id.clone());
        c.ppk = Ppks {
            keys,
            send,
            required: true,
        };
    };
    let off: Change = |c| c.resumption = false;
    for change in [other_proposals, other_psk, with_ppk] {
        for which in [&[0][..], &[1], &[0, 1]] {
            let mut pump = up(ends());
            outage(&mut pump);
            for who in 0..2 {
                let mut new = if who == 0 { ends().0 } else { ends().1 };
                change(&mut new);
                // Whoever is not asked about the ticket has the new configuration too, so that a full exchange succeeds: later.
                if which.contains(&who) {
                    reload(&mut pump, who, new);
                }
            }
            pump.run_for(5 * SECOND, everything);
            pump.connect();
            pump.run_for(20 * SECOND, everything);
            assert!(
                pump.status(0).iter().chain(&pump.status(1)).all(|sa| !sa.resumed),
                "{which:?}"
            );
            if which.len() == 2 {
                pump.assert_joined();
            }
        }
    }
    for who in 0..2 {
        let mut pump = up(ends());
        outage(&mut pump);
        let mut new = if who == 0 { ends().0 } else { ends().1 };
        off(&mut new);
        reload(&mut pump, who, new);
        begins_anew(&mut pump);
    }
    // What changes nothing about who may come in is no obstacle.
    let mut pump = up(ends());
    outage(&mut pump);
    let (mut a, mut b) = ends();
    (a.dpd_delay, b.fragment_size) = (Some(20 * SECOND), 600);
    reload(&mut pump, 0, a);
    reload(&mut pump, 1, b);
    resumes(&mut pump);
}

/// The reload comes between the two exchanges.
#[test]
fn a_reload_in_the_middle_counts() {
    let mut pump = up(ends());
    outage(&mut pump);
    while pump.wire.is_empty() {
        pump.tick();
    }
    pump.deliver(0);
    let (_, mut b) = ends();
    b.remote.credential = RemoteCredential::Psk(vec![psk("another")]);
    reload(&mut pump, 1, b);
    pump.deliver_all();
    assert!(!pump.is_up(1));
    assert!(
        pump.failures(1)
            .iter()
            .any(|failure| failure.verdict.contains("ticket"))
    );
}

/// The same at the client, while its ticket is under way, and when it has come back unanswered.
#[test]
fn a_reload_of_the_client_in_the_middle_counts() {
    for answered in [true, false] {
        let mut pump = up(ends());
        outage(&mut pump);
        while pump.wire.is_empty() {
            pump.tick();
        }
        let (mut a, _) = ends();
        a.remote.credential = RemoteCredential::Psk(vec![psk("another")]);
        reload(&mut pump, 0, a);
        if answered {
            pump.deliver_all();
        } else {
            pump.run_for(SECOND, nothing);
        }
        pump.run_for(20 * SECOND, everything);
        assert!(!pump.is_up(0));
    }
}

// With certificates.

/// 2027-01-01: after all certificates here were made.
const NOW: u64 = 1_798_761_600;

fn file(name: &str) -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/data/pki")
        .join(name);
    keys::der(&String::from_utf8(std::fs::read(path).unwrap()).unwrap())
}

fn cert(name: &str) -> Certificate {
    Certificate::from_der(&file(&format!("{name}.crt"))).unwrap()
}

fn trust(roots: &[&str], crls: &[&str]) -> RemoteCredential {
    let crl = |name: &&str| Crl::from_der(&file(&format!("{name}.crl"))).unwrap();
    RemoteCredential::Certificates(Arc::new(Trust {
        anchors: roots.iter().map(|name| cert(name)).collect(),
        crls: crls.iter().map(crl).collect(),
        ..Trust::default()
    }))
}

fn certified(leaf: &str) -> (Connection, Connection) {
    let own = |leaf: &str| {
        LocalCredential::Certificates(vec![CertifiedKey {
            chain: vec![cert(leaf), cert("inter")],
            key: keys::key("p256"),
        }])
    };
    let (mut a, mut b) = ends();
    for (side, us, them, leaf) in [
        (&mut a, "gw.example", "peer.example", leaf),
        (&mut b, "peer.example", "gw.example", "peer"),
    ] {
        side.local.id = Identification::parse(us).unwrap();
        side.remote.id = Some(Identification::parse(them).unwrap());
        side.local.credential = own(leaf);
        side.remote.credential = trust(&["root"], &[]);
    }
    (a, b)
}

fn certified_up(leaf: &str) -> Pump {
    let (a, b) = certified(leaf);
    let mut pump = Pump::new(a, b);
    pump.unix = NOW;
    pump.connect();
    pump.run_for(SECOND, everything);
    pump.assert_joined();
    pump
}

/// The certificates are those of before, and a reload that takes them away finds a resumed SA too.
#[test]
fn certificates_are_known_after_resumption() {
    let mut pump = certified_up("revoked");
    let before = pump.sa(1).peer_certificate;
    outage(&mut pump);
    resumes(&mut pump);
    assert_eq!(pump.sa(1).peer_certificate, before);
    pump.reconnect = false;
    let (_, mut b) = certified("revoked");
    b.remote.credential = trust(&["root"], &["root", "inter"]);
    reload(&mut pump, 1, b);
    assert!(!pump.is_up(1));
    assert!(pump.sad[1].pairs.is_empty());
}

#[test]
fn a_certificate_that_was_taken_away_is_not_resumed_and_a_new_list_alone_is_no_obstacle() {
    for (leaf, roots, crls, taken) in [
        ("gw-p256", &["root"][..], &["root", "inter"][..], true),
        ("revoked", &["root"], &["root", "inter"], false),
        ("gw-p256", &["root-rsa"], &[], false),
    ] {
        let mut pump = certified_up(leaf);
        outage(&mut pump);
        let (_, mut b) = certified(leaf);
        b.remote.credential = trust(roots, crls);
        reload(&mut pump, 1, b);
        pump.run_for(10 * SECOND, everything);
        assert_eq!(pump.is_up(0) && pump.sa(0).resumed, taken, "{leaf} {roots:?}");
        assert_eq!(pump.is_up(1), taken, "{leaf} {roots:?}");
    }
}

/// The ticket does not live longer than the certificate.
#[test]
fn an_expired_certificate_is_not_resumed() {
    let mut pump = certified_up("gw-p256");
    let until = pump.sa(1).peer_certificate.unwrap().not_after;
    pump.unix = until - pump.now.as_nanos() / 1_000_000_000 - 3600;
    // A ticket of that time.
    rekey(&mut pump, 0);
    outage(&mut pump);
    pump.unix += 3600;
    pump.run_for(30 * SECOND, everything);
    assert!(!pump.saw(1, "IKE_SESSION_RESUME") && !pump.is_up(1));
}

// With other extensions.

fn hybrid(mut connection: Connection) -> Connection {
    connection.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha384-x25519-ke1_mlkem768").unwrap()];
    connection
}

/// RFC 9370 §2.2.5: it "can be used to resume IKE SAs created using this specification". A resumed SA is as post-quantum as what
/// it comes from, and soon has key exchanges of its own.
#[test]
fn what_protected_the_sa_before_protects_the_resumed_one() {
    let (a, b) = ends();
    let mut a = hybrid(a);
    a.ike_rekey_time = Some(4 * 3600 * SECOND);
    let mut pump = up((a, hybrid(b)));
    assert!(pump.sa(0).post_quantum);
    outage(&mut pump);
    resumes(&mut pump);
    for who in 0..2 {
        assert!(pump.sa(who).post_quantum);
        assert_eq!(pump.sa(who).suite.unwrap().key_exchange(), "x25519+mlkem768");
    }
    let resumed = pump.sa(0).spi_i;
    let left = pump.sa(0).rekey_at.unwrap().saturating_since(pump.now);
    assert!(left < 25 * 60 * SECOND, "{left:?}");
    pump.run_for(left + SECOND, everything);
    pump.assert_joined();
    assert!(pump.sa(0).spi_i != resumed && !pump.sa(0).resumed && pump.sa(1).post_quantum);
    // Not: one that had none.
    let (a, b) = ends();
    let mut pump = up((a, b));
    outage(&mut pump);
    resumes(&mut pump);
    assert!(!pump.sa(0).post_quantum && !pump.sa(1).post_quantum);
}

/// RFC 8784 §3: a PPK "MUST NOT be used" again: it is in SK_d.
#[test]
fn a_ppk_is_in_the_resumed_keys_already() {
    let (mut a, mut b) = ends();
    for side in [&mut a, &mut b] {
        let keys = vec![Ppk::fixed("x", psk("a PPK"))];
        let send = Some(keys[0].id.clone());
        side.ppk = Ppks {
            keys,
            send,
            required: true,
        };
    }
    let mut pump = up((a, b));
    outage(&mut pump);
    pump.events = [vec![], vec![]];
    resumes(&mut pump);
    assert!(pump.sa(0).ppk && pump.sa(1).ppk && pump.sa(1).post_quantum);
    assert!(!pump.saw(0, "PPK") && !pump.saw(1, "PPK"), "{:?}", pump.lines(1));
}

/// §5: "Peer supports MOBIKE: From new exchange", NAT detection likewise; and a Child SA is asked for only where one is wanted.
#[test]
fn mobike_nat_and_childless() {
    let (mut a, mut b) = ends();
    (a.mobike, b.mobike) = (true, true);
    for side in [&mut a, &mut b] {
        for child in side.children.values_mut() {
            Arc::make_mut(child).start_action = StartAction::None;
        }
    }
    let mut pump = up((a, b));
    outage(&mut pump);
    let public = "203.0.113.9".parse().unwrap();
    pump.nat = Some(ike_pump::Nat { public, shift: 1000 });
    resumes(&mut pump);
    assert!(pump.sa(0).mobike && pump.sa(1).mobike);
    assert!(pump.sa(0).nat.local && pump.sa(1).nat.remote);
    assert_eq!(pump.sa(0).path.remote.port(), 4500);
}

/// Both ends begin: one of the two stays, whichever was resumed.
#[test]
fn both_ends_come_back_at_once() {
    let mut pump = up(ends());
    outage(&mut pump);
    let target = landbridge_proto::policy::connection::Target {
        local: pump.addresses[1],
        remote: pump.addresses[0],
    };
    let command = Command::Up {
        connection: SITE.into(),
        child: None,
        target,
    };
    pump.command(1, command);
    pump.run_for(60 * SECOND, everything);
    pump.assert_joined();
}
