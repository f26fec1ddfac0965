//! Every message against every stage: each exchange type, flags, message ID and SPIs, in the clear, under the right keys
//! and under a broken ICV, as a whole and as a fragment, in every stage of both roles. What the RFC does not allow to
//! change anything changes nothing that can be seen, draws at most one small answer, and leaves the SA able to go on.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod authentication;
#[path = "../ike_pump/mod.rs"]
mod ike_pump;
mod key_exchange;
mod malformed;
#[path = "../peer/mod.rs"]
mod peer;
mod stages;
mod strangers;

use landbridge_proto::wire::{
    ExchangeType, Flags, Header, IkeSpi, Payload, PayloadType, encode_header, encode_payloads, encode_plain,
};
use peer::Tester;
use peer::messages::*;
use stages::Stage;
use std::time::Duration;

/// IKEv1's (2, 4, 5), ours, ones of other RFCs, and ones of nobody.
const EXCHANGES: [u8; 12] = [0, 2, 4, 5, 34, 35, 36, 37, 43, 44, 99, 255];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Spis {
    Right,
    Swapped,
    NoResponder,
    OtherInitiator,
    OtherResponder,
    Unknown,
    Zero,
}
const SPIS: [Spis; 7] = [
    Spis::Right,
    Spis::Swapped,
    Spis::NoResponder,
    Spis::OtherInitiator,
    Spis::OtherResponder,
    Spis::Unknown,
    Spis::Zero,
];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Id {
    Expected,
    Next,
    Before,
    Far,
    Last,
}
const IDS: [Id; 5] = [Id::Expected, Id::Next, Id::Before, Id::Far, Id::Last];

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Body {
    PlainEmpty,
    Plain,
    SealedEmpty,
    Sealed,
    SealedWrongly,
    Fragment,
}
const BODIES: [Body; 6] = [
    Body::PlainEmpty,
    Body::Plain,
    Body::SealedEmpty,
    Body::Sealed,
    Body::SealedWrongly,
    Body::Fragment,
];

#[derive(Clone, Copy, Debug)]
struct Case {
    exchange: ExchangeType,
    /// The I flag is as T's messages should have it.
    right_i: bool,
    response: bool,
    id: Id,
    spis: Spis,
    body: Body,
}

fn cases() -> impl Iterator<Item = Case> {
    let flags = [(true, false), (true, true), (false, false), (false, true)];
    EXCHANGES.into_iter().flat_map(move |exchange| {
        flags.into_iter().flat_map(move |(right_i, response)| {
            IDS.into_iter().flat_map(move |id| {
                SPIS.into_iter().flat_map(move |spis| {
                    BODIES.into_iter().map(move |body| Case {
                        exchange: ExchangeType(exchange),
                        right_i,
                        response,
                        id,
                        spis,
                        body,
                    })
                })
            })
        })
    })
}

impl Case {
    fn header(&self, t: &Tester, in_flight: Option<Header>) -> Header {
        let (i, r) = (t.sa.spi_i, t.sa.spi_r);
        let other = IkeSpi([0x77; 8]);
        let (spi_i, spi_r) = match self.spis {
            Spis::Right => (i, r),
            Spis::Swapped => (r, i),
            Spis::NoResponder => (i, IkeSpi::ZERO),
            Spis::OtherInitiator => (other, r),
            Spis::OtherResponder => (i, other),
            Spis::Unknown => (other, IkeSpi([0x78; 8])),
            Spis::Zero => (IkeSpi::ZERO, IkeSpi::ZERO),
        };
        let expected = if self.response {
            in_flight.map_or(0, |header| header.message_id)
        } else {
            t.sa.next
        };
        Header {
            spi_i,
            spi_r,
            exchange: self.exchange,
            flags: Flags {
                initiator: t.sa.initiator == self.right_i,
                response: self.response,
            },
            message_id: match self.id {
                Id::Expected => expected,
                Id::Next => expected.wrapping_add(1),
                Id::Before => expected.wrapping_sub(1),
                Id::Far => expected.wrapping_add(100_000),
                Id::Last => u32::MAX,
            },
        }
    }

    /// What an honest peer would put into such a message.
    fn payloads(&self, t: &mut Tester) -> Vec<Payload> {
        match (self.exchange, self.response) {
            (ExchangeType::IKE_SA_INIT, _) => t.init_payloads(),
            (ExchangeType::IKE_AUTH, false) if t.sa.keys.is_some() => t.auth_payloads(),
            (ExchangeType::IKE_AUTH, true) if t.sa.keys.is_some() => t.auth_answer(),
            (ExchangeType::CREATE_CHILD_SA, _) => {
                let mut payloads = t.child_offer(true);
                payloads.push(t.nonce(32));
                payloads.push(ke(landbridge_proto::wire::KeMethod::CURVE25519, &[9; 32]));
                payloads
            }
            _ => vec![delete_ike()],
        }
    }

    fn datagram(&self, t: &mut Tester, header: &Header) -> Vec<u8> {
        let payloads = match self.body {
            Body::PlainEmpty | Body::SealedEmpty => vec![],
            _ => self.payloads(t),
        };
        if matches!(self.body, Body::PlainEmpty | Body::Plain) {
            return encode_plain(header, &payloads);
        }
        let (first, chain) = encode_payloads(&payloads);
        if t.sa.protection.is_none() {
            // No keys yet: an SK payload of junk.
            let body = [&[first.0, 0, 0, 64][..], &[0x5a; 60]].concat();
            return [&encode_header(header, PayloadType::SK, 92)[..], &body].concat();
        }
        if self.body == Body::Fragment {
            return peer::seal::fragment(&t.sa, header, first, &chain, (1, 1));
        }
        let mut datagram = t.seal_chain(header, first, &chain).remove(0);
        if self.body == Body::SealedWrongly {
            *datagram.last_mut().unwrap() ^= 1;
        }
        datagram
    }

    /// Whether the RFC lets this message change anything at all.
    fn may_change(&self, stage: &Stage, header: &Header, in_flight: Option<Header>) -> bool {
        let authentic = matches!(self.body, Body::SealedEmpty | Body::Sealed | Body::Fragment)
            && self.spis == Spis::Right
            && self.right_i
            && self.id == Id::Expected
            && stage.keys;
        if self.response {
            // RFC 7296 §2.21.1, §2.4: the answer to IKE_SA_INIT is the one that comes without protection.
            let init = stage.name == "init sent"
                && self.body == Body::Plain
                && self.exchange == ExchangeType::IKE_SA_INIT
                && header.message_id == 0
                && self.right_i
                && matches!(self.spis, Spis::Right | Spis::OtherResponder);
            return init || authentic && in_flight.is_some_and(|asked| asked.exchange == self.exchange);
        }
        // §1.2: a stranger may begin, with SPIr zero and message ID 0.
        let begins = self.body == Body::Plain
            && self.exchange == ExchangeType::IKE_SA_INIT
            && header.flags.initiator
            && header.message_id == 0
            && header.spi_r == IkeSpi::ZERO
            && header.spi_i != IkeSpi::ZERO;
        begins || authentic && stage.requests.contains(&self.exchange)
    }
}

/// The whole matrix in one stage.
fn run(stage: &Stage) {
    let (mut t, mut in_flight) = (stage.build)();
    let (mut tried, mut effects) = (0, 0);
    for case in cases() {
        let header = case.header(&t, in_flight);
        let allowed = case.may_change(stage, &header, in_flight);
        if allowed {
            // On one of its own: whatever it does is done to that.
            let (mut other, flying) = (stage.build)();
            let header = case.header(&other, flying);
            let datagram = case.datagram(&mut other, &header);
            let before = other.state();
            let sent = other.ask(&datagram);
            effects += usize::from(other.state() != before);
            assert!(sent.len() <= 4, "{case:?} draws {} datagrams", sent.len());
            assert!(other.status().len() <= 3, "{case:?}");
            continue;
        }
        let datagram = case.datagram(&mut t, &header);
        let before = t.state();
        let sent = t.ask(&datagram);
        assert_eq!(t.state(), before, "{}: {case:?} {header:?}", stage.name);
        assert!(
            sent.len() <= 1,
            "{}: {case:?} draws {} datagrams",
            stage.name,
            sent.len()
        );
        if let Some(sent) = sent.first() {
            // A hint, at most, or the answer it had already.
            assert!(!case.response, "{}: a response is answered: {case:?}", stage.name);
            assert!(
                sent.octets.len() <= datagram.len(),
                "{}: {case:?} is amplified",
                stage.name
            );
        }
        t.now = t.now + Duration::from_micros(200);
        tried += 1;
    }
    assert!(tried > 9000, "{tried}");
    // The others do something, or nothing was looked at. A closed SA is good for nothing any more.
    assert_eq!(effects == 0, stage.name == "closed", "{}", stage.name);
    // What can't be seen was not changed either: it goes on as if nothing had been.
    (stage.goes_on)(&mut t, in_flight.take());
}

// One test a stage, so that they run side by side.

#[test]
fn nothing() {
    run(&stages::nothing());
}

#[test]
fn half_open() {
    run(&stages::half_open());
}

#[test]
fn established_as_responder() {
    run(&stages::established_as_responder());
}

#[test]
fn established_as_initiator() {
    run(&stages::established_as_initiator());
}

#[test]
fn init_sent() {
    run(&stages::init_sent());
}

#[test]
fn auth_sent() {
    run(&stages::auth_sent());
}

#[test]
fn rekeying_a_child() {
    run(&stages::rekeying_a_child());
}

#[test]
fn in_a_series_of_the_peer() {
    run(&stages::in_a_series_of_the_peer());
}

#[test]
fn following_up() {
    run(&stages::following_up());
}

#[test]
fn rekeying_the_ike_sa() {
    run(&stages::rekeying_the_ike_sa());
}

#[test]
fn asking_for_liveness() {
    run(&stages::asking_for_liveness());
}

#[test]
fn rekeyed_by_the_peer() {
    run(&stages::rekeyed_by_the_peer());
}

#[test]
fn closing() {
    run(&stages::closing());
}

#[test]
fn closed() {
    run(&stages::closed());
}
