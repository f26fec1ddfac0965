//! Additional key exchanges in the initial exchange (RFC 9242, RFC 9370 §2.2.1 to §2.2.3).
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;

use ike_pump::{Letter, Pump, side_a, side_b};
use landbridge_proto::policy::connection::Connection;
use landbridge_proto::policy::proposal::IkeProposal;
use landbridge_proto::wire::ExchangeType;
use std::time::Duration;

fn with(mut connection: Connection, proposals: &[&str]) -> Connection {
    connection.ike_proposals = proposals.iter().map(|text| IkeProposal::parse(text).unwrap()).collect();
    connection
}

fn pump(ours: &[&str], theirs: &[&str]) -> Pump {
    let mut pump = Pump::new(with(side_a(), ours), with(side_b(), theirs));
    pump.connect();
    pump
}

fn suite(pump: &Pump, who: usize) -> String {
    pump.sa(who).suite.unwrap().to_string()
}

const HYBRID: &str = "aes256gcm16-prfsha384-x25519-ke1_mlkem768";
const CLASSIC: &str = "aes256gcm16-prfsha384-x25519";

#[test]
fn a_hybrid_exchange() {
    let mut pump = pump(&[HYBRID, CLASSIC], &[HYBRID, CLASSIC]);
    pump.deliver_all();
    pump.assert_joined();
    for who in 0..2 {
        assert_eq!(suite(&pump, who), HYBRID);
    }
    assert!(
        pump.saw(0, "IKE_INTERMEDIATE request 1 [KE]")
            && pump.saw(0, "IKE_INTERMEDIATE response 1 [KE N(SUPPORTED_AUTH_METHODS)]")
    );
    assert!(pump.saw(0, "IKE_AUTH request 2 ["), "IKE_AUTH comes after it");
    assert!(pump.saw(0, "N(INTERMEDIATE_EXCHANGE_SUPPORTED)") && pump.saw(1, "N(INTERMEDIATE_EXCHANGE_SUPPORTED)"));
}

#[test]
fn seven_of_them_and_mlkem_alone() {
    for proposal in [
        "aes256-sha256-prfsha256-ecp256-ke1_x25519-ke2_mlkem512-ke3_ecp384-ke4_mlkem1024-ke5_modp2048-ke6_mlkem768-ke7_modp3072",
        "chacha20poly1305-prfsha512-mlkem512",
        "aes128gcm16-prfsha256-mlkem768-ke3_ecp256",
    ] {
        let mut pump = pump(&[proposal], &[proposal]);
        pump.deliver_all();
        pump.assert_joined();
        assert_eq!(suite(&pump, 1), proposal);
    }
}

/// "The responder MUST treat all of the omitted ADDKE transforms as if they were proposed with Transform ID NONE."
#[test]
fn what_only_one_side_has_is_left_out_if_it_may_be() {
    for (ours, theirs, chosen) in [
        (&[HYBRID, CLASSIC][..], &[CLASSIC][..], Some(CLASSIC)),
        (&[CLASSIC], &[HYBRID, CLASSIC], Some(CLASSIC)),
        (
            &["aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none"],
            &["aes256gcm16-prfsha384-x25519-ke1_none"],
            Some(CLASSIC),
        ),
        (
            &[CLASSIC],
            &["aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke1_none"],
            Some(CLASSIC),
        ),
        (
            &["aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_mlkem1024-ke2_none"],
            &["aes256gcm16-prfsha384-x25519-ke1_mlkem768"],
            Some(HYBRID),
        ),
        (&[HYBRID], &[CLASSIC], None),
        (&[CLASSIC], &[HYBRID], None),
        (&[HYBRID], &["aes256gcm16-prfsha384-x25519-ke2_mlkem768"], None),
    ] {
        let mut pump = pump(ours, theirs);
        pump.deliver_all();
        match chosen {
            Some(chosen) => {
                assert_eq!(suite(&pump, 0), chosen, "{ours:?} {theirs:?}");
                pump.assert_joined();
            }
            None => assert!(!pump.is_up(0) && !pump.failures(1).is_empty(), "{ours:?} {theirs:?}"),
        }
    }
}

/// "the responder's choice MUST NOT contain duplicated algorithms": what was chosen first is given up for it.
#[test]
fn no_method_comes_twice() {
    let offer = "aes256gcm16-prfsha384-x25519-ke2_mlkem768-ke2_mlkem512-ke3_mlkem768";
    let mut pump1 = pump(&[offer], &[offer]);
    pump1.deliver_all();
    assert_eq!(
        suite(&pump1, 0),
        "aes256gcm16-prfsha384-x25519-ke2_mlkem512-ke3_mlkem768"
    );
    let twice = "aes256gcm16-prfsha384-x25519-ke1_mlkem768-ke2_mlkem768";
    let mut pump2 = pump(&[twice], &[twice]);
    pump2.deliver_all();
    assert!(!pump2.is_up(0));
}

/// Each message lost once, and each repeated: the same in the end.
#[test]
fn lost_and_repeated_messages() {
    for lost in 0..6 {
        let mut pump = pump(&[HYBRID], &[HYBRID]);
        let mut count = 0;
        pump.run_for(Duration::from_secs(20), |_| {
            count += 1;
            count - 1 != lost
        });
        pump.assert_joined();
        assert_eq!(suite(&pump, 1), HYBRID);
    }
    let mut pump = pump(&[HYBRID], &[HYBRID]);
    while !pump.wire.is_empty() {
        let letter = pump.deliver(0);
        pump.hand(&letter);
    }
    pump.deliver_all();
    pump.assert_joined();
}

/// RFC 9242 §3.3.2: AUTH covers IKE_INTERMEDIATE "before their encryption and possible fragmentation".
#[test]
fn fragments_change_nothing() {
    let small = |connection: Connection| Connection {
        fragment_size: 400,
        ..connection
    };
    let mut pump = Pump::new(small(with(side_a(), &[HYBRID])), small(with(side_b(), &[HYBRID])));
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
    // One side whole, the other in pieces.
    let mut pump = Pump::new(small(with(side_a(), &[HYBRID])), with(side_b(), &[HYBRID]));
    pump.connect();
    pump.deliver_all();
    pump.assert_joined();
}

/// IKE_AUTH before its time, and IKE_INTERMEDIATE once more, are not answered.
#[test]
fn out_of_order() {
    let whole = |connection: Connection| Connection {
        fragment_size: 4000,
        ..connection
    };
    let mut pump = Pump::new(whole(with(side_a(), &[HYBRID])), whole(with(side_b(), &[HYBRID])));
    pump.connect();
    pump.deliver(0);
    pump.deliver(0);
    let is = |letter: &Letter, exchange| letter.exchange() == exchange && !letter.is_response();
    assert!(is(&pump.wire[0], ExchangeType::IKE_INTERMEDIATE));
    // The exchange type stands in the clear, but the ICV covers it.
    let mut early = pump.wire[0].clone();
    early.octets[18] = ExchangeType::IKE_AUTH.0;
    pump.hand(&early);
    assert_eq!(pump.wire.len(), 1, "nobody answers it");
    let mut late = pump.wire[0].clone();
    pump.deliver_all();
    pump.assert_joined();
    late.octets[20..24].copy_from_slice(&3_u32.to_be_bytes());
    pump.hand(&late);
    assert!(pump.wire.is_empty());
    pump.assert_joined();
}

/// RFC 9242 §3.3.2: "The prf calculations MUST be applied to whole messages only, before possible IKE fragmentation": a
/// message that is cut into other fragments on a narrow way (RFC 7383 §2.5.2) is covered once. Also when an answer was lost.
#[test]
fn on_a_narrow_way() {
    for narrow in [true, false] {
        let mut pump = pump(
            &["aes256gcm16-prfsha384-x25519-ke1_mlkem1024"],
            &["aes256gcm16-prfsha384-x25519-ke1_mlkem1024"],
        );
        let mut asked = 0;
        pump.run_for(Duration::from_secs(60), |letter| {
            let intermediate = letter.exchange() == ExchangeType::IKE_INTERMEDIATE;
            asked += usize::from(intermediate && letter.to == 1);
            if narrow {
                letter.octets.len() + 32 <= 576
            } else {
                !(intermediate && letter.to == 0 && asked <= 4)
            }
        });
        assert!(asked > 4, "{narrow}: it was cut smaller");
        assert!(
            pump.failures(0).is_empty(),
            "{narrow}: {:?} {:?}",
            pump.failures(0),
            pump.lines(1)
        );
        pump.assert_joined();
    }
}
