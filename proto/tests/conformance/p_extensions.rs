//! Group P: post-quantum key exchange and other extensions.

use crate::ike_pump::{SITE, side_a, side_b};
use crate::peer::messages::*;
use crate::peer::{Message, PSK, Tester};
use crate::table::Level::{Must, Should};
use crate::table::{Row, here, out, row, there};
use landbridge_proto::crypto::{Group, IKE_PROVIDER, KeyExchangeInitiator, PrfAlgorithm};
use landbridge_proto::ike::Command;
use landbridge_proto::ike::keys::{Binding, Secrets};
use landbridge_proto::policy::connection::Connection;
use landbridge_proto::policy::proposal::{EspProposal, IkeProposal};
use landbridge_proto::wire::{ExchangeType, Header, NotifyType, Payload, encode_payloads};
use std::sync::Arc;
use std::time::Duration;

const INTERMEDIATE: &str = "proto/tests/ike_intermediate.rs";
const LIFETIME: &str = "proto/tests/ike_auth_lifetime.rs";
const METHODS: &str = "proto/tests/ike_methods.rs";
const QCD: &str = "proto/tests/ike_qcd.rs";
const STREAM: &str = "proto/src/esp/stream.rs";
const TCP: &str = "proto/tests/ike_tcp.rs";
const TLS: &str = "src/tls/tests.rs";
const RESUME: &str = "proto/tests/ike_resume.rs";
const RESUME_WIRE: &str = "proto/tests/ike_resume_wire.rs";
const REDIRECT_AT_SETUP: &str = "proto/tests/ike_redirect/at_setup.rs";
const REDIRECT_BY_ORDER: &str = "proto/tests/ike_redirect/by_order.rs";
const REDIRECT_WIRE: &str = "proto/tests/ike_redirect/wire.rs";
const MLKEM: &str = "proto/src/crypto/kex/mlkem.rs";

pub fn rows() -> Vec<Row> {
    vec![
        row(
            ("P1", "RFC 9242 §3.3.2", Must),
            "AUTH covers every IKE_INTERMEDIATE message, also one that came in fragments",
            "The essence of this modification is that a new chunk called \"IntAuth\" is appended to the string of octets that is signed \
             (or MACed) by the peers.",
            here!(auth_covers_ike_intermediate),
            here!(auth_without_it_is_refused),
        ),
        row(
            ("P2", "RFC 9370 §2.2.2", Must),
            "additional key exchanges in the order of their types, none twice, and new keys after each",
            "Both the initiator and the responder use these updated key values in the next exchange (IKE_INTERMEDIATE or \
             IKE_AUTH).",
            there(INTERMEDIATE, "seven_of_them_and_mlkem_alone"),
            there(INTERMEDIATE, "no_method_comes_twice"),
        ),
        row(
            ("P3", "RFC 9370 §2.2.4", Must),
            "IKE_FOLLOWUP_KE: linked, all secrets in the keys at the end, STATE_NOT_FOUND for what is not known",
            "If the responder receives an IKE_FOLLOWUP_KE message for which it does not have a key exchange state, it MUST send \
             back a new error type notification called \"STATE_NOT_FOUND\".",
            here!(all_secrets_are_in_the_keys_at_the_end),
            here!(what_is_not_known_is_not_found),
        ),
        row(
            ("P4", "RFC 9370 §2.2.2", Must),
            "ML-KEM: sizes and FIPS 203's checks of what came in, a fresh key pair each time",
            "The former \"Diffie-Hellman Group Num\" (now called \"Key Exchange Method\") field in the KEi(n) and KEr(n) payloads \
             MUST match the n-th negotiated additional key exchange.",
            there(MLKEM, "both_have_the_same_secret"),
            there(MLKEM, "what_fips_203_forbids_is_refused"),
        ),
        row(
            ("P5", "RFC 8784 §3", Must),
            "post-quantum preshared keys",
            "If the initiator is configured to use a PPK with the responder (whether or not the use of the PPK is mandatory), then \
             it MUST include a notification USE_PPK in the IKE_SA_INIT request message",
            there("proto/tests/ike_ppk.rs", "the_formulas"),
            there("proto/tests/ike_ppk.rs", "what_a_responder_refuses"),
        ),
        row(
            ("P6", "RFC 6023 §3", Must),
            "childless initiation",
            "The initiator MUST NOT send the modified",
            there("proto/tests/ike_childless.rs", "nothing_is_asked_for_that_nobody_wants"),
            there(
                "proto/tests/ike_childless.rs",
                "a_responder_that_does_not_announce_it_is_asked_for_a_child",
            ),
        ),
        row(
            ("P7", "RFC 7296 §3.10.1", Must),
            "what announces other extensions is passed over",
            "Notify payloads with status types MAY be added to any message and MUST be ignored if not recognized.",
            here!(what_is_not_known_is_passed_over),
            out("RFC 6311 is not there yet"),
        ),
        row(
            ("P8", "RFC 9593 §3", Must),
            "SUPPORTED_AUTH_METHODS: announced, also in IKE_INTERMEDIATE, and minded where there is a choice",
            "Implementations MUST ignore announcements whose semantics they don't understand.",
            there(METHODS, "a_key_is_chosen_by_what_is_announced"),
            there(METHODS, "what_is_wrong_or_not_known_changes_nothing"),
        ),
        row(
            ("P9", "RFC 9611 §3, §6", Must),
            "further pairs of a child: like the first one, and of too many TS_MAX_QUEUE",
            "MUST be negotiated with identical Child SA properties that were negotiated for the initial Child SA. ... MUST NOT \
             return the NO_ADDITIONAL_SAS error ... Instead, it MUST return TS_MAX_QUEUE.",
            there("proto/tests/ike_pairs_peer.rs", "the_offer_is_of_the_first"),
            there("proto/tests/ike_pairs_peer.rs", "we_take_no_more"),
        ),
        row(
            ("P10", "RFC 7296 §3.10.1", Must),
            "IKE_SA_INIT_FULL_TRANSCRIPT_AUTH is passed over",
            "Notify payloads with status types MAY be added to any message and MUST be ignored if not recognized.",
            here!(what_is_not_known_is_passed_over),
            out("nothing more to try: it is one of those"),
        ),
        row(
            ("P11", "RFC 9329 §4", Must),
            "TCP encapsulation: the prefix, once, and nothing without it",
            "Each stream of bytes used for IKE and IPsec encapsulation MUST begin with a fixed sequence of 6 bytes as a magic value",
            there(STREAM, "messages_come_out_however_the_stream_is_cut"),
            there(STREAM, "what_is_no_such_stream_is_known_by_its_first_wrong_octet"),
        ),
        row(
            ("P12", "RFC 6290 §4.5", Must),
            "token taker: the right token in the clear ends the IKE SA at once, a wrong one does nothing",
            "If the QCD_TOKEN verifies OK, the receiver MUST silently discard the IKE SA and all associated child SAs. If the QCD_TOKEN \
             cannot be validated, a response MUST NOT be sent, and the event may be logged.",
            there(QCD, "the_right_token_ends_the_sa_silently"),
            there(QCD, "a_wrong_token_ends_nothing"),
        ),
        row(
            ("P13", "RFC 6290 §5", Must),
            "token maker: the same token in every life, another for every IKE SA",
            "The token maker MUST be able to re-generate or retrieve the token based on the IKE SPIs even after it reboots.",
            there(QCD, "a_peer_that_has_begun_anew_is_noticed_in_a_round_trip"),
            there(QCD, "tokens_differ"),
        ),
        row(
            ("P14", "RFC 6290 §9.2", Must),
            "no token in the clear for an IKE SA that lives",
            "A token maker MUST NOT send a valid QCD token in an unprotected message for an existing IKE SA.",
            there(QCD, "a_token_comes_with_any_request"),
            there(QCD, "a_token_is_not_told_while_the_sa_lives"),
        ),
        row(
            ("P15", "RFC 6290 §4.3", Should),
            "a rekeyed IKE SA has tokens too, whoever rekeyed it",
            "If the initiator is also a token maker, it SHOULD initiate an INFORMATIONAL exchange immediately after the CREATE_CHILD_SA \
             exchange",
            there(QCD, "after_rekeys_of_either_end"),
            there(QCD, "it_can_be_switched_off"),
        ),
        row(
            ("P16", "RFC 4478 §2", Should),
            "AUTH_LIFETIME: the initiator authenticates anew in time, make-before-break",
            "An Initiator that received an AUTH_LIFETIME notification SHOULD repeat the Initial exchange within the time indicated in the \
             notification.",
            there(LIFETIME, "an_announced_lifetime_is_kept_to"),
            there(LIFETIME, "what_is_no_lifetime_or_not_the_peers_to_say"),
        ),
        row(
            ("P17", "RFC 4478 §2", Should),
            "AUTH_LIFETIME: the responder ends what was not authenticated anew",
            "The original Responder that sends the AUTH_LIFETIME notification SHOULD send a DELETE notification soon after the end of the \
             lifetime period, unless the IKE SA is deleted before the lifetime period elapses.",
            there(LIFETIME, "the_responder_ends_what_lasts_longer"),
            there(LIFETIME, "an_initiator_announces_nothing"),
        ),
        row(
            ("P18", "RFC 9329 §3.1", Must),
            "TCP encapsulation: lengths of 0 and 1 end the connection",
            "The receiver MUST treat these values as fatal errors and MUST close the TCP connection.",
            there(STREAM, "messages_come_out_however_the_stream_is_cut"),
            there(STREAM, "lengths_that_can_not_be"),
        ),
        row(
            ("P19", "RFC 9329 §5.1", Must),
            "from UDP to TCP with another IKE_SA_INIT",
            "When switching from UDP to TCP, a new IKE_SA_INIT exchange MUST be initiated with the Initiator's new SPI and with \
             recalculated content of NAT_DETECTION_*_IP notifications.",
            there(TCP, "no_answer_over_udp_and_then_tcp"),
            there(TCP, "a_refusal_by_udp_is_an_answer"),
        ),
        row(
            ("P20", "RFC 9329 §6.1", Must),
            "a peer is found by another TCP connection, if what comes by it is authentic and new",
            "the TCP Responder MUST allow packets for existing SAs to be received from new source IP addresses and ports.",
            there(TCP, "the_connection_is_reset"),
            there(TCP, "the_responder_follows_what_is_authentic_and_new"),
        ),
        row(
            ("P21", "RFC 9329 §6.2", Must),
            "no retransmissions by one TCP connection, one by each other",
            "the Initiator MUST retransmit its request over this connection and continue to wait for a response.",
            there(TCP, "a_request_in_flight_goes_by_the_new_connection"),
            there(TCP, "a_request_is_sent_once_by_a_tcp_connection"),
        ),
        row(
            ("P22", "RFC 9329 §7.1", Must),
            "MOBIKE moves an SA between UDP and TCP",
            "Implementations that implement both MOBIKE and TCP encapsulation within the same connection configuration MUST support \
             dynamically enabling and disabling TCP encapsulation as interfaces change.",
            there(TCP, "another_network_begins_with_udp"),
            there(TCP, "without_mobike_there_is_no_probe"),
        ),
        row(
            ("P23", "RFC 5723 §4.3.2", Must),
            "session resumption: a ticket is taken, or refused with TICKET_NACK and a full exchange follows",
            "When the IKEv2 responder receives a ticket using the N(TICKET_OPAQUE) payload, it MUST perform one of the following \
             steps if it supports the extension defined in this document",
            there(RESUME_WIRE, "the_formulas_as_responder"),
            there(RESUME_WIRE, "forged_tickets_are_refused"),
        ),
        row(
            ("P24", "RFC 5723 §4.1", Must),
            "a request for a ticket is answered with one, with TICKET_ACK or with TICKET_NACK",
            "When an IKEv2 responder receives a request for a ticket using the N(TICKET_REQUEST) payload, it MUST perform one of \
             the following operations if it supports the extension defined in this document",
            there(RESUME_WIRE, "tickets_are_granted_wherever_they_may_be_asked_for"),
            there(RESUME_WIRE, "tickets_are_refused_where_there_are_none"),
        ),
        row(
            ("P25", "RFC 5723 §4.3.3", Must),
            "both prove that they have the SA of the ticket, under the identities of before",
            "The IDi value sent in the IKE_AUTH exchange MUST be identical to the value included in the ticket.",
            there(RESUME_WIRE, "the_formulas_as_initiator"),
            there(RESUME_WIRE, "a_stolen_ticket_is_of_no_use"),
        ),
        row(
            ("P26", "RFC 5723 §6.2", Must),
            "a ticket goes with its IKE SA, with the credentials behind it, and when its time is over",
            "In particular, when an IKE SA is deleted by the client or the gateway, the client MUST delete its stored ticket.",
            there(RESUME, "a_deleted_sa_is_not_resumed"),
            there(RESUME, "withdrawn_tickets_are_refused"),
        ),
        row(
            ("P27", "RFC 5723 §4.3.1", Must),
            "a ticket is used once, and not after its lifetime",
            "A client MUST NOT present a ticket when it knows that the ticket's lifetime has expired.",
            there(RESUME, "there_is_a_ticket_after_a_rekey_and_after_a_long_time"),
            there(RESUME, "a_ticket_ages"),
        ),
        row(
            ("P28", "RFC 5685 §3", Must),
            "REDIRECT in IKE_SA_INIT: only to who announced it; followed only with the nonce of the request",
            "If the values do not match, the client MUST silently discard the response (and keep waiting for another response).",
            there(REDIRECT_AT_SETUP, "everybody_is_sent_away_at_the_first_message"),
            there(REDIRECT_WIRE, "a_wrong_nonce_is_discarded"),
        ),
        row(
            ("P29", "RFC 5685 §6", Must),
            "REDIRECT in IKE_AUTH: from who has proven himself, to who has, and no Child SA",
            "The gateway MUST verify the client's AUTH payload before sending the REDIRECT payload, and the client MUST verify the \
             gateway's AUTH payload before acting on the REDIRECT payload.",
            there(REDIRECT_AT_SETUP, "one_connection_is_sent_away_in_ike_auth"),
            there(REDIRECT_WIRE, "in_ike_auth_only_from_who_proves_itself"),
        ),
        row(
            ("P30", "RFC 5685 §5", Must),
            "REDIRECT of an SA that is up: protected, from the original responder, and no gap",
            "The gateway MUST NOT include any nonce data in the REDIRECT payload",
            there(REDIRECT_BY_ORDER, "by_order_without_a_gap"),
            there(REDIRECT_WIRE, "only_the_requests_of_the_original_responder_count"),
        ),
        row(
            ("P31", "RFC 5685 §7", Should),
            "redirects don't go round in circles",
            "the client SHOULD be configured to not accept more than a certain number of redirects (MAX_REDIRECTS) within a short \
             time period (REDIRECT_LOOP_DETECT_PERIOD) for a particular IKEv2 SA setup.",
            there(REDIRECT_AT_SETUP, "from_one_to_the_next"),
            there(REDIRECT_AT_SETUP, "loops_end"),
        ),
        row(
            ("P32", "RFC 9329 §4", Must),
            "TLS around TCP: the prefix comes within, and what is no TLS or no IKETCP stream is closed",
            "If other framing protocols are used within TCP to further encapsulate or encrypt the stream of IKE and ESP messages, the \
             stream prefix must be at the start of the TCP Originator's IKE and ESP message stream within the added protocol layer",
            there("src/data/streams/sealed.rs", "what_the_session_says_itself_is_sent"),
            there("tests/netns/tls.rs", "strangers_at_the_port"),
        ),
        row(
            ("P33", "RFC 9329 B.1", Should),
            "TLS: no certificate is asked of the client; that of the server is looked at where there is something to hold it against",
            "During the TLS handshake, the server SHOULD NOT request the client's certificate since authentication is handled as part \
             of IKE negotiation.",
            there("tests/netns/tls.rs", "certificates_are_looked_at_and_changed"),
            there(
                TLS,
                "the_certificate_is_looked_at_if_there_is_something_to_hold_it_against",
            ),
        ),
        row(
            ("P34", "RFC 9329 B.3", Should),
            "TLS: sessions are resumed",
            "The client SHOULD attempt TLS session resumption if it has previously established a session with the server.",
            there(TLS, "the_second_connection_is_resumed"),
            out("nothing to break: without a ticket there is a full handshake"),
        ),
        row(
            ("P35", "RFC 9329 A", Should),
            "TLS: the NULL cipher",
            "both the TCP Originator and the TCP Responder SHOULD allow the NULL cipher to be selected for performance reasons.",
            out("there is TLS 1.3 alone, which \"only supports AEAD algorithms\" (same paragraph)"),
            there(TLS, "tls_1_2_is_refused_in_words"),
        ),
    ]
}

/// A message of IKE_INTERMEDIATE as AUTH covers it: "the Length field in the IKE Header and the Payload Length field in the
/// Encrypted payload header are adjusted so that they don't count the lengths of Initialization Vector, Integrity Checksum
/// Data, Padding, and Pad Length fields."
fn chunk(header: &Header, payloads: &[Payload]) -> Vec<u8> {
    let (first, inner) = encode_payloads(payloads);
    let mut out = [header.spi_i.0, header.spi_r.0].concat();
    let flags = u8::from(header.flags.initiator) << 3 | u8::from(header.flags.response) << 5;
    out.extend([46, 0x20, 43, flags]);
    out.extend(header.message_id.to_be_bytes());
    out.extend((28 + 4 + inner.len() as u32).to_be_bytes());
    out.extend([first.0, 0]);
    out.extend((4 + inner.len() as u16).to_be_bytes());
    out.extend(inner);
    out
}

/// T's way to IKE_AUTH with two additional key exchanges: IntAuth_iN and IntAuth_rN by T's own account.
fn until_auth(fragment: Option<usize>) -> (Tester, [Vec<u8>; 2]) {
    let mut b = side_b();
    b.ike_proposals = vec![IkeProposal::parse("aes256gcm16-prfsha256-x25519-ke2_mlkem512-ke5_ecp256").unwrap()];
    b.fragment_size = fragment.map_or(4000, |_| 300);
    let mut t = Tester::new(b.clone());
    let mut payloads = t.init_payloads();
    payloads[0] = Payload::Sa(IkeProposal::to_wire(&b.ike_proposals, &[]));
    payloads.push(notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    payloads.push(notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED));
    let answer = t.init(&payloads);
    assert!(answer.has(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED));
    t.fragment = fragment;
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
    let mut int_auth = [Vec::new(), Vec::new()];
    for group in [Group::MlKem512, Group::Ecp256] {
        let ours = initiate(&mut t, group);
        let request = [ke(group.method(), ours.public())];
        let header = t.sa.header(ExchangeType::IKE_INTERMEDIATE, false, t.sa.next);
        let answer = t.request(ExchangeType::IKE_INTERMEDIATE, &request).unwrap();
        let (method, data) = ke_of(&answer.payloads).unwrap();
        assert_eq!(method, group.method());
        // "the most recently updated SK_p[i/r] keys available before the corresponded IKE_INTERMEDIATE exchange is started"
        let keys = t.sa.keys.clone().unwrap();
        let chunks = [chunk(&header, &request), chunk(&answer.header, &answer.payloads)];
        for ((key, sum), chunk) in [&keys.pi, &keys.pr].into_iter().zip(&mut int_auth).zip(chunks) {
            *sum = prf.prf(key.expose(), &[sum, &chunk]).expose().to_vec();
        }
        let binding = Binding {
            ni: &t.sa.ni,
            nr: &t.sa.nr,
            spi_i: t.sa.spi_i,
            spi_r: t.sa.spi_r,
        };
        let secrets = Secrets::of(Some(ours.finish(&data).unwrap()));
        let keys = keys.rekey(&IKE_PROVIDER, keys.suite, &secrets, &binding).unwrap();
        t.sa.set_keys(keys, &mut t.rng);
    }
    (t, int_auth)
}

/// "InitiatorSignedOctets = RealMsg1 | NonceRData | MACedIDForI | IntAuth", the responder's likewise.
fn mic(t: &Tester, initiator: bool, id: &Payload, int_auth: &[u8]) -> Vec<u8> {
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
    let keys = t.sa.keys.as_ref().unwrap();
    let (message, nonce, key) = if initiator {
        (&t.sa.request, &t.sa.nr, &keys.pi)
    } else {
        (&t.sa.response, &t.sa.ni, &keys.pr)
    };
    let maced = prf.prf(key.expose(), &[&id_body(id)]);
    let pad = prf.prf(PSK, &[b"Key Pad for IKEv2"]);
    let mic = prf.prf(pad.expose(), &[message, nonce, maced.expose(), int_auth]);
    mic.expose().to_vec()
}

/// Both AUTHs by T's own account: "IntAuth =  IntAuth_iN | IntAuth_rN | IKE_AUTH_MID"; in one piece and in fragments.
#[test]
fn auth_covers_ike_intermediate() {
    for fragment in [None, Some(200)] {
        let (mut t, sums) = until_auth(fragment);
        assert_eq!(t.sa.next, 3);
        let int_auth = [&sums[0][..], &sums[1], &3_u32.to_be_bytes()].concat();
        let id = id(true, "a.example");
        let mut payloads = vec![id.clone(), psk_auth(&mic(&t, true, &id, &int_auth))];
        payloads.extend(t.child_offer(false));
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(t.is_up(), "{:?}: {:?}", answer.payloads, t.failures());
        let id_r = answer
            .payloads
            .iter()
            .find(|payload| matches!(payload, Payload::IdR(_)));
        let want = mic(&t, false, id_r.unwrap(), &int_auth);
        let have = answer.payloads.iter().find_map(|payload| match payload {
            Payload::Auth(auth) => Some(auth.data.clone()),
            _ => None,
        });
        assert_eq!(have, Some(want));
    }
}

/// Without it, with only half of it, or with another message ID.
#[test]
fn auth_without_it_is_refused() {
    for wrong in 0..5 {
        let (mut t, sums) = until_auth(None);
        let [i, r] = &sums;
        let id_of_auth = 3_u32.to_be_bytes();
        let int_auth = match wrong {
            0 => Vec::new(),
            1 => [&i[..], r].concat(),
            2 => [&r[..], i, &id_of_auth].concat(),
            3 => [&i[..], r, &1_u32.to_be_bytes()].concat(),
            _ => [&i[..], &id_of_auth].concat(),
        };
        let id = id(true, "a.example");
        let mut payloads = vec![id.clone(), psk_auth(&mic(&t, true, &id, &int_auth))];
        payloads.extend(t.child_offer(false));
        let answer = t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
        assert!(answer.has(NotifyType::AUTHENTICATION_FAILED), "{wrong}");
        assert!(!t.is_up());
    }
}

const MULTI: &str = "aes256gcm16-x25519-ke1_mlkem768-ke2_mlkem512";
const GROUPS: [Group; 2] = [Group::MlKem768, Group::MlKem512];

fn multi(mut connection: Connection) -> Connection {
    for child in connection.children.values_mut() {
        Arc::make_mut(child).esp_proposals = vec![EspProposal::parse(MULTI).unwrap()];
    }
    connection
}

fn initiate(t: &mut Tester, group: Group) -> Box<dyn KeyExchangeInitiator> {
    (IKE_PROVIDER.key_exchange)(group).unwrap().initiate(&mut t.rng)
}

fn link_of(message: &Message) -> Option<Vec<u8>> {
    let notify = message.notify(NotifyType::ADDITIONAL_KEY_EXCHANGE)?;
    assert!(
        notify.spi.is_empty(),
        "\"the Protocol ID and SPI Size are both set to 0\""
    );
    Some(notify.data.clone())
}

/// T asks for a Child SA with three key exchanges: the first is done.
struct Series {
    /// SK(0).
    secret: Vec<u8>,
    nonces: [Vec<u8>; 2],
    spis: [u32; 2],
    link: Vec<u8>,
}

fn begin(t: &mut Tester) -> Series {
    let ours = initiate(t, Group::Curve25519);
    let mut payloads = t.child_offer(true);
    let spi = esp_spi_of(&payloads);
    payloads[0] = esp_words(spi, MULTI, true);
    if t.status()[0].initiator {
        // The DUT is A.
        payloads.splice(1.., [tsi(&["10.2.0.0/16"]), tsr(&["10.1.0.0/16"])]);
    }
    payloads.push(t.nonce(32));
    payloads.push(ke(Group::Curve25519.method(), ours.public()));
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    let (_, data) = ke_of(&answer.payloads).unwrap();
    Series {
        secret: ours.finish(&data).unwrap().expose().to_vec(),
        nonces: [nonce_of(&payloads), nonce_of(&answer.payloads)],
        spis: [spi, esp_spi_of(&answer.payloads)],
        link: link_of(&answer).expect("\"The responder MUST include this notification\""),
    }
}

/// IKE_FOLLOWUP_KE by T: KEi(n) and the link.
fn follow(t: &mut Tester, group: Group, public: &[u8], link: &[u8]) -> Message {
    let payloads = [
        ke(group.method(), public),
        notify_with(NotifyType::ADDITIONAL_KEY_EXCHANGE, link),
    ];
    t.request(ExchangeType::IKE_FOLLOWUP_KE, &payloads).unwrap()
}

/// "KEYMAT = prf+ (SK_d, SK(0) | Ni | Nr | SK(1) | ... SK(n))", by T's own account.
fn all_secrets_are_in_the_keys_at_the_end_as(initiator: bool) {
    let mut t = if initiator {
        Tester::up(multi(side_b()))
    } else {
        Tester::up_as_responder(multi(side_a()))
    };
    let Series {
        secret,
        nonces: [ni, nr],
        spis,
        mut link,
    } = begin(&mut t);
    let mut further = Vec::new();
    for (n, group) in GROUPS.into_iter().enumerate() {
        assert_eq!(t.pairs(), 1, "the Child SA is there after the last only");
        let ours = initiate(&mut t, group);
        let answer = follow(&mut t, group, ours.public(), &link);
        let (method, data) = ke_of(&answer.payloads).unwrap();
        assert_eq!(method, group.method());
        further.extend_from_slice(ours.finish(&data).unwrap().expose());
        match link_of(&answer) {
            Some(next) => link = next,
            None => assert_eq!(n, 1, "the last has none"),
        }
    }
    assert_eq!(t.pairs(), 2);
    let seed = [&secret[..], &ni, &nr, &further];
    let prf = (IKE_PROVIDER.prf)(PrfAlgorithm::HmacSha256).unwrap();
    let keymat = prf.prf_plus(t.sa.keys.as_ref().unwrap().d.expose(), &seed, 72).unwrap();
    let (from_t, to_t) = keymat.expose().split_at(36);
    let made = |entry: &&Arc<landbridge_proto::policy::sad::ChildSaEntry>| entry.inbound.spi == spis[1];
    let entry = t.sad.pairs.values().find(made).expect("its SPI");
    assert_eq!(entry.outbound.spi, spis[0]);
    assert!(entry.inbound.key.expose() == from_t && entry.outbound.key.expose() == to_t);
}

#[test]
fn all_secrets_are_in_the_keys_at_the_end() {
    all_secrets_are_in_the_keys_at_the_end_as(true);
    all_secrets_are_in_the_keys_at_the_end_as(false);
}

/// "This is an error notification that is not fatal to the IKE SA. Its Notify Message Type value is 47, its Protocol ID and SPI
/// Size are both set to 0, and the data is empty."
#[test]
fn what_is_not_known_is_not_found() {
    let mut t = Tester::up(multi(side_b()));
    let not_found = |answer: &Message| {
        let [Payload::Notify(notify)] = &answer.payloads[..] else {
            panic!("{:?}", answer.payloads)
        };
        assert_eq!(notify.notify_type.0, 47);
        assert!(notify.spi.is_empty() && notify.data.is_empty());
    };
    let ours = initiate(&mut t, GROUPS[0]);
    // Nothing was begun; no link; another link; a link that was used.
    not_found(&follow(&mut t, GROUPS[0], ours.public(), b"12345678"));
    let Series { link, .. } = begin(&mut t);
    let alone = [ke(GROUPS[0].method(), ours.public())];
    not_found(&t.request(ExchangeType::IKE_FOLLOWUP_KE, &alone).unwrap());
    for wrong in [&link[1..], &[], &[&link[..], &[0]].concat(), &[0; 500]] {
        not_found(&follow(&mut t, GROUPS[0], ours.public(), wrong));
    }
    let answer = follow(&mut t, GROUPS[0], ours.public(), &link);
    let next = link_of(&answer).expect("a link");
    assert_ne!(next, link);
    not_found(&follow(&mut t, GROUPS[0], ours.public(), &link));
    // What was begun is not disturbed by any of these.
    let second = initiate(&mut t, GROUPS[1]);
    let answer = follow(&mut t, GROUPS[1], second.public(), &next);
    assert!(ke_of(&answer.payloads).is_some());
    assert_eq!(t.pairs(), 2);
    t.assert_alive();
}

/// "field in the KEi(n) and KEr(n) payloads MUST match the n-th negotiated additional key exchange": neither another method,
/// nor a value of another length, nor one that FIPS 203 forbids.
#[test]
fn a_wrong_ke_makes_nothing() {
    for (group, public) in [
        (GROUPS[1], vec![1; 800]),
        (Group::Curve25519, vec![9; 32]),
        (GROUPS[0], vec![1; 1183]),
        (GROUPS[0], vec![0xff; 1184]),
        (GROUPS[0], vec![]),
    ] {
        let mut t = Tester::up(multi(side_b()));
        let Series { link, .. } = begin(&mut t);
        let answer = follow(&mut t, group, &public, &link);
        assert!(ke_of(&answer.payloads).is_none());
        assert!(answer.has(NotifyType::INVALID_SYNTAX), "{:?}", answer.payloads);
        assert!(t.pairs() < 2);
    }
}

/// P7 to P10: a peer that announces all there is, in every message, is answered as if it had not.
#[test]
fn what_is_not_known_is_passed_over() {
    let announcements = || {
        // USE_PPK, CHILDLESS, QCD, REDIRECT_SUPPORTED, TICKET_REQUEST, SYNC, PUZZLE (which a request never has), auth methods, resources, transcript auth.
        let numbers = [
            16435, 16418, 16419, 16406, 16409, 16420, 16434, 16443, 16444, 16447, 16442, 39_999,
        ];
        numbers.map(|number| notify_with(NotifyType(number), &[1, 2, 3, 4]))
    };
    let mut t = Tester::new(side_b());
    let mut payloads = t.init_payloads();
    payloads.extend(announcements());
    t.init(&payloads);
    let mut payloads = t.auth_payloads();
    payloads.extend(announcements());
    t.request(ExchangeType::IKE_AUTH, &payloads).unwrap();
    assert!(t.is_up() && t.pairs() == 1);
    let mut payloads = t.child_offer(true);
    let ours = initiate(&mut t, Group::Curve25519);
    payloads.push(t.nonce(32));
    payloads.push(ke(Group::Curve25519.method(), ours.public()));
    payloads.extend(announcements());
    let answer = t.request(ExchangeType::CREATE_CHILD_SA, &payloads).unwrap();
    assert!(sa_of(&answer.payloads).is_some(), "{:?}", answer.payloads);
    assert_eq!(t.pairs(), 2);
    let answer = t.request(ExchangeType::INFORMATIONAL, &announcements()).unwrap();
    assert!(answer.payloads.is_empty());
    t.assert_alive();
}

/// A peer that begins again and again is answered, and what it leaves behind has an end.
#[test]
fn series_do_not_pile_up() {
    let mut t = Tester::up(multi(side_b()));
    for _ in 0..50 {
        begin(&mut t);
    }
    let spis = t.dut.spis_in_use();
    assert!(spis <= 6, "{spis}");
    t.pass(Duration::from_secs(30));
    assert_eq!(t.dut.spis_in_use(), 1);
    t.assert_alive();
}

/// As requester: "The initiator MUST send back this notification intact in the request message of the next IKE_FOLLOWUP_KE
/// exchange", whatever it is; and what does not lead on is given up, with the old pair in use.
#[test]
fn the_link_comes_back_intact() {
    for link in [Some(vec![7; 300]), Some(vec![]), None] {
        let mut t = Tester::up_as_responder(multi(side_a()));
        t.command(Command::RekeyChild {
            connection: SITE.into(),
            child: None,
        });
        let asked = t.next_request().unwrap();
        let (_, public) = ke_of(&asked.payloads).unwrap();
        let method = (IKE_PROVIDER.key_exchange)(Group::Curve25519).unwrap();
        let (data, _) = method.respond(&public, &mut t.rng).unwrap();
        let mut payloads = t.child_offer(true);
        let spi = esp_spi_of(&payloads);
        payloads[0] = esp_words(spi, MULTI, true);
        payloads.push(t.nonce(32));
        payloads.push(ke(Group::Curve25519.method(), &data));
        payloads.extend(
            link.as_ref()
                .map(|link| notify_with(NotifyType::ADDITIONAL_KEY_EXCHANGE, link)),
        );
        t.respond(&asked.header, &payloads);
        let next = t.next_request();
        match &link {
            Some(link) => {
                let next = next.unwrap();
                assert_eq!(next.header.exchange, ExchangeType::IKE_FOLLOWUP_KE);
                assert_eq!(link_of(&next).as_ref(), Some(link));
                t.refuse(&next.header, NotifyType::STATE_NOT_FOUND);
            }
            None => assert!(next.is_none(), "there is nothing to send back"),
        }
        assert_eq!(t.pairs(), 1);
        assert_eq!(t.dut.spis_in_use(), 1);
        t.assert_alive();
    }
}
