//! The stages an endpoint can be in, by both roles, and how each goes on.

use crate::ike_pump::{SITE, side_a, side_b};
use crate::peer::Tester;
use crate::peer::messages::*;
use landbridge_proto::ike::Command;
use landbridge_proto::policy::connection::Connection;
use landbridge_proto::policy::proposal::EspProposal;
use landbridge_proto::wire::{ExchangeType, Header, KeMethod, NotifyType};
use std::sync::Arc;
use std::time::Duration;

/// A stage.
pub struct Stage {
    pub name: &'static str,
    /// T and the DUT share keys.
    pub keys: bool,
    /// Exchanges that an authentic request may begin.
    pub requests: &'static [ExchangeType],
    /// A DUT in it, and the header of its request in flight.
    pub build: fn() -> (Tester, Option<Header>),
    /// After all that did not concern it.
    pub goes_on: fn(&mut Tester, Option<Header>),
}

const WITHIN: &[ExchangeType] = &[
    ExchangeType::CREATE_CHILD_SA,
    ExchangeType::INFORMATIONAL,
    ExchangeType::IKE_FOLLOWUP_KE,
];

fn alive(t: &mut Tester, _: Option<Header>) {
    t.assert_alive();
    assert!(t.is_up());
    assert_eq!(t.pairs(), 1);
}

pub fn nothing() -> Stage {
    Stage {
        name: "nothing",
        keys: false,
        requests: &[],
        build: || {
            let mut t = Tester::new(side_b());
            // T makes up what was never agreed on.
            t.sa.spi_r = landbridge_proto::wire::IkeSpi([5; 8]);
            (t, None)
        },
        goes_on: |t, _| {
            t.begin();
            assert_eq!(t.pairs(), 1);
        },
    }
}

pub fn half_open() -> Stage {
    Stage {
        name: "half open",
        keys: true,
        requests: &[ExchangeType::IKE_AUTH],
        build: || {
            let mut t = Tester::new(side_b());
            let payloads = t.init_payloads();
            t.init(&payloads);
            (t, None)
        },
        goes_on: |t, _| {
            let payloads = t.auth_payloads();
            t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
            alive(t, None);
        },
    }
}

pub fn established_as_responder() -> Stage {
    Stage {
        name: "established as responder",
        keys: true,
        requests: WITHIN,
        build: || (Tester::up(side_b()), None),
        goes_on: alive,
    }
}

pub fn established_as_initiator() -> Stage {
    Stage {
        name: "established as initiator",
        keys: true,
        requests: WITHIN,
        build: || (Tester::up_as_responder(side_a()), None),
        goes_on: alive,
    }
}

pub fn init_sent() -> Stage {
    Stage {
        name: "init sent",
        keys: false,
        requests: &[],
        build: || {
            let mut t = Tester::new(side_a());
            let asked = t.provoke();
            (t, Some(asked.header))
        },
        goes_on: |t, _| {
            // The request comes again, and is answered.
            t.tick();
            let asked = t.out.pop_front().unwrap();
            assert_eq!(asked.octets, t.sa.request);
            let asked = t.open(&[asked]);
            let payloads = t.init_answer(&asked);
            t.answer_init(&payloads);
            let asked = t.next_request().unwrap();
            let payloads = t.auth_answer();
            t.respond(&asked.header, &payloads);
            alive(t, None);
        },
    }
}

pub fn auth_sent() -> Stage {
    Stage {
        name: "auth sent",
        keys: true,
        requests: &[],
        build: || {
            let (t, asked) = Tester::until_auth(side_a());
            (t, Some(asked.header))
        },
        goes_on: |t, asked| {
            let payloads = t.auth_answer();
            t.respond(&asked.unwrap(), &payloads);
            alive(t, None);
        },
    }
}

pub fn rekeying_a_child() -> Stage {
    Stage {
        name: "rekeying a child",
        keys: true,
        requests: WITHIN,
        build: || {
            let mut t = Tester::up_as_responder(side_a());
            t.command(Command::RekeyChild {
                connection: SITE.into(),
                child: None,
            });
            let asked = t.next_request().unwrap();
            assert!(asked.has(NotifyType::REKEY_SA));
            (t, Some(asked.header))
        },
        goes_on: |t, asked| {
            t.assert_alive();
            t.refuse(&asked.unwrap(), NotifyType::TEMPORARY_FAILURE);
            alive(t, None);
        },
    }
}

const MULTI: &str = "aes256gcm16-x25519-ke1_mlkem512";

/// Child SAs with a second key exchange (RFC 9370 §2.2.4).
fn multi(mut connection: Connection) -> Connection {
    for child in connection.children.values_mut() {
        Arc::make_mut(child).esp_proposals = vec![EspProposal::parse(MULTI).unwrap()];
    }
    connection
}

/// T's CREATE_CHILD_SA was answered, and IKE_FOLLOWUP_KE is to come.
pub fn in_a_series_of_the_peer() -> Stage {
    Stage {
        name: "in a series of the peer",
        keys: true,
        requests: WITHIN,
        build: || {
            let mut t = Tester::up(multi(side_b()));
            let mut payloads = t.child_offer(true);
            payloads[0] = esp_words(esp_spi_of(&payloads), MULTI, true);
            payloads.push(t.nonce(32));
            payloads.push(ke(KeMethod::CURVE25519, &[9; 32]));
            let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
            assert!(answer.has(NotifyType::ADDITIONAL_KEY_EXCHANGE));
            (t, None)
        },
        goes_on: |t, asked| {
            assert_eq!(t.dut.spis_in_use(), 2);
            t.pass(Duration::from_secs(25));
            assert_eq!(t.dut.spis_in_use(), 1);
            alive(t, asked);
        },
    }
}

/// The DUT's own, and its IKE_FOLLOWUP_KE is in flight.
pub fn following_up() -> Stage {
    Stage {
        name: "following up",
        keys: true,
        requests: WITHIN,
        build: || {
            let mut t = Tester::up_as_responder(multi(side_a()));
            t.command(Command::RekeyChild {
                connection: SITE.into(),
                child: None,
            });
            let asked = t.next_request().unwrap();
            let mut payloads = t.child_offer(true);
            payloads[0] = esp_words(esp_spi_of(&payloads), MULTI, true);
            payloads.push(t.nonce(32));
            payloads.push(ke(KeMethod::CURVE25519, &[9; 32]));
            payloads.push(notify_with(NotifyType::ADDITIONAL_KEY_EXCHANGE, &[1, 2, 3]));
            t.respond(&asked.header, &payloads);
            let next = t.next_request().unwrap();
            assert_eq!(next.header.exchange, ExchangeType::IKE_FOLLOWUP_KE);
            (t, Some(next.header))
        },
        goes_on: |t, asked| {
            t.assert_alive();
            t.refuse(&asked.unwrap(), NotifyType::STATE_NOT_FOUND);
            alive(t, None);
        },
    }
}

pub fn rekeying_the_ike_sa() -> Stage {
    Stage {
        name: "rekeying the IKE SA",
        keys: true,
        requests: WITHIN,
        build: || {
            let mut a = side_a();
            a.ike_rekey_time = Some(Duration::from_secs(600));
            let mut t = Tester::up_as_responder(a);
            t.pass(Duration::from_secs(601));
            let asked = t.next_request().unwrap();
            assert_eq!(asked.header.exchange, ExchangeType::CREATE_CHILD_SA);
            assert!(!asked.has(NotifyType::REKEY_SA));
            t.out.clear();
            (t, Some(asked.header))
        },
        goes_on: |t, asked| {
            t.assert_alive();
            t.refuse(&asked.unwrap(), NotifyType::TEMPORARY_FAILURE);
            alive(t, None);
        },
    }
}

pub fn asking_for_liveness() -> Stage {
    Stage {
        name: "asking for liveness",
        keys: true,
        requests: WITHIN,
        build: || {
            let mut b = side_b();
            b.dpd_delay = Some(Duration::from_secs(30));
            let mut t = Tester::up(b);
            t.tick();
            let asked = t.next_request().unwrap();
            assert!(asked.payloads.is_empty());
            (t, Some(asked.header))
        },
        goes_on: |t, asked| {
            t.respond(&asked.unwrap(), &[]);
            alive(t, None);
        },
    }
}

/// Messages come by the old SA, which waits to be deleted.
pub fn rekeyed_by_the_peer() -> Stage {
    Stage {
        name: "rekeyed by the peer",
        keys: true,
        requests: WITHIN,
        build: || {
            let mut t = Tester::up(side_b());
            t.sa = t.rekey_ike();
            (t, None)
        },
        goes_on: |t, _| {
            let answer = t.request(ExchangeType::INFORMATIONAL, &[delete_ike()]).unwrap();
            assert!(answer.payloads.is_empty());
            assert_eq!(t.pairs(), 1, "the children live on");
        },
    }
}

pub fn closing() -> Stage {
    Stage {
        name: "closing",
        keys: true,
        requests: WITHIN,
        build: || {
            let mut t = Tester::up(side_b());
            t.command(Command::Down {
                connection: SITE.into(),
                child: None,
            });
            let asked = t.next_request().unwrap();
            (t, Some(asked.header))
        },
        goes_on: |t, asked| {
            t.assert_alive();
            t.respond(&asked.unwrap(), &[]);
            assert_eq!(t.pairs(), 0);
        },
    }
}

pub fn closed() -> Stage {
    Stage {
        name: "closed",
        keys: true,
        requests: &[],
        build: || {
            let mut t = Tester::up(side_b());
            t.request(ExchangeType::INFORMATIONAL, &[delete_ike()]).unwrap();
            assert_eq!(t.pairs(), 0);
            (t, None)
        },
        goes_on: |t, _| {
            t.pass(Duration::from_secs(60));
            assert!(t.status().is_empty());
        },
    }
}
