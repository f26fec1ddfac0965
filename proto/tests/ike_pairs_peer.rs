//! Several Child SA pairs of one child (RFC 9611), with a peer by hand that is not like us: it takes no more, answers with
//! something else, refuses, deletes, or makes its own.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that can't go on fails")]

mod ike_pump;
mod peer;

use ike_pump::{side_a, side_b};
use landbridge_proto::policy::connection::{Child, Connection, StartAction};
use landbridge_proto::policy::sad::{Mode, SadReport};
use landbridge_proto::policy::selector;
use landbridge_proto::wire::{ExchangeType, KeMethod, NotifyType, Payload};
use peer::messages::*;
use peer::{Message, Tester};
use std::sync::Arc;
use std::time::Duration;

const INFO: NotifyType = NotifyType::SA_RESOURCE_INFO;

fn changed(mut connection: Connection, change: impl Fn(&mut Child)) -> Connection {
    let mut child = Child::clone(&connection.children["net"]);
    change(&mut child);
    connection.children.insert("net".into(), Arc::new(child));
    connection
}

fn with(connection: Connection, pairs: u16) -> Connection {
    changed(connection, |child| child.pairs = pairs)
}

/// T as responder answers the DUT's requests for further pairs, up to `most` pairs in all.
fn answer_further(t: &mut Tester, most: usize, change: impl Fn(&mut Vec<Payload>)) -> Vec<Message> {
    let mut asked: Vec<Message> = Vec::new();
    while let Some(message) = t.next_request() {
        // Sent again meanwhile.
        if asked
            .iter()
            .any(|other| other.header.message_id == message.header.message_id)
        {
            continue;
        }
        asked.push(message.clone());
        if message.header.exchange != ExchangeType::CREATE_CHILD_SA {
            t.respond(&message.header, &[]);
            continue;
        }
        if t.pairs() >= most {
            t.refuse(&message.header, NotifyType::TS_MAX_QUEUE);
            continue;
        }
        let answer = t.further_answer(&message);
        let mut payloads = answer;
        change(&mut payloads);
        t.respond(&message.header, &payloads);
    }
    asked
}

trait Further {
    fn further_answer(&mut self, asked: &Message) -> Vec<Payload>;
    fn further_request(&mut self) -> Vec<Payload>;
    fn accept_first(connection: Connection) -> Self;
}

impl Further for Tester {
    fn further_answer(&mut self, asked: &Message) -> Vec<Payload> {
        let (method, data) = ke_of(&asked.payloads).expect("KE");
        let group = landbridge_proto::crypto::Group::from_method(method).unwrap();
        let exchange = (landbridge_proto::crypto::IKE_PROVIDER.key_exchange)(group).unwrap();
        let (public, _) = exchange.respond(&data, &mut self.rng).unwrap();
        let mut payloads = vec![notify(INFO)];
        payloads.extend(self.child_offer(true));
        payloads.insert(2, self.nonce(32));
        payloads.insert(3, ke(method, &public));
        payloads
    }

    fn further_request(&mut self) -> Vec<Payload> {
        let method = (landbridge_proto::crypto::IKE_PROVIDER.key_exchange)(landbridge_proto::crypto::Group::Curve25519);
        let ours = method.unwrap().initiate(&mut self.rng);
        let mut payloads = vec![notify_with(INFO, b"third from the left")];
        payloads.extend(self.child_offer(true));
        payloads.insert(2, self.nonce(32));
        payloads.insert(3, ke(KeMethod::CURVE25519, ours.public()));
        if !self.sa.initiator {
            payloads.truncate(4);
            payloads.extend([tsi(&["10.2.0.0/16"]), tsr(&["10.1.0.0/16"])]);
        }
        payloads
    }

    /// Up with the DUT as initiator; T says SA_RESOURCE_INFO, and the request for a second pair is out.
    fn accept_first(connection: Connection) -> Self {
        let (mut t, asked) = Self::until_auth(connection);
        assert!(asked.has(INFO));
        let mut payloads = t.auth_answer();
        payloads.splice(2..2, [notify(INFO)]);
        t.respond(&asked.header, &payloads);
        t
    }
}

fn updates(t: &Tester) -> usize {
    t.sad.pairs.len()
}

/// RFC 9611 §5.1, §5.2: protocol 0, no SPI, and no data in TS_MAX_QUEUE. As initiator it ends the asking, without an alarm.
#[test]
fn the_peer_takes_no_more() {
    for most in 1..4 {
        let mut t = Tester::accept_first(with(side_a(), 4));
        let asked = answer_further(&mut t, most, |_| {});
        assert_eq!(asked.len(), most.min(3), "{most}");
        for message in &asked {
            let said = message.notify(INFO).expect("SA_RESOURCE_INFO");
            assert_eq!((said.protocol.0, said.spi.len(), said.data.len()), (0, 0, 0));
        }
        assert_eq!((t.pairs(), t.failures()), (most, vec![]));
        t.pass(Duration::from_secs(3600));
        assert!(t.next_request().is_none(), "it is not asked again");
        t.assert_alive();
        // At the next rekey of the first one it is.
        let first = t.sad.pairs.values().find(|pair| pair.resource == 0).unwrap().id;
        t.report(SadReport::SoftLimit(first));
        let asked = answer_further(&mut t, most + 2, |_| {});
        let rekeys = asked.iter().filter(|message| message.has(NotifyType::REKEY_SA)).count();
        let further = asked
            .iter()
            .filter(|message| message.header.exchange == ExchangeType::CREATE_CHILD_SA)
            .count();
        assert_eq!(rekeys, 1);
        assert!(further > rekeys, "{most}");
    }
}

/// As responder: up to double what is wanted, then TS_MAX_QUEUE, never NO_ADDITIONAL_SAS.
#[test]
fn we_take_no_more() {
    let mut t = Tester::new(with(side_b(), 2));
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.splice(2..2, [notify(INFO)]);
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(answer.has(INFO));
    for pairs in 2..=4 {
        let request = t.further_request();
        let answer = t.request(ExchangeType::CREATE_CHILD_SA, &request).unwrap();
        let said = answer.notify(INFO).expect("SA_RESOURCE_INFO");
        assert_eq!((said.protocol.0, said.spi.len(), said.data.len()), (0, 0, 0));
        assert_eq!(t.pairs(), pairs);
    }
    for _ in 0..100 {
        let request = t.further_request();
        let answer = t.request(ExchangeType::CREATE_CHILD_SA, &request).unwrap();
        let [refusal] = answer.all_notifies()[..] else {
            panic!("{answer:?}")
        };
        assert_eq!(refusal.notify_type, NotifyType::TS_MAX_QUEUE);
        assert_eq!((refusal.protocol.0, refusal.spi.len(), refusal.data.len()), (0, 0, 0));
    }
    assert_eq!((t.pairs(), t.dut.spis_in_use(), t.failures()), (4, 4, vec![]));
    // Rekeys go on: "during Child SA rekeying, there might be a large number of additional Child SAs created" (§6).
    let old = t.sad.pairs.values().next().unwrap().outbound.spi;
    let mut request = t.further_request();
    request[0] = notify_esp(NotifyType::REKEY_SA, old);
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &request).unwrap();
    assert!(sa_of(&answer.payloads).is_some(), "{answer:?}");
}

/// Where only one pair is configured the notify means nothing; but the refusal of too many is TS_MAX_QUEUE all the same.
#[test]
fn without_the_extension() {
    let mut t = Tester::new(side_b());
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.splice(2..2, [notify(INFO)]);
    let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(!answer.has(INFO));
    loop {
        let request = t.further_request();
        let answer = t.request(ExchangeType::CREATE_CHILD_SA, &request).unwrap();
        assert!(!answer.has(INFO));
        if sa_of(&answer.payloads).is_none() {
            assert_eq!(answer.notifies(), [NotifyType::TS_MAX_QUEUE]);
            break;
        }
        assert!(t.pairs() < 100);
    }
    assert!(t.sad.pairs.values().all(|pair| pair.resource == 0));
}

/// §3: "MUST be negotiated with identical Child SA properties": what comes back different goes at once, and the first stays.
#[test]
fn what_is_not_alike() {
    let no_change: fn(&mut Vec<Payload>) = |_| {};
    let narrower: fn(&mut Vec<Payload>) = |payloads| {
        payloads.pop();
        payloads.push(tsr(&["10.2.3.0/24"]));
    };
    let without_notify: fn(&mut Vec<Payload>) = |payloads| {
        payloads.remove(0);
    };
    let tunnel: fn(&mut Vec<Payload>) = |payloads| payloads.insert(0, notify(NotifyType::USE_TRANSPORT_MODE));
    for (change, alike, word) in [
        (no_change, true, ""),
        (narrower, false, "selectors"),
        (without_notify, false, "SA_RESOURCE_INFO"),
        (tunnel, false, "USE_TRANSPORT_MODE"),
    ] {
        let mut t = Tester::accept_first(with(side_a(), 2));
        let asked = t.next_request().expect("a second pair");
        let mut answer = t.further_answer(&asked);
        change(&mut answer);
        t.respond(&asked.header, &answer);
        assert_eq!(updates(&t), if alike { 2 } else { 1 }, "{word}");
        if alike {
            continue;
        }
        let failure = t.failures().pop().expect("it is told");
        assert!(failure.contains(word), "{failure}");
        let delete = t.next_request().expect("a Delete");
        assert_eq!(deleted(&delete.payloads).len(), 1);
        t.respond(&delete.header, &[]);
        assert_eq!(t.dut.spis_in_use(), 1);
        t.pass(Duration::from_secs(3600));
        assert!(
            t.next_request().is_none(),
            "it is not asked again until the first is rekeyed"
        );
        t.assert_alive();
        assert_eq!(updates(&t), 1);
    }
}

/// The two gateways themselves: of the DUT, and of T.
const HOSTS: [&str; 2] = ["198.51.100.2/32", "192.0.2.1/32"];

fn in_transport_mode(connection: Connection, pairs: u16) -> Connection {
    let [local, remote] = HOSTS.map(|host| vec![selector::parse(host).unwrap()]);
    changed(with(connection, pairs), |child| {
        child.mode = Mode::Transport;
        (child.local_ts, child.remote_ts) = (local.clone(), remote.clone());
    })
}

/// The same payloads for those two, and for a mode.
fn of_hosts(payloads: Vec<Payload>, [initiator, responder]: [&str; 2], mode: Mode) -> Vec<Payload> {
    let selectors = payloads.into_iter().map(|payload| match payload {
        Payload::TsI(_) => tsi(&[initiator]),
        Payload::TsR(_) => tsr(&[responder]),
        other => other,
    });
    let transport = (mode == Mode::Transport).then(|| notify(NotifyType::USE_TRANSPORT_MODE));
    selectors.chain(transport).collect()
}

/// "This includes cryptographic algorithms, Traffic Selectors, Mode (e.g., transport mode)" (§3): one that differs in its mode and
/// in nothing else goes at once. (What was not asked for is no answer at all: see above.)
#[test]
fn a_further_pair_in_another_mode_goes() {
    let (mut t, asked) = Tester::until_auth(in_transport_mode(side_a(), 3));
    assert!(asked.has(NotifyType::USE_TRANSPORT_MODE));
    let mut payloads = t.auth_answer();
    payloads.splice(2..2, [notify(INFO)]);
    let payloads = of_hosts(payloads, HOSTS, Mode::Transport);
    t.respond(&asked.header, &payloads);
    for (mode, pairs) in [(Mode::Transport, 2), (Mode::Tunnel, 2)] {
        let asked = t.next_request().expect("a further pair");
        assert!(asked.has(NotifyType::USE_TRANSPORT_MODE));
        let payloads = t.further_answer(&asked);
        t.respond(&asked.header, &of_hosts(payloads, HOSTS, mode));
        assert_eq!(t.pairs(), pairs, "{mode:?}: {:?}", t.failures());
    }
    let failure = t.failures().pop().expect("it is told");
    assert!(failure.contains("the mode"), "{failure}");
    let delete = t.next_request().expect("a Delete");
    assert_eq!(deleted(&delete.payloads).len(), 1);
    t.respond(&delete.header, &[]);
    assert!(t.sad.pairs.values().all(|pair| pair.mode == Mode::Transport));
    assert_eq!(t.dut.spis_in_use(), 2);
    t.assert_alive();
}

/// As responder: it is refused, whichever mode the first one is in.
#[test]
fn a_further_pair_in_another_mode_is_refused() {
    let [dut, t] = HOSTS;
    for (first, other) in [(Mode::Transport, Mode::Tunnel), (Mode::Tunnel, Mode::Transport)] {
        let of = |payloads, mode| of_hosts(payloads, [t, dut], mode);
        let mut t = Tester::new(in_transport_mode(side_b(), 2));
        let payloads = t.init_payloads();
        t.init(&payloads);
        let mut payloads = t.auth_payloads();
        payloads.splice(2..2, [notify(INFO)]);
        let answer = t.request(ExchangeType::IKE_AUTH, &of(payloads, first)).unwrap();
        assert_eq!(answer.has(NotifyType::USE_TRANSPORT_MODE), first == Mode::Transport);
        for (mode, alike) in [(other, false), (first, true)] {
            let request = t.further_request();
            let answer = t.request(ExchangeType::CREATE_CHILD_SA, &of(request, mode)).unwrap();
            assert_eq!(answer.has(INFO), alike, "{first:?} {mode:?}: {answer:?}");
            assert_eq!(answer.has(NotifyType::NO_PROPOSAL_CHOSEN), !alike);
        }
        assert!(t.sad.pairs.values().all(|pair| pair.mode == first));
        assert_eq!((t.pairs(), t.dut.spis_in_use()), (2, 2));
    }
}

/// The other properties are those of the first already in the offer.
#[test]
fn the_offer_is_of_the_first() {
    let several = changed(with(side_a(), 2), |child| {
        let words = ["aes128gcm16-x25519", "aes256gcm16-x25519-esn-noesn"];
        child.esp_proposals = words
            .map(|words| landbridge_proto::policy::proposal::EspProposal::parse(words).unwrap())
            .to_vec();
    });
    let mut t = Tester::new(several);
    let asked = t.provoke();
    let payloads = t.init_answer(&asked);
    t.answer_init(&payloads);
    let asked = t.next_request().unwrap();
    assert_eq!(sa_of(&asked.payloads).unwrap().proposals.len(), 2);
    let mut payloads = t.auth_answer();
    payloads.splice(2..2, [notify(INFO)]);
    // T chooses the second of them: aes256gcm16, without ESN.
    for payload in &mut payloads {
        if let Payload::Sa(sa) = payload {
            sa.proposals[0].number = 2;
        }
    }
    t.respond(&asked.header, &payloads);
    assert_eq!(updates(&t), 1, "{:?}", t.failures());
    let asked = t.next_request().expect("a second pair");
    let offer = sa_of(&asked.payloads).unwrap();
    assert_eq!(offer.proposals.len(), 1);
    let mut expected = esp_transforms();
    expected.insert(1, transform(landbridge_proto::wire::TransformType::KE, 31));
    assert_eq!(offer.proposals[0].transforms, expected);
}

/// As responder: a further pair is of the first's algorithms, whatever else we would take.
#[test]
fn a_further_pair_of_other_algorithms_is_refused() {
    let several = changed(with(side_b(), 2), |child| {
        let words = ["aes128gcm16-x25519", "aes256gcm16-x25519"];
        child.esp_proposals = words
            .map(|words| landbridge_proto::policy::proposal::EspProposal::parse(words).unwrap())
            .to_vec();
    });
    let mut t = Tester::new(several);
    let payloads = t.init_payloads();
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.splice(2..2, [notify(INFO)]);
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    let mut request = t.further_request();
    t.esp += 1;
    request[1] = esp_words(t.esp, "aes128gcm16-x25519", true);
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &request).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::NO_PROPOSAL_CHOSEN]);
    assert_eq!((t.pairs(), t.dut.spis_in_use()), (1, 1));
    let request = t.further_request();
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &request).unwrap();
    assert!(answer.has(INFO));
    assert!(t.sad.pairs.values().all(|pair| pair.mode == Mode::Tunnel));
}

/// Other refusals: a busy peer is asked again later, what else there is not before the next rekey; the first never suffers.
#[test]
fn refusals_of_a_further_pair() {
    for (refusal, again) in [
        (NotifyType::TEMPORARY_FAILURE, true),
        (NotifyType::NO_ADDITIONAL_SAS, false),
        (NotifyType::NO_PROPOSAL_CHOSEN, false),
        (NotifyType::TS_UNACCEPTABLE, false),
        (NotifyType::SINGLE_PAIR_REQUIRED, false),
        (NotifyType::CHILD_SA_NOT_FOUND, false),
        (NotifyType::INVALID_KE_PAYLOAD, false),
    ] {
        let mut t = Tester::accept_first(with(side_a(), 2));
        let asked = t.next_request().expect("a second pair");
        t.refuse(&asked.header, refusal);
        assert!(t.next_request().is_none(), "{refusal}: not at once");
        // For longer than a peer may be busy with a request of another kind.
        let mut times = 0;
        for _ in 0..1000 {
            t.pass(Duration::from_secs(1));
            if let Some(asked) = t.next_request() {
                t.refuse(&asked.header, refusal);
                times += 1;
            }
        }
        let expected = if again { 20..35 } else { 0..1 };
        assert!(expected.contains(&times), "{refusal}: {times} times");
        t.assert_alive();
        assert_eq!((t.pairs(), t.dut.spis_in_use()), (1, 1), "{refusal}");
        assert!(t.sad.active.contains_key("net"), "{refusal}: the first one sends");
        let told = t.failures().len();
        let expected = usize::from(!again && refusal != NotifyType::INVALID_KE_PAYLOAD);
        assert_eq!(told, expected, "{refusal}: {:?}", t.failures());
    }
}

/// §6: "bringing the deleted per-CPU Child SA up again immediately after receiving the Delete Notify might cause an infinite
/// loop between the peers." It comes at the next rekey of the first one, whichever that is then.
#[test]
fn the_peer_deletes_one() {
    for gone in [0, 1, 2] {
        let mut t = Tester::accept_first(with(side_a(), 3));
        answer_further(&mut t, 3, |_| {});
        assert_eq!(t.pairs(), 3);
        let pair = t.sad.pairs.values().find(|pair| pair.resource == gone).unwrap();
        let (ours, theirs) = (pair.inbound.spi, pair.outbound.spi);
        let answer = t
            .request(ExchangeType::INFORMATIONAL, &[delete_children(&[theirs])])
            .unwrap();
        assert_eq!(deleted(&answer.payloads), [ours]);
        assert_eq!(t.pairs(), 2);
        t.pass(Duration::from_secs(3600));
        assert!(t.next_request().is_none());
        let status = t.status();
        let mut left: Vec<_> = status[0].children.iter().map(|child| child.pair.unwrap()).collect();
        left.sort_unstable();
        let all = [(1, 3), (2, 3), (3, 3)];
        let expected: Vec<_> = all.into_iter().filter(|(pair, _)| *pair != gone + 1).collect();
        assert_eq!(left, expected);
        // A rekey of another brings nothing, one of the first that is left brings it back.
        let at = |t: &Tester, place: Option<u16>| {
            let mut pairs: Vec<_> = t.sad.pairs.values().map(|pair| (pair.resource, pair.id)).collect();
            pairs.sort_unstable();
            let index = place.map_or(0, |_| pairs.len() - 1);
            pairs[index].1
        };
        let last = at(&t, Some(0));
        t.report(SadReport::SoftLimit(last));
        let asked = answer_further(&mut t, 4, |_| {});
        assert!(asked.iter().all(|message| {
            message.header.exchange != ExchangeType::CREATE_CHILD_SA || message.has(NotifyType::REKEY_SA)
        }));
        t.pass(Duration::from_secs(60));
        let first = at(&t, None);
        t.report(SadReport::SoftLimit(first));
        answer_further(&mut t, 9, |_| {});
        t.pass(Duration::from_secs(60));
        let mut places: Vec<_> = t.sad.pairs.values().map(|pair| pair.resource).collect();
        places.sort_unstable();
        assert_eq!(places, [0, 1, 2], "{gone} is back");
    }
}

/// When the last one is gone the child is: then `close_action` says what comes.
#[test]
fn the_peer_deletes_all() {
    for action in [StartAction::Start, StartAction::None] {
        let closing = changed(with(side_a(), 2), |child| child.close_action = action);
        let mut t = Tester::accept_first(closing);
        answer_further(&mut t, 2, |_| {});
        let spis: Vec<u32> = t.sad.pairs.values().map(|pair| pair.outbound.spi).collect();
        let answer = t
            .request(ExchangeType::INFORMATIONAL, &[delete_children(&spis)])
            .unwrap();
        assert_eq!(deleted(&answer.payloads).len(), 2);
        assert_eq!(t.pairs(), 0);
        t.pass(Duration::from_secs(5));
        let asked = answer_further(&mut t, 2, |_| {});
        let expected = if action == StartAction::Start { 2 } else { 0 };
        assert_eq!((asked.len(), t.pairs()), (expected, expected), "{action:?}");
    }
}

/// A peer that makes its pairs as it needs them does so while we do: both kinds count, each goes in the place that is used
/// least, and none is taken for one that crosses another.
#[test]
fn both_make_further_ones() {
    let mut t = Tester::accept_first(with(side_a(), 4));
    let asked = t.next_request().expect("a second pair");
    let request = t.further_request();
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &request).unwrap();
    assert!(answer.has(INFO), "{answer:?} {:?}", t.failures());
    let payloads = t.further_answer(&asked);
    t.respond(&asked.header, &payloads);
    answer_further(&mut t, 8, |_| {});
    let mut places: Vec<_> = t.sad.pairs.values().map(|pair| pair.resource).collect();
    places.sort_unstable();
    assert_eq!(places, [0, 1, 2, 3]);
    for _ in 0..4 {
        let request = t.further_request();
        t.request(ExchangeType::CREATE_CHILD_SA, &request).unwrap();
    }
    let mut places: Vec<_> = t.sad.pairs.values().map(|pair| pair.resource).collect();
    places.sort_unstable();
    assert_eq!(places, [0, 0, 1, 1, 2, 2, 3, 3]);
    let request = t.further_request();
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &request).unwrap();
    assert_eq!(answer.notifies(), [NotifyType::TS_MAX_QUEUE]);
    assert_eq!(t.failures(), Vec::<String>::new());
}
