//! Every algorithm that can be configured carries a whole life: handshake, Child rekey with a key exchange by each end, IKE
//! rekey, and packets through ESP.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ike_pump;

use ike_pump::{Letter, Pump, SITE, side_a, side_b};
use landbridge_proto::crypto::{ESP_PROVIDER, Encryption, Group, Integrity, PrfAlgorithm};
use landbridge_proto::esp::{InboundSa, OutboundSa};
use landbridge_proto::ike::export::ExportedKeys;
use landbridge_proto::ike::{Command, Event};
use landbridge_proto::policy::connection::Connection;
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::policy::sad::SaParameters;
use landbridge_proto::wire::{Transform, TransformType};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

const REKEY: Duration = Duration::from_secs(1000);

fn everything(_: &Letter) -> bool {
    true
}

fn speaking(mut connection: Connection, ike: &str, esp: &str) -> Connection {
    connection.ike_proposals = vec![IkeProposal::parse(ike).unwrap()];
    for child in connection.children.values_mut() {
        Arc::make_mut(child).esp_proposals = vec![EspProposal::parse(esp).unwrap()];
    }
    connection
}

/// What end 0 seals by a pair's keys opens at end 1, and the other way round.
fn packets_pass(pump: &Pump) {
    for who in 0..2 {
        let pair = |end: usize| Arc::clone(&pump.sad[end].pairs[&pump.sad[end].active["net"]]);
        let (sender, receiver): (SaParameters, SaParameters) =
            (pair(who).outbound.clone(), pair(1 - who).inbound.clone());
        let mut out = OutboundSa::new(&ESP_PROVIDER, &sender, [3; 32]).unwrap();
        let mut sa = InboundSa::new(&ESP_PROVIDER, &receiver, 64).unwrap();
        let inner = b"\x45 an inner packet";
        let mut packet = vec![0; out.sealed_len(inner.len())];
        let at = out.headroom();
        packet[at..at + inner.len()].copy_from_slice(inner);
        let sequence = out.reserve(1).unwrap();
        out.seal(sequence, 4, inner.len(), &mut packet);
        let opened = sa.open(&mut packet).unwrap();
        assert_eq!(&packet[opened.payload], inner);
    }
}

/// The whole life under one IKE and one ESP proposal. Both ends must use exactly what they say.
fn live(ike: &str, esp: &str) {
    let (mut a, b) = (speaking(side_a(), ike, esp), speaking(side_b(), ike, esp));
    a.ike_rekey_time = Some(REKEY);
    let mut pump = Pump::up(a, b);
    packets_pass(&pump);
    for who in 0..2 {
        pump.rekey_child(who);
        pump.run_for(Duration::from_secs(10), everything);
        pump.assert_joined();
        packets_pass(&pump);
    }
    let before = pump.sa(0).spi_i;
    pump.run_for(REKEY, everything);
    pump.assert_joined();
    assert_ne!(pump.sa(0).spi_i, before, "{ike}: the IKE SA was not rekeyed");
    for end in 0..2 {
        let sa = pump.sa(end);
        let (proposal, child) = (IkeProposal::parse(ike).unwrap(), EspProposal::parse(esp).unwrap());
        assert!(proposal.allows(sa.suite.unwrap()), "{ike}");
        let suite = sa.children[0].suite;
        assert_eq!(
            (suite.cipher.encryption, suite.cipher.integrity, suite.group),
            (
                child.encryption[0],
                child.integrity.first().copied(),
                child.groups.first().copied()
            ),
            "{esp}"
        );
        assert!(pump.failures(end).is_empty());
    }
    // The keys of the new IKE SA work.
    let command = Command::RekeyChild {
        connection: SITE.into(),
        child: None,
    };
    pump.command(1, command);
    pump.run_for(Duration::from_secs(10), everything);
    pump.assert_joined();
    packets_pass(&pump);
}

#[test]
fn every_cipher_and_integrity() {
    for encryption in Encryption::ALL {
        if encryption.is_aead() {
            live(
                &format!("{encryption}-prfsha256-x25519"),
                &format!("{encryption}-x25519"),
            );
            continue;
        }
        for integrity in Integrity::ALL {
            // RFC 7296 §5, RFC 8247 §2.1: NULL is for ESP only.
            let ike = if *encryption == Encryption::Null {
                format!("aes256-{integrity}-x25519")
            } else {
                format!("{encryption}-{integrity}-x25519")
            };
            live(&ike, &format!("{encryption}-{integrity}-x25519"));
            live(&ike, &format!("{encryption}-{integrity}-x25519-esn"));
        }
    }
}

#[test]
fn every_prf() {
    for prf in PrfAlgorithm::ALL {
        live(&format!("aes256gcm16-{prf}-x25519"), "aes256gcm16-ecp256");
    }
}

#[test]
fn every_group() {
    for group in Group::ALL {
        live(
            &format!("aes128gcm16-prfsha256-{group}"),
            &format!("aes128gcm16-{group}"),
        );
    }
}

/// Each algorithm's transform is the registry's (IANA, IKEv2 Parameters), and it comes back as the same algorithm.
#[test]
fn transforms_are_the_registrys() {
    let ike = |text: &str| IkeProposal::to_wire(&[IkeProposal::parse(text).unwrap()], &[]);
    let ids = |transforms: &[Transform], kind| -> BTreeSet<(u16, Option<u16>)> {
        let of_kind = transforms.iter().filter(|t| t.transform_type == kind);
        of_kind.map(|t| (t.id, t.key_length())).collect()
    };
    let groups: Vec<String> = Group::ALL.iter().map(ToString::to_string).collect();
    let offer = ike(&format!(
        "aes128-aes192-aes256-sha1-sha256-sha384-sha512-prfsha1-prfsha256-prfsha384-prfsha512-{}",
        groups.join("-")
    ));
    let transforms = &offer.proposals[0].transforms;
    let plain = |list: &[u16]| list.iter().map(|id| (*id, None)).collect::<BTreeSet<_>>();
    assert_eq!(
        ids(transforms, TransformType::ENCR),
        [128, 192, 256].map(|bits| (12, Some(bits))).into()
    );
    assert_eq!(ids(transforms, TransformType::INTEG), plain(&[2, 12, 13, 14]));
    assert_eq!(ids(transforms, TransformType::PRF), plain(&[2, 5, 6, 7]));
    assert_eq!(
        ids(transforms, TransformType::KE),
        plain(&[2, 5, 14, 15, 16, 17, 18, 19, 20, 21, 24, 31, 35, 36, 37])
    );
    let aead = ike("aes128gcm16-aes192gcm16-aes256gcm16-chacha20poly1305-prfsha256-x25519");
    let mut expected: BTreeSet<_> = [128, 192, 256].map(|bits| (20, Some(bits))).into();
    expected.insert((28, None));
    assert_eq!(ids(&aead.proposals[0].transforms, TransformType::ENCR), expected);
}

/// RFC 8247 §2, RFC 8221 §5, §6 (checklist: "off by default"): what is weak is neither offered nor taken unless named.
#[test]
fn the_weak_is_not_offered_and_not_taken_by_default() {
    for proposal in IkeProposal::defaults() {
        assert_eq!(proposal.weaknesses(), Vec::<String>::new());
    }
    for proposal in EspProposal::defaults() {
        assert_eq!(proposal.weaknesses(), Vec::<String>::new());
        assert!(!proposal.encryption.contains(&Encryption::Null));
    }
    for weak in [
        "aes256-sha1-prfsha256-x25519",
        "aes256gcm16-prfsha1-x25519",
        "aes256gcm16-prfsha256-modp1024",
        "aes256gcm16-prfsha256-modp1536",
        "aes256gcm16-prfsha256-modp2048s256",
    ] {
        let named = [IkeProposal::parse(weak).unwrap()];
        assert_eq!(named[0].weaknesses().len(), 1, "{weak}");
        let offer = IkeProposal::to_wire(&named, &[]);
        assert!(
            IkeProposal::choose(&IkeProposal::defaults(), &offer, 0, None).is_err(),
            "{weak}"
        );
        assert!(IkeProposal::choose(&named, &offer, 0, None).is_ok(), "{weak}");
    }
    for weak in [
        "aes256-sha1-x25519",
        "null-sha256-x25519",
        "aes256gcm16-modp1024",
        "aes256gcm16-modp1536",
        "aes256gcm16-modp2048s256",
    ] {
        let named = [EspProposal::parse(weak).unwrap()];
        let offer = EspProposal::to_wire(&named, 0x1234, true);
        assert!(
            EspProposal::choose(&EspProposal::defaults(), &offer, true, None).is_err(),
            "{weak}"
        );
        assert!(EspProposal::choose(&named, &offer, true, None).is_ok(), "{weak}");
    }
}

/// Keys leave the endpoint only when it was told so, and then they are those of the SAs.
#[test]
fn keys_come_out_only_on_demand() {
    let mut pump = Pump::new(side_a(), side_b());
    pump.ends[0].export_keys();
    pump.connect();
    pump.deliver_all();
    pump.rekey_child(1);
    pump.deliver_all();
    pump.assert_joined();
    let keys = |who: usize| -> Vec<ExportedKeys> {
        let events = pump.events[who].iter().filter_map(|event| match event {
            Event::Keys(keys) => Some((**keys).clone()),
            _ => None,
        });
        events.collect()
    };
    assert!(keys(1).is_empty());
    let exported = keys(0);
    let [
        ExportedKeys::Ike(ike),
        ExportedKeys::Child(first),
        ExportedKeys::Child(second),
    ] = exported.as_slice()
    else {
        panic!("{exported:?}");
    };
    let sa = pump.sa(0);
    assert_eq!((ike.spi_i, ike.spi_r, Some(ike.suite)), (sa.spi_i, sa.spi_r, sa.suite));
    assert_eq!((first.shared.is_some(), second.shared.is_some()), (false, true));
    assert_eq!(second.entry.id, pump.sad[0].active["net"]);
    let secret = second.inbound.0.expose();
    assert_eq!(secret, second.entry.inbound.key.expose());
    let text = format!("{exported:?}");
    let digits: String = secret.iter().map(|octet| format!("{octet:02x}")).collect();
    assert!(
        !text.contains(&digits) && !text.contains(&format!("{secret:?}")),
        "{text}"
    );
}
