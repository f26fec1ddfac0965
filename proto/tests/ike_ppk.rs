//! Post-quantum preshared keys (RFC 8784). Quotations are of §3.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
#[path = "keys/mod.rs"]
mod keys;
#[path = "peer/mod.rs"]
mod peer;

use ike_pump::{Letter, Pump, SITE, side_a, side_b};
use landbridge_proto::crypto::{IKE_PROVIDER, PrfAlgorithm, Secret, SigningKey};
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::{Connection, LocalCredential, Ppk, Ppks, RemoteCredential};
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::wire::{ExchangeType, NotifyType, Payload};
use peer::messages::*;
use peer::{Message, PSK, Tester};
use std::sync::Arc;
use std::time::Duration;

fn ppks(names: &[&str], required: bool) -> Ppks {
    let keys: Vec<Ppk> = names
        .iter()
        .map(|name| Ppk::fixed(name, Secret::new(format!("the key {name}").into_bytes())))
        .collect();
    let send = keys.first().map(|key| key.id.clone());
    Ppks { keys, send, required }
}

fn with(mut connection: Connection, names: &[&str], required: bool) -> Connection {
    connection.ppk = ppks(names, required);
    connection
}

fn up(a: Connection, b: Connection) -> Pump {
    let mut pump = Pump::new(a, b);
    pump.connect();
    pump.run_for(Duration::from_secs(2), |_| true);
    pump
}

/// Table 1, and the initiator's half of it.
#[test]
fn who_has_what() {
    const YES: Option<bool> = Some(true);
    const WITHOUT: Option<bool> = Some(false);
    let none: &[&str] = &[];
    for (ours, we_insist, theirs, they_insist, outcome) in [
        (none, false, none, false, WITHOUT),
        (&["x"][..], true, &["x"][..], true, YES),
        (&["x"], false, &["x"], false, YES),
        (&["x"], true, &["x"], false, YES),
        (&["x"], false, &["x"], true, YES),
        // "Received USE_PPK: No".
        (none, false, &["x"], false, WITHOUT),
        (none, false, &["x"], true, None),
        // The responder has none, and announces none.
        (&["x"], false, none, false, WITHOUT),
        (&["x"], true, none, false, None),
        // It has another.
        (&["x"], false, &["y"], false, WITHOUT),
        (&["x"], true, &["y"], false, None),
        (&["x"], false, &["y"], true, None),
        // A rotation: the old one is still taken.
        (&["x"], true, &["y", "x"], true, YES),
        (&["y", "x"], true, &["x"], true, None),
    ] {
        let pump = up(with(side_a(), ours, we_insist), with(side_b(), theirs, they_insist));
        let note = format!("{ours:?} {we_insist} {theirs:?} {they_insist}");
        match outcome {
            Some(used) => {
                pump.assert_joined();
                for who in 0..2 {
                    assert_eq!((pump.sa(who).ppk, pump.sa(who).post_quantum), (used, used), "{note}");
                }
            }
            None => {
                assert!(!pump.is_up(0) && !pump.is_up(1), "{note}");
                let told = |who: usize| pump.failures(who).iter().any(|failure| failure.hint.is_some());
                assert!(told(0) || told(1), "{note}: {:?}", pump.failures(1));
            }
        }
    }
}

/// The same name with another key: neither end can verify the other.
#[test]
fn another_key_of_the_same_name() {
    for required in [false, true] {
        let mut b = with(side_b(), &["x"], required);
        b.ppk.keys[0].secret = Secret::new(b"something else".to_vec());
        let pump = up(with(side_a(), &["x"], required), b);
        assert!(!pump.is_up(0) && !pump.is_up(1));
    }
}

/// It is in the keys of the initial exchange "only": a rekeyed SA has it from SK_d, and so have its Child SAs.
#[test]
fn rekeys_inherit_it() {
    let mut pump = up(with(side_a(), &["x"], true), with(side_b(), &["x"], true));
    for who in [0, 1, 0] {
        pump.command(
            who,
            Command::RekeyIke {
                connection: SITE.into(),
            },
        );
        pump.run_for(Duration::from_secs(10), |_| true);
        pump.rekey_child(who);
        pump.run_for(Duration::from_secs(10), |_| true);
        pump.assert_joined();
        assert!(pump.sa(0).ppk && pump.sa(1).ppk && pump.sa(1).post_quantum);
    }
}

/// With additional key exchanges before, whose IntAuth is made with the keys of before.
#[test]
fn together_with_mlkem() {
    let hybrid = |mut connection: Connection| {
        connection.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha384-x25519-ke1_mlkem768").unwrap()];
        connection
    };
    for required in [false, true] {
        let a = hybrid(with(side_a(), &["x"], required));
        let mut pump = up(a, hybrid(with(side_b(), &["x"], required)));
        pump.assert_joined();
        assert!(pump.sa(0).ppk);
        pump.rekey_child(1);
        pump.run_for(Duration::from_secs(10), |_| true);
        pump.assert_joined();
    }
}

/// Signatures, also those made elsewhere: "the initiator needs to perform authentication data computation twice".
#[test]
fn with_signatures() {
    for (elsewhere, required, theirs) in [
        (false, false, "x"),
        (true, false, "x"),
        (true, false, "y"),
        (true, true, "x"),
    ] {
        let (mut a, mut b) = (with(side_a(), &["x"], required), with(side_b(), &[theirs], required));
        for (side, own, peers) in [(&mut a, "ed25519", "p256"), (&mut b, "p256", "ed25519")] {
            let mut key = keys::key(own);
            if elsewhere {
                key = Arc::new(SigningKey::kept_elsewhere(key.verifying_key(), own.into()));
            }
            side.local.credential = LocalCredential::RawKey(key);
            side.remote.credential = RemoteCredential::RawKeys(vec![keys::key(peers).verifying_key()]);
        }
        let mut pump = Pump::new(a, b);
        pump.connect();
        let mut made = [0, 0];
        for _ in 0..10 {
            pump.deliver_all();
            for (who, made) in made.iter_mut().enumerate() {
                for event in std::mem::take(&mut pump.events[who]) {
                    if let Event::Sign(request) = event {
                        let name = request.key.elsewhere().unwrap().to_string();
                        let signature = keys::key(&name).sign(request.scheme, &request.octets).unwrap();
                        let now = pump.at();
                        pump.ends[who].handle_signature(now, request.ticket, Ok(signature));
                        *made += 1;
                    }
                }
            }
            pump.drain();
        }
        pump.assert_joined();
        assert_eq!(pump.sa(0).ppk, theirs == "x");
        if elsewhere {
            assert_eq!(made, [if required { 1 } else { 2 }, 1]);
        }
    }
}

#[test]
fn lost_and_repeated_messages() {
    for lost in 0..4 {
        let mut pump = Pump::new(with(side_a(), &["x"], false), with(side_b(), &["x"], false));
        pump.connect();
        let mut count = 0;
        pump.run_for(Duration::from_secs(20), |_: &Letter| {
            count += 1;
            count - 1 != lost
        });
        pump.assert_joined();
        assert!(pump.sa(1).ppk);
    }
}

// By T's own account.

/// `SK_d  = prf (PPK, SK_d'  | 0x01)`
fn mix(t: &Tester, ppk: &[u8]) -> [Vec<u8>; 3] {
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
    let keys = t.sa.keys.as_ref().unwrap();
    [&keys.d, &keys.pi, &keys.pr].map(|key| prf.prf(ppk, &[key.expose(), &[1]]).expose().to_vec())
}

fn mic(t: &Tester, initiator: bool, sk_p: &[u8], id: &Payload) -> Vec<u8> {
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
    let (message, nonce) = if initiator {
        (&t.sa.request, &t.sa.nr)
    } else {
        (&t.sa.response, &t.sa.ni)
    };
    let maced = prf.prf(sk_p, &[&id_body(id)]);
    let pad = prf.prf(PSK, &[b"Key Pad for IKEv2"]);
    prf.prf(pad.expose(), &[message, nonce, maced.expose()])
        .expose()
        .to_vec()
}

fn until_auth(b: Connection) -> Tester {
    let mut t = Tester::new(b);
    let mut payloads = t.init_payloads();
    payloads.push(notify(NotifyType::USE_PPK));
    let answer = t.init(&payloads);
    assert!(answer.has(NotifyType::USE_PPK));
    t
}

/// Both AUTHs and the Child SA's keys.
#[test]
fn the_formulas() {
    let mut t = until_auth(with(side_b(), &["x"], true));
    let [d, pi, pr] = mix(&t, b"the key x");
    let id = id(true, "a.example");
    let mut payloads = vec![id.clone(), psk_auth(&mic(&t, true, &pi, &id))];
    payloads.extend(t.child_offer(false));
    payloads.push(notify_with(NotifyType::PPK_IDENTITY, b"\x02x"));
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up(), "{:?}", t.failures());
    let confirmed = answer.notify(NotifyType::PPK_IDENTITY).expect("PPK_IDENTITY");
    assert!(confirmed.data.is_empty() && confirmed.spi.is_empty());
    let id_r = answer
        .payloads
        .iter()
        .find(|payload| matches!(payload, Payload::IdR(_)));
    assert_eq!(auth_of(&answer), mic(&t, false, &pr, id_r.unwrap()));
    // KEYMAT = prf+(SK_d, Ni | Nr)
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
    let keymat = prf.prf_plus(&d, &[&t.sa.ni, &t.sa.nr], 72).unwrap();
    let entry = t.sad.pairs.values().next().unwrap();
    assert_eq!(entry.inbound.key.expose(), &keymat.expose()[..36]);
    t.assert_alive();
}

fn auth_of(message: &Message) -> Vec<u8> {
    let auth = message.payloads.iter().find_map(|payload| match payload {
        Payload::Auth(auth) => Some(auth.data.clone()),
        _ => None,
    });
    auth.expect("AUTH")
}

/// "If no PPK_IDENTITY notification is found and the peers successfully exchanged USE_PPK notifications in the IKE_SA_INIT
/// exchange, then the responder MUST send back an AUTHENTICATION_FAILED notification and then fail the negotiation." And what
/// else is refused, whatever AUTH there is.
#[test]
fn what_a_responder_refuses() {
    for required in [false, true] {
        for case in 0..6 {
            let mut t = until_auth(with(side_b(), &["x"], required));
            let [_, pi, _] = mix(&t, b"the key x");
            let plain = t.sa.keys.as_ref().unwrap().pi.expose().to_vec();
            let id = id(true, "a.example");
            let (with_ppk, without) = (mic(&t, true, &pi, &id), mic(&t, true, &plain, &id));
            let (auth, name, no_ppk): (_, Option<&[u8]>, Option<&[u8]>) = match case {
                // No PPK_IDENTITY.
                0 => (&without, None, None),
                1 => (&without, None, Some(&without)),
                // The right name, but AUTH without it.
                2 => (&without, Some(b"\x02x"), Some(&without)),
                // Another name, and nothing that proves anything without.
                3 => (&with_ppk, Some(b"\x02y"), None),
                4 => (&with_ppk, Some(b"\x02y"), Some(&with_ppk)),
                // The name with another type.
                _ => (&with_ppk, Some(b"\x01x"), None),
            };
            let mut payloads = vec![id, psk_auth(auth)];
            payloads.extend(t.child_offer(false));
            payloads.extend(name.map(|name| notify_with(NotifyType::PPK_IDENTITY, name)));
            payloads.extend(no_ppk.map(|data| notify_with(NotifyType::NO_PPK_AUTH, data)));
            let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
            assert!(answer.has(NotifyType::AUTHENTICATION_FAILED), "{case} {required}");
            assert!(!t.is_up());
        }
    }
}

/// An initiator that insists: "it MUST ... fail the IKE SA negotiation sending the AUTHENTICATION_FAILED notification in the
/// INFORMATIONAL exchange".
#[test]
fn an_initiator_that_insists_says_why_it_goes() {
    let mut t = Tester::new(with(side_a(), &["x"], true));
    let asked = t.provoke();
    assert!(asked.has(NotifyType::USE_PPK));
    let mut payloads = t.init_answer(&asked);
    payloads.push(notify(NotifyType::USE_PPK));
    t.answer_init(&payloads);
    let asked = t.next_request().unwrap();
    assert_eq!(asked.notify(NotifyType::PPK_IDENTITY).unwrap().data, b"\x02x");
    assert!(!asked.has(NotifyType::NO_PPK_AUTH), "it is not optional");
    let payloads = t.auth_answer();
    t.respond(&asked.header, &payloads);
    let last = t.next_request().unwrap();
    assert_eq!(last.header.exchange, ExchangeType::INFORMATIONAL);
    assert!(last.has(NotifyType::AUTHENTICATION_FAILED) && last.payloads.contains(&delete_ike()));
    assert!(!t.is_up() && t.pairs() == 0);
}
