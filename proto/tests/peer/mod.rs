//! T, the tester: a peer that speaks IKE by hand. It makes every message out of payloads itself, so it can send what no
//! honest peer sends, in any stage, as initiator and as responder, to one endpoint under test (the DUT).
//!
//! T shares with the DUT the codec and the ciphers, which the vectors hold; AUTH and all decisions are its own.
#![allow(dead_code, reason = "each test file uses what it needs")]

pub mod messages;
pub mod seal;

use crate::ike_pump::{SITE, Sad};
use landbridge_proto::crypto::{
    CipherSuite, Encryption, Group, IKE_PROVIDER, KeyExchangeInitiator, PrfAlgorithm, Secret,
};
use landbridge_proto::ike::keys::{Binding, IkeKeys, Secrets};
use landbridge_proto::ike::seal::MessageProtection;
use landbridge_proto::ike::{Command, Counters, Endpoint, Event, IkeSaStatus};
use landbridge_proto::policy::connection::{Config, Connection, Gateway, Target};
use landbridge_proto::policy::proposal::{AdditionalGroups, IkeSuite};
use landbridge_proto::policy::sad::{Path, SadReport};
use landbridge_proto::time::{Instant, Now};
use landbridge_proto::wire::{
    ExchangeType, Flags, Header, IkeSpi, KeMethod, Notify, NotifyType, OuterBody, Payload, PayloadType, decode_outer,
    decode_payloads, encode_payloads, encode_plain,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// What `ike_pump::side_a` and `side_b` share.
pub const PSK: &[u8] = b"a secret of both";

/// The DUT's address and T's.
pub const DUT: &str = "198.51.100.2:500";
pub const T: &str = "192.0.2.1:500";

/// The suite of `ike_pump`'s connections.
pub const SUITE: IkeSuite = IkeSuite {
    additional: AdditionalGroups([None; 7]),
    cipher: CipherSuite {
        encryption: Encryption::AesGcm16_256,
        integrity: None,
    },
    prf: PrfAlgorithm::HmacSha256,
    group: Group::Curve25519,
};

/// A datagram of the DUT.
#[derive(Clone, Debug)]
pub struct Sent {
    pub path: Path,
    pub octets: Vec<u8>,
}

impl Sent {
    pub fn header(&self) -> Header {
        decode_outer(&self.octets)
            .expect("the DUT sends what can be read")
            .header
    }
}

/// A message of the DUT, opened.
#[derive(Clone, Debug)]
pub struct Message {
    pub header: Header,
    pub payloads: Vec<Payload>,
}

impl Message {
    /// The types of its notifies.
    pub fn notifies(&self) -> Vec<NotifyType> {
        self.all_notifies().iter().map(|notify| notify.notify_type).collect()
    }

    pub fn all_notifies(&self) -> Vec<&Notify> {
        let notifies = self.payloads.iter().filter_map(|payload| match payload {
            Payload::Notify(notify) => Some(notify),
            _ => None,
        });
        notifies.collect()
    }

    pub fn notify(&self, wanted: NotifyType) -> Option<&Notify> {
        self.all_notifies()
            .into_iter()
            .find(|notify| notify.notify_type == wanted)
    }

    pub fn has(&self, wanted: NotifyType) -> bool {
        self.notify(wanted).is_some()
    }
}

/// An IKE SA as T sees it.
pub struct Sa {
    pub spi_i: IkeSpi,
    pub spi_r: IkeSpi,
    /// T is its original initiator.
    pub initiator: bool,
    pub suite: IkeSuite,
    pub keys: Option<IkeKeys>,
    pub protection: Option<MessageProtection>,
    /// The message ID of T's next request.
    pub next: u32,
    pub request: Vec<u8>,
    pub response: Vec<u8>,
    pub ni: Vec<u8>,
    pub nr: Vec<u8>,
}

impl Sa {
    pub fn new(spi_i: IkeSpi, spi_r: IkeSpi, initiator: bool) -> Self {
        Self {
            spi_i,
            spi_r,
            initiator,
            suite: SUITE,
            keys: None,
            protection: None,
            next: if initiator { 1 } else { 0 },
            request: vec![],
            response: vec![],
            ni: vec![],
            nr: vec![],
        }
    }

    pub fn set_keys(&mut self, keys: IkeKeys, rng: &mut ChaCha20Rng) {
        self.protection = MessageProtection::new(&IKE_PROVIDER, &keys, self.initiator, rng);
        self.keys = Some(keys);
    }

    /// The header of a message of T.
    pub fn header(&self, exchange: ExchangeType, response: bool, message_id: u32) -> Header {
        Header {
            spi_i: self.spi_i,
            spi_r: self.spi_r,
            exchange,
            flags: Flags {
                initiator: self.initiator,
                response,
            },
            message_id,
        }
    }
}

/// T with its DUT.
pub struct Tester {
    pub dut: Endpoint,
    pub config: Arc<Config>,
    pub now: Instant,
    /// The wall clock, which stands.
    pub unix: u64,
    pub events: Vec<Event>,
    pub sad: Sad,
    pub out: VecDeque<Sent>,
    /// Keepalives of the DUT.
    pub keepalives: usize,
    /// As the DUT sees it.
    pub path: Path,
    pub sa: Sa,
    /// T's half of the key exchange under way.
    pub ours: Option<Box<dyn KeyExchangeInitiator>>,
    pub rng: ChaCha20Rng,
    /// T's next inbound ESP SPI.
    pub esp: u32,
    /// Messages are cut to this size.
    pub fragment: Option<usize>,
}

impl Tester {
    pub fn new(connection: Connection) -> Self {
        Self::with(connection, Gateway::default())
    }

    pub fn with(connection: Connection, gateway: Gateway) -> Self {
        Self::with_all(vec![connection], gateway)
    }

    pub fn with_all(connections: Vec<Connection>, gateway: Gateway) -> Self {
        let connections = connections
            .into_iter()
            .map(|connection| (Arc::clone(&connection.name), Arc::new(connection)));
        let config = Arc::new(Config {
            connections: connections.collect(),
            gateway,
        });
        let now = Instant::from_nanos(1_000_000_000);
        let at = Now { instant: now, unix: 0 };
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let sa = Sa::new(IkeSpi(rng.next_u64().to_be_bytes()), IkeSpi::ZERO, true);
        Self {
            dut: Endpoint::new(at, [3; 32], Arc::clone(&config)),
            config,
            now,
            unix: 0,
            events: vec![],
            sad: Sad::default(),
            out: VecDeque::new(),
            keepalives: 0,
            path: Path::udp(DUT.parse().unwrap(), T.parse().unwrap()),
            sa,
            ours: None,
            rng,
            esp: 0x1000_0000,
            fragment: None,
        }
    }

    pub fn at(&self) -> Now {
        Now {
            instant: self.now,
            unix: self.unix,
        }
    }

    /// Takes what the DUT has to say.
    pub fn drain(&mut self) {
        while let Some(event) = self.dut.poll_event() {
            if let Event::Sad(update) = &event {
                self.sad.apply(update);
            }
            self.events.push(event);
        }
        let mut octets = Vec::new();
        while let Some(transmit) = self.dut.poll_transmit(&mut octets) {
            if transmit.keepalive {
                self.keepalives += 1;
                continue;
            }
            self.out.push_back(Sent {
                path: transmit.path,
                octets: octets.clone(),
            });
        }
    }

    /// Any octets, from T's address.
    pub fn send(&mut self, datagram: &[u8]) {
        self.send_from(self.path, datagram);
    }

    pub fn send_from(&mut self, path: Path, datagram: &[u8]) {
        let now = self.at();
        self.dut.handle_datagram(now, path, datagram);
        self.drain();
    }

    /// Sends octets and returns what the DUT sends on that, and nothing else.
    pub fn ask(&mut self, datagram: &[u8]) -> Vec<Sent> {
        self.out.clear();
        self.send(datagram);
        self.out.drain(..).collect()
    }

    pub fn command(&mut self, command: Command) {
        let now = self.at();
        self.dut.handle_command(now, command).unwrap();
        self.drain();
    }

    pub fn report(&mut self, report: SadReport) {
        let now = self.at();
        self.dut.handle_report(now, report);
        self.drain();
    }

    /// Time passes, timers fire.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        for _ in 0..10_000 {
            match self.dut.poll_timeout() {
                Some((at, _)) if at <= end => {
                    self.now = self.now.max(at);
                    let now = self.at();
                    self.dut.handle_timeout(now);
                    self.drain();
                }
                _ => {
                    self.now = end;
                    return;
                }
            }
        }
        panic!("the DUT's timers never end");
    }

    /// The next timer fires.
    pub fn tick(&mut self) {
        let (at, _) = self.dut.poll_timeout().expect("a timer");
        self.now = self.now.max(at);
        let now = self.at();
        self.dut.handle_timeout(now);
        self.drain();
    }

    // What can be seen of the DUT.

    pub fn status(&self) -> Vec<IkeSaStatus> {
        self.dut.status()
    }

    /// All that the outside can see of its state.
    pub fn state(&self) -> (Vec<IkeSaStatus>, usize, usize) {
        (self.dut.status(), self.sad.changes, self.dut.spis_in_use())
    }

    pub fn counters(&self) -> Counters {
        self.dut.counters()
    }

    pub fn is_up(&self) -> bool {
        self.stage() == Some("established")
    }

    /// The stage of the SA that T speaks by.
    pub fn stage(&self) -> Option<&'static str> {
        let (i, r) = (self.sa.spi_i, self.sa.spi_r);
        let ours = |sa: &IkeSaStatus| sa.spi_i == i && (sa.spi_r == r || sa.spi_r == IkeSpi::ZERO);
        self.dut.status().into_iter().find(ours).map(|sa| sa.stage)
    }

    /// Child SA pairs of the DUT.
    pub fn pairs(&self) -> usize {
        self.sad.pairs.len()
    }

    pub fn failures(&self) -> Vec<String> {
        let failures = self.events.iter().filter_map(|event| match event {
            Event::Failed(failure) => Some(failure.verdict.clone()),
            _ => None,
        });
        failures.collect()
    }

    /// Holds that it is still alive: an empty request is answered, empty.
    pub fn assert_alive(&mut self) {
        let answer = self.request(ExchangeType::INFORMATIONAL, &[]).expect("it answers");
        assert_eq!(answer.payloads, vec![]);
    }

    // Messages under the keys.

    /// Seals a message of T's.
    pub fn seal(&mut self, header: &Header, payloads: &[Payload]) -> Vec<Vec<u8>> {
        let (first, chain) = encode_payloads(payloads);
        self.seal_chain(header, first, &chain)
    }

    pub fn seal_chain(&mut self, header: &Header, first: PayloadType, chain: &[u8]) -> Vec<Vec<u8>> {
        let protection = self.sa.protection.as_mut().expect("keys");
        protection.seal(header, first, chain, self.fragment, &mut self.rng)
    }

    /// Opens a message of the DUT's (of several datagrams, if it is fragmented).
    pub fn open(&self, sent: &[Sent]) -> Message {
        let header = sent[0].header();
        let (mut first, mut chain) = (PayloadType::NONE, Vec::new());
        for (index, one) in sent.iter().enumerate() {
            let outer = decode_outer(&one.octets).unwrap();
            if let OuterBody::Plain { first, payloads } = outer.body {
                let payloads = decode_payloads(first, payloads).unwrap();
                return Message { header, payloads };
            }
            let body = self
                .sa
                .protection
                .as_ref()
                .expect("keys")
                .open(&outer)
                .expect("T's keys open it");
            if index == 0 {
                first = body.first;
            }
            chain.extend(body.payloads);
        }
        let payloads = decode_payloads(first, &chain).unwrap();
        Message { header, payloads }
    }

    /// T's next request, and the DUT's answer to it. What the DUT sends besides stays in `out`.
    pub fn request(&mut self, exchange: ExchangeType, payloads: &[Payload]) -> Option<Message> {
        let (first, chain) = encode_payloads(payloads);
        self.request_chain(exchange, first, &chain)
    }

    pub fn request_chain(&mut self, exchange: ExchangeType, first: PayloadType, chain: &[u8]) -> Option<Message> {
        let header = self.sa.header(exchange, false, self.sa.next);
        let datagrams = self.seal_chain(&header, first, chain);
        let before = self.out.len();
        datagrams.iter().for_each(|datagram| self.send(datagram));
        let answers = |sent: &Sent| {
            let h = sent.header();
            h.flags.response && h.message_id == header.message_id && h.spi_i == header.spi_i
        };
        let mut mine: Vec<Sent> = Vec::new();
        let mut rest = VecDeque::new();
        for (index, sent) in std::mem::take(&mut self.out).into_iter().enumerate() {
            if index >= before && answers(&sent) {
                mine.push(sent);
            } else {
                rest.push_back(sent);
            }
        }
        self.out = rest;
        if mine.is_empty() {
            return None;
        }
        self.sa.next += 1;
        Some(self.open(&mine))
    }

    /// The DUT's next request, opened.
    pub fn next_request(&mut self) -> Option<Message> {
        let at = self.out.iter().position(|sent| !sent.header().flags.response)?;
        let sent = self.out.remove(at)?;
        Some(self.open(&[sent]))
    }

    /// Answers a request of the DUT.
    pub fn respond(&mut self, to: &Header, payloads: &[Payload]) {
        let header = self.sa.header(to.exchange, true, to.message_id);
        let datagrams = self.seal(&header, payloads);
        datagrams.iter().for_each(|datagram| self.send(datagram));
    }

    /// Answers a request of the DUT with a notify alone.
    pub fn refuse(&mut self, to: &Header, notify_type: NotifyType) {
        self.respond(to, &[messages::notify(notify_type)]);
    }

    // The way up, step by step.

    /// T's IKE_SA_INIT request of these payloads.
    pub fn init_datagram(&self, payloads: &[Payload]) -> Vec<u8> {
        let header = Header {
            spi_r: IkeSpi::ZERO,
            ..self.sa.header(ExchangeType::IKE_SA_INIT, false, 0)
        };
        encode_plain(&header, payloads)
    }

    /// T's usual IKE_SA_INIT payloads, with a fresh key.
    pub fn init_payloads(&mut self) -> Vec<Payload> {
        let method = (IKE_PROVIDER.key_exchange)(self.sa.suite.group).unwrap();
        let ours = method.initiate(&mut self.rng);
        let ke = messages::ke(self.sa.suite.group.method(), ours.public());
        self.ours = Some(ours);
        let nonce = self.nonce(32);
        vec![messages::ike_offer(self.sa.suite), ke, nonce]
    }

    pub fn nonce(&mut self, len: usize) -> Payload {
        let mut octets = vec![0; len];
        self.rng.fill_bytes(&mut octets);
        messages::nonce(&octets)
    }

    /// Sends an IKE_SA_INIT request, takes the answer over, and has keys.
    pub fn init(&mut self, payloads: &[Payload]) -> Message {
        let datagram = self.init_datagram(payloads);
        self.init_with(&datagram)
    }

    pub fn init_with(&mut self, datagram: &[u8]) -> Message {
        let [sent] = &self.ask(datagram)[..] else {
            panic!("no answer to IKE_SA_INIT: {:?}", self.counters())
        };
        let answer = self.open(std::slice::from_ref(sent));
        self.sa.request = datagram.to_vec();
        self.sa.response.clone_from(&sent.octets);
        if let Some((_, data)) = messages::ke_of(&answer.payloads) {
            let outer = decode_outer(datagram).unwrap();
            let OuterBody::Plain { first, payloads } = outer.body else {
                panic!("it is plain")
            };
            let asked = decode_payloads(first, payloads).unwrap();
            let secret = self.ours.as_ref().unwrap().finish(&data).unwrap();
            self.sa.spi_r = answer.header.spi_r;
            self.derive(
                &secret,
                &messages::nonce_of(&asked),
                &messages::nonce_of(&answer.payloads),
            );
        }
        answer
    }

    pub fn derive(&mut self, secret: &Secret, ni: &[u8], nr: &[u8]) {
        (self.sa.ni, self.sa.nr) = (ni.to_vec(), nr.to_vec());
        let binding = Binding {
            ni,
            nr,
            spi_i: self.sa.spi_i,
            spi_r: self.sa.spi_r,
        };
        let keys = IkeKeys::derive(&IKE_PROVIDER, self.sa.suite, secret, &binding).unwrap();
        self.sa.set_keys(keys, &mut self.rng);
    }

    /// T's AUTH with a pre-shared key (RFC 7296 §2.15), made by hand.
    pub fn auth(&self, psk: &[u8], id: &Payload) -> Payload {
        let prf = (IKE_PROVIDER.prf)(self.sa.suite.prf).unwrap();
        let keys = self.sa.keys.as_ref().unwrap();
        let (message, nonce, key) = if self.sa.initiator {
            (&self.sa.request, &self.sa.nr, &keys.pi)
        } else {
            (&self.sa.response, &self.sa.ni, &keys.pr)
        };
        let maced = prf.prf(key.expose(), &[&messages::id_body(id)]);
        let pad = prf.prf(psk, &[b"Key Pad for IKEv2"]);
        let mic = prf.prf(pad.expose(), &[message, nonce, maced.expose()]);
        messages::psk_auth(mic.expose())
    }

    /// The usual payloads of T's IKE_AUTH.
    pub fn auth_payloads(&mut self) -> Vec<Payload> {
        let id = messages::id(self.sa.initiator, "a.example");
        let auth = self.auth(PSK, &id);
        let mut payloads = vec![id, auth];
        payloads.extend(self.child_offer(false));
        payloads
    }

    /// SA, TSi, TSr of an offer (or, as responder, an answer) that fits `ike_pump::side_b` (or `side_a`).
    pub fn child_offer(&mut self, pfs: bool) -> Vec<Payload> {
        self.esp += 1;
        messages::child(
            self.esp,
            pfs.then_some(KeMethod::CURVE25519),
            "10.1.0.0/16",
            "10.2.0.0/16",
        )
    }

    /// Up with T as initiator, towards `ike_pump::side_b` or something like it.
    pub fn up(connection: Connection) -> Self {
        let mut t = Self::new(connection);
        t.begin();
        t
    }

    pub fn begin(&mut self) {
        let payloads = self.init_payloads();
        self.init(&payloads);
        let payloads = self.auth_payloads();
        let answer = self
            .request(ExchangeType::IKE_AUTH, &payloads)
            .expect("an answer to IKE_AUTH");
        assert!(self.is_up(), "{:?}: {:?}", answer.payloads, self.failures());
    }

    /// The DUT (`ike_pump::side_a` or something like it) begins; its first request is returned.
    pub fn provoke(&mut self) -> Message {
        let target = Target {
            local: self.path.local,
            remote: self.path.remote,
        };
        self.command(Command::Up {
            connection: SITE.into(),
            child: None,
            target,
        });
        let sent = self.out.pop_front().expect("it begins");
        let suite = self.sa.suite;
        self.sa = Sa::new(sent.header().spi_i, IkeSpi(self.rng.next_u64().to_be_bytes()), false);
        self.sa.suite = suite;
        self.sa.request.clone_from(&sent.octets);
        self.open(&[sent])
    }

    /// T's usual answer to the DUT's IKE_SA_INIT; with keys derived. It is not sent.
    pub fn init_answer(&mut self, asked: &Message) -> Vec<Payload> {
        let (method, data) = messages::ke_of(&asked.payloads).expect("KE");
        assert_eq!(method, self.sa.suite.group.method());
        let exchange = (IKE_PROVIDER.key_exchange)(self.sa.suite.group).unwrap();
        let (public, secret) = exchange.respond(&data, &mut self.rng).unwrap();
        let nonce = self.nonce(32);
        let payloads = vec![messages::ike_offer(self.sa.suite), messages::ke(method, &public), nonce];
        self.derive(
            &secret,
            &messages::nonce_of(&asked.payloads),
            &messages::nonce_of(&payloads),
        );
        payloads
    }

    /// Sends an unprotected answer to the DUT's IKE_SA_INIT.
    pub fn answer_init(&mut self, payloads: &[Payload]) {
        let header = self.sa.header(ExchangeType::IKE_SA_INIT, true, 0);
        let datagram = encode_plain(&header, payloads);
        self.sa.response.clone_from(&datagram);
        self.send(&datagram);
    }

    /// The DUT's IKE_AUTH request is out.
    pub fn until_auth(connection: Connection) -> (Self, Message) {
        let mut t = Self::new(connection);
        let asked = t.provoke();
        let payloads = t.init_answer(&asked);
        t.answer_init(&payloads);
        let asked = t.next_request().expect("IKE_AUTH");
        (t, asked)
    }

    /// The usual payloads of T's answer to IKE_AUTH.
    pub fn auth_answer(&mut self) -> Vec<Payload> {
        let id = messages::id(false, "b.example");
        let auth = self.auth(PSK, &id);
        let mut payloads = vec![id, auth];
        payloads.extend(self.child_offer(false));
        payloads
    }

    /// Up with the DUT as initiator.
    pub fn up_as_responder(connection: Connection) -> Self {
        let (mut t, asked) = Self::until_auth(connection);
        let payloads = t.auth_answer();
        t.respond(&asked.header, &payloads);
        assert!(t.is_up(), "{:?}", t.failures());
        t
    }

    /// T rekeys the IKE SA; `sa` is the new one afterwards, and the old one is returned.
    pub fn rekey_ike(&mut self) -> Sa {
        let spi = IkeSpi(self.rng.next_u64().to_be_bytes());
        let method = (IKE_PROVIDER.key_exchange)(self.sa.suite.group).unwrap();
        let ours = method.initiate(&mut self.rng);
        let nonce = self.nonce(32);
        let payloads = vec![
            messages::with_spi(messages::ike_offer(self.sa.suite), &spi.0),
            nonce,
            messages::ke(self.sa.suite.group.method(), ours.public()),
        ];
        let answer = self
            .request(ExchangeType::CREATE_CHILD_SA, &payloads)
            .expect("an answer");
        let (_, data) = messages::ke_of(&answer.payloads).expect("KE");
        let secret = ours.finish(&data).unwrap();
        let spi_r = IkeSpi(messages::spi_of(&answer.payloads).try_into().unwrap());
        let (ni, nr) = (messages::nonce_of(&payloads), messages::nonce_of(&answer.payloads));
        let binding = Binding {
            ni: &ni,
            nr: &nr,
            spi_i: spi,
            spi_r,
        };
        let keys = self
            .sa
            .keys
            .as_ref()
            .unwrap()
            .rekey(&IKE_PROVIDER, SUITE, &Secrets::of(Some(secret.clone())), &binding)
            .unwrap();
        let mut new = Sa::new(spi, spi_r, true);
        (new.next, new.suite) = (0, self.sa.suite);
        new.set_keys(keys, &mut self.rng);
        std::mem::replace(&mut self.sa, new)
    }

    pub fn address(&self, text: &str) -> SocketAddr {
        text.parse().unwrap()
    }
}
