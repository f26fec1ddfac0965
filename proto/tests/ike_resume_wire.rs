//! Session resumption (RFC 5723) as it stands on the wire, against a peer that makes every message by hand.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
#[path = "peer/mod.rs"]
mod peer;

use ike_pump::{side_a, side_b};
use landbridge_proto::crypto::{IKE_PROVIDER, PrfAlgorithm, Secret};
use landbridge_proto::ike::keys::{Binding, IkeKeys, Secrets};
use landbridge_proto::policy::connection::{Config, Connection, Gateway};
use landbridge_proto::wire::{ExchangeType, Flags, Header, IkeSpi, NotifyType, Payload, encode_plain};
use peer::messages::*;
use peer::{Message, PSK, SUITE, Sa, Sent, Tester};
use rand_core::Rng;
use std::sync::Arc;
use std::time::Duration;

const RESUME: ExchangeType = ExchangeType::IKE_SESSION_RESUME;

fn with(mut connection: Connection) -> Connection {
    connection.resumption = true;
    connection
}

/// Up with T as client, and with a ticket: its lifetime, the ticket.
fn client() -> (Tester, u32, Vec<u8>) {
    client_of(Tester::new(with(side_b())))
}

fn client_of(mut t: Tester) -> (Tester, u32, Vec<u8>) {
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.push(notify(NotifyType::TICKET_REQUEST));
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up());
    let (lifetime, ticket) = granted(&answer).expect("a ticket");
    (t, lifetime, ticket)
}

fn granted(answer: &Message) -> Option<(u32, Vec<u8>)> {
    let notify = answer.notify(NotifyType::TICKET_LT_OPAQUE)?;
    // §7: "the Protocol ID and the SPI Size fields MUST both be sent as 0."
    assert_eq!((notify.protocol.0, notify.spi.len()), (0, 0));
    let (lifetime, ticket) = notify.data.split_first_chunk().unwrap();
    Some((u32::from_be_bytes(*lifetime), ticket.to_vec()))
}

/// SK_d of T's SA.
fn sk_d(t: &Tester) -> Secret {
    t.sa.keys.as_ref().unwrap().d.clone()
}

/// T's IKE_SESSION_RESUME request.
fn resume_datagram(t: &mut Tester, ticket: &[u8], cookie: Option<&[u8]>, nonce: &Payload) -> Vec<u8> {
    let mut payloads: Vec<Payload> = cookie
        .map(|cookie| notify_with(NotifyType::COOKIE, cookie))
        .into_iter()
        .collect();
    payloads.push(nonce.clone());
    payloads.push(notify_with(NotifyType::TICKET_OPAQUE, ticket));
    let header = Header {
        spi_r: IkeSpi::ZERO,
        ..t.sa.header(RESUME, false, 0)
    };
    encode_plain(&header, &payloads)
}

/// A new IKE SA of T's, that begins with a ticket: the DUT's answer.
fn present(t: &mut Tester, ticket: &[u8]) -> (Option<Sent>, Payload) {
    let spi = IkeSpi(t.rng.next_u64().to_be_bytes());
    t.sa = Sa::new(spi, IkeSpi::ZERO, true);
    let nonce = t.nonce(32);
    let datagram = resume_datagram(t, ticket, None, &nonce);
    t.sa.request.clone_from(&datagram);
    (t.ask(&datagram).into_iter().next(), nonce)
}

/// §5.1, by hand.
fn keys(t: &Tester, old: &Secret, ni: &[u8], nr: &[u8]) -> IkeKeys {
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
    let skeyseed = prf.prf(old.expose(), &[b"Resumption", ni, nr]);
    let stream = prf
        .prf_plus(
            skeyseed.expose(),
            &[ni, nr, &t.sa.spi_i.0, &t.sa.spi_r.0],
            3 * 32 + 2 * 36,
        )
        .unwrap();
    let cut = |from: usize, len: usize| Secret::new(stream.expose()[from..from + len].to_vec());
    // SK_d, SK_ei, SK_er, SK_pi, SK_pr: AES-GCM with 256 bits has no SK_a, and a salt of four octets.
    let binding = Binding {
        ni,
        nr,
        spi_i: t.sa.spi_i,
        spi_r: t.sa.spi_r,
    };
    let any = IkeKeys::derive(&IKE_PROVIDER, SUITE, old, &binding).unwrap();
    IkeKeys {
        d: cut(0, 32),
        cipher_i: cut(32, 36),
        cipher_r: cut(68, 36),
        pi: cut(104, 32),
        pr: cut(136, 32),
        ..any
    }
}

/// `AUTH = prf(SK_px, <message octets>)`, by hand.
fn auth(t: &Tester, initiator: bool, id: &Payload) -> Payload {
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
    let keys = t.sa.keys.as_ref().unwrap();
    let (message, nonce, key) = if initiator {
        (&t.sa.request, &t.sa.nr, &keys.pi)
    } else {
        (&t.sa.response, &t.sa.ni, &keys.pr)
    };
    let maced = prf.prf(key.expose(), &[&id_body(id)]);
    psk_auth(prf.prf(key.expose(), &[message, nonce, maced.expose()]).expose())
}

/// T has presented its ticket, the DUT has taken it, and T has the keys.
fn taken(t: &mut Tester, ticket: &[u8], old: &Secret) -> Message {
    let (sent, ni) = present(t, ticket);
    let sent = sent.expect("an answer");
    let answer = t.open(std::slice::from_ref(&sent));
    assert_eq!(answer.header.exchange, RESUME);
    assert!(!answer.has(NotifyType::TICKET_NACK), "{:?}", t.events);
    t.sa.response.clone_from(&sent.octets);
    t.sa.spi_r = answer.header.spi_r;
    let (Payload::Nonce(ni), nr) = (ni, nonce_of(&answer.payloads)) else {
        panic!()
    };
    (t.sa.ni, t.sa.nr) = (ni.0.clone(), nr.clone());
    let keys = keys(t, old, &ni.0, &nr);
    t.sa.set_keys(keys, &mut t.rng);
    answer
}

fn auth_payloads(t: &mut Tester, id: &str) -> Vec<Payload> {
    let id = self::id(true, id);
    let mut payloads = vec![id.clone(), auth(t, true, &id)];
    payloads.extend(t.child_offer(false));
    payloads
}

/// T has a new IKE SA by its ticket.
fn resumed(t: &mut Tester, ticket: &[u8], old: &Secret) -> Message {
    taken(t, ticket, old);
    let mut payloads = auth_payloads(t, "a.example");
    payloads.push(notify(NotifyType::TICKET_REQUEST));
    let answer = t
        .request(ExchangeType::IKE_AUTH, &payloads)
        .expect("an answer to IKE_AUTH");
    assert!(t.is_up(), "{:?}", t.failures());
    answer
}

/// The ticket is refused, nothing is kept for it, and the answer is shorter than what it answers.
fn refused(t: &mut Tester, ticket: &[u8]) {
    let (sas, half_open) = (t.dut.load().ike_sas, t.dut.load().half_open);
    let (sent, _) = present(t, ticket);
    let sent = sent.expect("an answer");
    let answer = t.open(std::slice::from_ref(&sent));
    assert_eq!(answer.notifies(), [NotifyType::TICKET_NACK]);
    assert!(sent.octets.len() < t.sa.request.len());
    assert_eq!((t.dut.load().ike_sas, t.dut.load().half_open), (sas, half_open));
}

/// §4.3 with T as client.
#[test]
fn the_formulas_as_responder() {
    let (mut t, lifetime, ticket) = client();
    assert!(lifetime > 0, "\"a finite lifetime MUST be specified\"");
    assert!(ticket.len() < 400, "{}", ticket.len());
    let old = sk_d(&t);
    let answer = resumed(&mut t, &ticket, &old);
    // The DUT's AUTH is as T makes it, and its identity as before.
    let id = id(false, "b.example");
    let right = auth(&t, false, &id);
    assert!(answer.payloads.contains(&id) && answer.payloads.contains(&right));
    assert!(
        !answer
            .payloads
            .iter()
            .any(|payload| matches!(payload, Payload::Cert(_)))
    );
    t.assert_alive();
    // One IKE SA, one pair: the old ones are gone without a word.
    let up = t.status().iter().filter(|sa| sa.stage == "established").count();
    assert_eq!((up, t.pairs()), (1, 1));
    assert!(t.out.is_empty());
    // The ticket that came with it is good, the one before is not.
    let (_, next) = granted(&answer).unwrap();
    let old = sk_d(&t);
    refused(&mut t, &ticket);
    resumed(&mut t, &next, &old);
}

/// A copy of the request gets the answer again, and no second half-open SA.
#[test]
fn a_repeated_request_is_answered_as_before() {
    let (mut t, _, ticket) = client();
    let old = sk_d(&t);
    taken(&mut t, &ticket, &old);
    let (request, response) = (t.sa.request.clone(), t.sa.response.clone());
    let again = t.ask(&request);
    assert_eq!(again.len(), 1);
    assert_eq!(again[0].octets, response);
    assert_eq!(t.dut.load().half_open, 1);
    let payloads = auth_payloads(&mut t, "a.example");
    t.request(ExchangeType::IKE_AUTH, &payloads);
    assert!(t.is_up());
}

/// Whatever was changed in it, wherever it comes from.
#[test]
fn forged_tickets_are_refused() {
    let (mut t, _, ticket) = client();
    for at in 0..ticket.len() {
        let mut forged = ticket.clone();
        forged[at] ^= 1 << (at % 8);
        refused(&mut t, &forged);
        t.now = t.now + Duration::from_millis(100);
    }
    for len in 0..ticket.len() {
        refused(&mut t, &ticket[..len]);
        t.now = t.now + Duration::from_millis(100);
    }
    let (_, _, foreign) = {
        let mut other = Tester::new(with(side_b()));
        let now = other.at();
        other.dut = landbridge_proto::ike::Endpoint::new(now, [77; 32], Arc::clone(&other.config));
        client_of(other)
    };
    refused(&mut t, &foreign);
    let old = sk_d(&client().0);
    resumed(&mut t, &ticket, &old);
}

/// §4.3.3: who it is is proven anew, and must be who it was.
#[test]
fn a_stolen_ticket_is_of_no_use() {
    let (t, _, ticket) = client();
    let old = sk_d(&t);
    type Wrong = fn(&mut Tester) -> Vec<Payload>;
    let another_key: Wrong = |t| {
        let mut payloads = auth_payloads(t, "a.example");
        payloads[1] = psk_auth(&[7; 32]);
        payloads
    };
    let psk: Wrong = |t| {
        let id = id(true, "a.example");
        let mut payloads = vec![id.clone(), t.auth(PSK, &id)];
        payloads.extend(t.child_offer(false));
        payloads
    };
    let another: Wrong = |t| auth_payloads(t, "c.example");
    let in_capitals: Wrong = |t| auth_payloads(t, "A.example");
    let another_of_us: Wrong = |t| {
        let mut payloads = auth_payloads(t, "a.example");
        payloads.insert(1, id(false, "c.example"));
        payloads
    };
    let none: Wrong = |t| {
        let mut payloads = auth_payloads(t, "a.example");
        payloads.remove(1);
        payloads
    };
    for wrong in [another_key, psk, another, in_capitals, another_of_us, none] {
        let (mut t, _, mine) = client();
        assert_eq!(mine, ticket, "the same seed");
        let before = t.pairs();
        taken(&mut t, &ticket, &old);
        let payloads = wrong(&mut t);
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert_eq!(answer.notifies(), [NotifyType::AUTHENTICATION_FAILED]);
        // The SA that it would have taken the place of stands.
        assert_eq!(t.pairs(), before);
        // "a ticket is considered as used only when an IKE SA has been established successfully with it."
        resumed(&mut t, &ticket, &old);
    }
    // Who does not know SK_d does not get so far.
    let (mut t, _, ticket) = client();
    taken(&mut t, &ticket, &Secret::new(vec![1; 32]));
    let payloads = auth_payloads(&mut t, "a.example");
    assert!(t.request(ExchangeType::IKE_AUTH, &payloads).is_none());
}

/// "The first message MAY be rejected in denial-of-service (DoS) situations, with the initiator instructed to send a cookie."
#[test]
fn cookies() {
    // A ticket takes no puzzle, where others get one: RFC 8019 §4.5 has only "the COOKIE notification in the IKE_SESSION_RESUME
    // response message".
    let gateway = Gateway {
        cookie_threshold: 0,
        puzzle_threshold: 0,
        ..Gateway::default()
    };
    let mut t = Tester::with(with(side_b()), gateway);
    let payloads = t.init_payloads();
    let [sent] = &t.ask(&t.init_datagram(&payloads))[..] else {
        panic!()
    };
    let cookie = t
        .open(std::slice::from_ref(sent))
        .notify(NotifyType::COOKIE)
        .unwrap()
        .data
        .clone();
    let with_cookie: Vec<Payload> = std::iter::once(notify_with(NotifyType::COOKIE, &cookie))
        .chain(payloads)
        .collect();
    t.init(&with_cookie);
    let mut payloads = t.auth_payloads();
    payloads.push(notify(NotifyType::TICKET_REQUEST));
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    let (_, ticket) = granted(&answer).unwrap();
    // The ticket alone is not enough, and with a cookie it is.
    let (sent, nonce) = present(&mut t, &ticket);
    let sent = sent.unwrap();
    let answer = t.open(std::slice::from_ref(&sent));
    assert_eq!(answer.notifies(), [NotifyType::COOKIE]);
    let cookie = answer.notify(NotifyType::COOKIE).unwrap().data.clone();
    assert_eq!(t.dut.load().half_open, 0);
    let datagram = resume_datagram(&mut t, &ticket, Some(&cookie), &nonce);
    let [sent] = &t.ask(&datagram)[..] else { panic!() };
    assert!(!t.open(std::slice::from_ref(sent)).has(NotifyType::COOKIE));
    assert_eq!(t.dut.load().half_open, 1);
}

/// When there is no room for others there is some for who has a ticket, but not without end (RFC 8019 §4.5).
#[test]
fn there_is_room_for_tickets_when_there_is_none_for_others() {
    let gateway = Gateway {
        cookie_threshold: 1000,
        half_open_limit: 8,
        ..Gateway::default()
    };
    let (mut t, _, ticket) = client_of(Tester::with(with(side_b()), gateway));
    for _ in 0..20 {
        t.sa = Sa::new(IkeSpi(t.rng.next_u64().to_be_bytes()), IkeSpi::ZERO, true);
        let payloads = t.init_payloads();
        let datagram = t.init_datagram(&payloads);
        t.ask(&datagram);
    }
    assert_eq!(t.dut.load().half_open, 8);
    for _ in 0..20 {
        present(&mut t, &ticket);
    }
    assert_eq!(t.dut.load().half_open, 10);
}

/// §4.1: in INFORMATIONAL and when the client rekeys; a ticket of before is not good any more then.
#[test]
fn tickets_are_granted_wherever_they_may_be_asked_for() {
    let (mut t, _, first) = client();
    let request = [notify(NotifyType::TICKET_REQUEST)];
    let answer = t.request(ExchangeType::INFORMATIONAL, &request).unwrap();
    let (_, second) = granted(&answer).unwrap();
    let (old, sa) = (
        sk_d(&t),
        std::mem::replace(&mut t.sa, Sa::new(IkeSpi([1; 8]), IkeSpi::ZERO, true)),
    );
    refused(&mut t, &first);
    t.sa = sa;
    // In the rekey itself.
    let spi = IkeSpi(t.rng.next_u64().to_be_bytes());
    let method = (IKE_PROVIDER.key_exchange)(SUITE.group).unwrap();
    let ours = method.initiate(&mut t.rng);
    let nonce = t.nonce(32);
    let payloads = vec![
        with_spi(ike_offer(SUITE), &spi.0),
        nonce.clone(),
        ke(SUITE.group.method(), ours.public()),
        notify(NotifyType::TICKET_REQUEST),
    ];
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    let (_, third) = granted(&answer).unwrap();
    let secret = ours.finish(&ke_of(&answer.payloads).unwrap().1).unwrap();
    let spi_r = IkeSpi(spi_of(&answer.payloads).try_into().unwrap());
    let (ni, nr) = (nonce_of(&payloads), nonce_of(&answer.payloads));
    let binding = Binding {
        ni: &ni,
        nr: &nr,
        spi_i: spi,
        spi_r,
    };
    let before = t.sa.keys.as_ref().unwrap();
    let new = before
        .rekey(&IKE_PROVIDER, SUITE, &Secrets::of(Some(secret)), &binding)
        .unwrap();
    refused(&mut t, &second);
    assert_ne!(new.d.expose(), old.expose());
    resumed(&mut t, &third, &new.d);
}

/// Who does not grant any says so; the end that began the SA grants none, since it is the client.
#[test]
fn tickets_are_refused_where_there_are_none() {
    let request = [notify(NotifyType::TICKET_REQUEST)];
    let mut t = Tester::up(side_b());
    let answer = t.request(ExchangeType::INFORMATIONAL, &request).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::TICKET_NACK]);
    let mut t = Tester::up_as_responder(with(side_a()));
    let answer = t.request(ExchangeType::INFORMATIONAL, &request).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::TICKET_NACK]);
    // Nobody asks: no ticket.
    let mut t = Tester::new(with(side_b()));
    let payloads = t.init_payloads();
    t.init(&payloads);
    let payloads = t.auth_payloads();
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(granted(&answer).is_none());
}

// With T as responder.

/// T has granted a ticket, and is silent then; the DUT presents it.
fn presented(answer: impl FnOnce(&mut Tester) -> Payload) -> (Tester, Secret, Message) {
    let mut a = with(side_a());
    a.dpd_delay = Some(Duration::from_secs(10));
    let (mut t, asked) = Tester::until_auth(a);
    assert!(asked.has(NotifyType::TICKET_REQUEST));
    let mut payloads = t.auth_answer();
    payloads.push(answer(&mut t));
    t.respond(&asked.header, &payloads);
    assert!(t.is_up());
    let old = sk_d(&t);
    while t.is_up() {
        t.tick();
    }
    t.out.clear();
    let asked = t.provoke();
    (t, old, asked)
}

fn ticket(_: &mut Tester) -> Payload {
    notify_with(NotifyType::TICKET_LT_OPAQUE, b"\x00\x00\x0e\x10an opaque string")
}

/// T's answer to IKE_SESSION_RESUME.
fn answer_resume(t: &mut Tester, payloads: &[Payload]) {
    let header = t.sa.header(RESUME, true, 0);
    let datagram = encode_plain(&header, payloads);
    t.sa.response.clone_from(&datagram);
    t.send(&datagram);
}

#[test]
fn the_formulas_as_initiator() {
    let (mut t, old, asked) = presented(ticket);
    assert_eq!((asked.header.exchange, asked.header.message_id), (RESUME, 0));
    assert_eq!(asked.header.spi_r, IkeSpi::ZERO);
    assert_eq!(
        asked.notify(NotifyType::TICKET_OPAQUE).unwrap().data,
        b"an opaque string"
    );
    let is = |payload: &Payload| matches!(payload, Payload::Sa(_) | Payload::Ke(_));
    assert!(!asked.payloads.iter().any(is));
    // A cookie comes first, and the rest stays as it was.
    answer_resume(&mut t, &[notify_with(NotifyType::COOKIE, &[9; 20])]);
    let sent = t.out.pop_front().unwrap();
    t.sa.request.clone_from(&sent.octets);
    let again = t.open(&[sent]);
    assert_eq!(again.payloads[0], notify_with(NotifyType::COOKIE, &[9; 20]));
    assert_eq!(again.payloads[1..], asked.payloads[..]);
    let nr = t.nonce(32);
    let (ni, nr_octets) = (nonce_of(&asked.payloads), nonce_of(std::slice::from_ref(&nr)));
    let keys = keys(&t, &old, &ni, &nr_octets);
    (t.sa.ni, t.sa.nr) = (ni, nr_octets);
    t.sa.set_keys(keys, &mut t.rng);
    answer_resume(&mut t, &[nr]);
    let asked = t.next_request().expect("IKE_AUTH");
    assert_eq!(
        (asked.header.exchange, asked.header.message_id),
        (ExchangeType::IKE_AUTH, 1)
    );
    let id_i = id(true, "a.example");
    assert!(asked.payloads.contains(&id_i) && asked.payloads.contains(&id(false, "b.example")));
    assert!(asked.payloads.contains(&auth(&t, true, &id_i)));
    // The client "will typically request a new ticket immediately".
    assert!(asked.has(NotifyType::TICKET_REQUEST));
    for wrong in [true, false] {
        let id_r = id(false, "b.example");
        let mut right = auth(&t, false, &id_r);
        if wrong {
            // By the pre-shared key, as if it were not resumed.
            right = t.auth(PSK, &id_r);
        }
        let mut payloads = vec![id_r, right];
        payloads.extend(t.child_offer(false));
        let mut fork = t.dut.clone();
        if wrong {
            std::mem::swap(&mut fork, &mut t.dut);
        }
        t.respond(&asked.header, &payloads);
        assert_eq!(t.is_up(), !wrong);
        if wrong {
            t.dut = fork;
            t.events.clear();
            t.out.clear();
        }
    }
    assert!(t.status().iter().any(|sa| sa.resumed && sa.stage == "established"));
}

/// TICKET_NACK, an error, a nonce beside the TICKET_NACK: at once a full exchange. What can't be read is not heard.
#[test]
fn refusals_lead_to_a_full_exchange_at_once() {
    for answer in [
        vec![notify(NotifyType::TICKET_NACK)],
        vec![nonce(&[1; 32]), notify(NotifyType::TICKET_NACK)],
        vec![notify(NotifyType::INVALID_SYNTAX)],
        vec![notify(NotifyType::NO_PROPOSAL_CHOSEN)],
    ] {
        let (mut t, _, _) = presented(ticket);
        answer_resume(&mut t, &answer);
        let [sent] = &t.out.drain(..).collect::<Vec<_>>()[..] else {
            panic!("{answer:?}")
        };
        assert_eq!(sent.header().exchange, ExchangeType::IKE_SA_INIT);
        t.sa.request.clone_from(&sent.octets);
        let asked = t.open(std::slice::from_ref(sent));
        let payloads = t.init_answer(&asked);
        t.answer_init(&payloads);
        assert_eq!(t.next_request().unwrap().header.exchange, ExchangeType::IKE_AUTH);
    }
    for nothing in [
        vec![],
        vec![nonce(&[1; 32]), nonce(&[1; 32])],
        vec![notify_with(NotifyType::COOKIE, &[])],
    ] {
        let (mut t, _, _) = presented(ticket);
        answer_resume(&mut t, &nothing);
        assert!(t.out.is_empty(), "{nothing:?}");
    }
    // Cookies without end.
    let (mut t, _, _) = presented(ticket);
    for octet in 0..20 {
        answer_resume(&mut t, &[notify_with(NotifyType::COOKIE, &[octet; 8])]);
    }
    assert!(t.out.len() < 5);
}

/// TICKET_ACK: it asks again in an INFORMATIONAL; a no is a no; what is too long or short-lived is not kept.
#[test]
fn answers_to_a_request_for_a_ticket() {
    for (answer, asks_again) in [
        (notify(NotifyType::TICKET_ACK), true),
        (notify(NotifyType::TICKET_NACK), false),
        (notify_with(NotifyType::TICKET_LT_OPAQUE, &[0, 0, 0, 1, 7]), false),
        (notify_with(NotifyType::TICKET_LT_OPAQUE, &[0, 0, 9, 9]), false),
        (notify_with(NotifyType::TICKET_LT_OPAQUE, &[9; 4000]), false),
        (notify(NotifyType::TICKET_OPAQUE), false),
    ] {
        let (mut t, asked) = Tester::until_auth(with(side_a()));
        let mut payloads = t.auth_answer();
        payloads.push(answer);
        t.respond(&asked.header, &payloads);
        assert!(t.is_up());
        let next = t.next_request();
        assert_eq!(next.is_some(), asks_again);
        if let Some(next) = next {
            assert_eq!(next.notifies(), [NotifyType::TICKET_REQUEST]);
            t.respond(&next.header, &[notify(NotifyType::TICKET_ACK)]);
            assert!(t.next_request().is_none(), "a second \"later\" is a no");
        }
    }
}

/// One IKE SA gets only so many, and the last one alone is kept.
#[test]
fn one_sa_does_not_fill_the_memory() {
    let (mut t, ..) = client();
    let mut ask = || {
        let answer = t.request(ExchangeType::INFORMATIONAL, &[notify(NotifyType::TICKET_REQUEST)]);
        answer.unwrap().notifies()
    };
    for _ in 1..32 {
        assert_eq!(ask(), [NotifyType::TICKET_LT_OPAQUE]);
    }
    assert_eq!(ask(), [NotifyType::TICKET_NACK]);
    assert_eq!(t.dut.load().tickets, 0, "the last one was withdrawn too");
}

/// A plain message of that exchange that nobody asked for changes nothing.
#[test]
fn stray_messages() {
    let (mut t, _, ticket) = client();
    let before = t.state();
    let nonce = t.nonce(32);
    let request = resume_datagram(&mut t, &ticket, None, &nonce);
    let mut with_spi_r = request.clone();
    with_spi_r[8..16].copy_from_slice(&[5; 8]);
    let mut later = request.clone();
    later[23] = 1;
    let response = {
        let flags = Flags {
            initiator: false,
            response: true,
        };
        let header = Header {
            flags,
            ..t.sa.header(RESUME, true, 0)
        };
        encode_plain(&header, std::slice::from_ref(&nonce))
    };
    let without_ticket = {
        let header = Header {
            spi_r: IkeSpi::ZERO,
            ..t.sa.header(RESUME, false, 0)
        };
        encode_plain(&header, &[nonce])
    };
    for datagram in [with_spi_r, later, response, without_ticket] {
        assert!(t.ask(&datagram).is_empty());
        assert_eq!(t.state(), before);
    }
    let _: Arc<Config> = Arc::clone(&t.config);
}
