//! Typed messages: what each exchange's request and response may hold, sorted once at the edge. Behind this, nothing
//! searches payload lists. Which payload may stand where, and how often, is in [`super::rules`].

use super::header::IkeSpi;
use super::number::{HashAlgorithm, KeMethod, NotifyType};
use super::payload::{
    AggfragFlags, Authentication, Certificate, CertificateRequest, Configuration, Delete, Identification, KeyExchange,
    Nonce, Notify, PuzzleNotify, SecurityAssociation, TrafficSelector,
};
use super::redirect::{Redirect, RedirectSupport};

/// Abilities announced in IKE_SA_INIT by either side.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Capabilities {
    /// IKEV2_FRAGMENTATION_SUPPORTED (RFC 7383 §2.3).
    pub fragmentation: bool,
    /// SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4): `None` when the notify is absent.
    pub signature_hashes: Option<Vec<HashAlgorithm>>,
    /// INTERMEDIATE_EXCHANGE_SUPPORTED (RFC 9242 §3.1).
    pub intermediate: bool,
    /// CHILDLESS_IKEV2_SUPPORTED (RFC 6023 §3).
    pub childless: bool,
    /// USE_PPK (RFC 8784 §3).
    pub ppk: bool,
    /// REDIRECT_SUPPORTED or REDIRECTED_FROM (RFC 5685 §3); in a request only.
    pub redirect: Option<RedirectSupport>,
}

/// IKE_SA_INIT request (RFC 7296 §1.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeSaInitRequest {
    /// N(COOKIE): 1 to 64 octets, the first payload when present (§2.6).
    pub cookie: Option<Vec<u8>>,
    /// PS (RFC 8019 §7.1.2): the solution of the puzzle that came with the cookie.
    pub solution: Option<Vec<u8>>,
    /// SAi1.
    pub sa: SecurityAssociation,
    /// KEi.
    pub ke: KeyExchange,
    /// Ni.
    pub nonce: Nonce,
    /// NAT_DETECTION_SOURCE_IP: one or more digests (§2.23); empty if the peer does no NAT detection.
    pub nat_source: Vec<[u8; 20]>,
    /// NAT_DETECTION_DESTINATION_IP.
    pub nat_destination: Vec<[u8; 20]>,
    /// What the sender can.
    pub capabilities: Capabilities,
    /// Vendor IDs.
    pub vendor_ids: Vec<Vec<u8>>,
    /// Status notifies not understood; error notifies in a request are dropped (§3.10.1).
    pub other: Vec<Notify>,
}

/// IKE_SA_INIT response that goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeSaInitResponse {
    /// SAr1: exactly one proposal.
    pub sa: SecurityAssociation,
    /// KEr.
    pub ke: KeyExchange,
    /// Nr.
    pub nonce: Nonce,
    /// See the request.
    pub nat_source: Vec<[u8; 20]>,
    /// See the request.
    pub nat_destination: Vec<[u8; 20]>,
    /// Trust anchors the responder takes.
    pub certreqs: Vec<CertificateRequest>,
    /// N(PUZZLE): one more, before IKE_AUTH (RFC 8019 §7.2.1).
    pub puzzle: Option<PuzzleNotify>,
    /// What the sender can.
    pub capabilities: Capabilities,
    /// Vendor IDs.
    pub vendor_ids: Vec<Vec<u8>>,
    /// Notifies not understood.
    pub other: Vec<Notify>,
}

/// IKE_SA_INIT response, of any kind. All but `Accepted` are unauthenticated hints (§2.21.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IkeSaInitReply {
    /// The exchange goes on.
    Accepted(Box<IkeSaInitResponse>),
    /// N(COOKIE): repeat the request with it (§2.6).
    Cookie {
        /// 1 to 64 octets.
        cookie: Vec<u8>,
        /// N(PUZZLE): with a solution the request has "a better chance to be served" (RFC 8019 §7.1.1).
        puzzle: Option<PuzzleNotify>,
    },
    /// N(INVALID_KE_PAYLOAD): repeat with this method (§1.2).
    InvalidKe(KeMethod),
    /// N(REDIRECT): to begin with another gateway (RFC 5685 §3).
    Redirect(Redirect),
    /// Another error notify, alone.
    Refused(Notify),
}

/// IKE_SESSION_RESUME request (RFC 5723 §4.3.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResumeRequest {
    /// N(COOKIE), as in IKE_SA_INIT.
    pub cookie: Option<Vec<u8>>,
    /// Ni.
    pub nonce: Nonce,
    /// TICKET_OPAQUE.
    pub ticket: Vec<u8>,
    /// See [`IkeSaInitRequest`].
    pub nat_source: Vec<[u8; 20]>,
    /// See [`IkeSaInitRequest`].
    pub nat_destination: Vec<[u8; 20]>,
    /// What the sender can.
    pub capabilities: Capabilities,
    /// Notifies not understood.
    pub other: Vec<Notify>,
}

/// IKE_SESSION_RESUME response that goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResumeResponse {
    /// Nr.
    pub nonce: Nonce,
    /// See [`IkeSaInitRequest`].
    pub nat_source: Vec<[u8; 20]>,
    /// See [`IkeSaInitRequest`].
    pub nat_destination: Vec<[u8; 20]>,
    /// What the sender can.
    pub capabilities: Capabilities,
    /// Notifies not understood.
    pub other: Vec<Notify>,
}

/// IKE_SESSION_RESUME response, of any kind. All but `Accepted` are unauthenticated hints, as in IKE_SA_INIT.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ResumeReply {
    /// The exchange goes on.
    Accepted(Box<ResumeResponse>),
    /// N(COOKIE): repeat the request with it.
    Cookie(Vec<u8>),
    /// N(TICKET_NACK), or an error notify: not with this ticket.
    Refused(Notify),
}

/// What a responder says to TICKET_REQUEST (RFC 5723 §4.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TicketAnswer {
    /// TICKET_LT_OPAQUE.
    Granted {
        /// "the number of seconds until the ticket expires" (§7.1).
        lifetime: u32,
        /// The ticket.
        ticket: Vec<u8>,
    },
    /// TICKET_ACK: not now, but "the client MAY request a ticket later using an Informational exchange".
    Later,
    /// TICKET_NACK.
    Refused,
}

/// The Child SA part of IKE_AUTH and CREATE_CHILD_SA, in an offer and in an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChildPayloads {
    /// ESP proposals; one in an answer.
    pub sa: SecurityAssociation,
    /// TSi.
    pub ts_i: Vec<TrafficSelector>,
    /// TSr.
    pub ts_r: Vec<TrafficSelector>,
    /// USE_TRANSPORT_MODE (§1.3.1).
    pub transport_mode: bool,
    /// ESP_TFC_PADDING_NOT_SUPPORTED (§1.3.1).
    pub no_tfc_padding: bool,
    /// NON_FIRST_FRAGMENTS_ALSO (§1.3.1).
    pub non_first_fragments: bool,
    /// USE_AGGFRAG (RFC 9347 §5.1).
    pub aggfrag: Option<AggfragFlags>,
    /// SA_RESOURCE_INFO (RFC 9611 §5.1). What it may say of the resource is not kept: a "peer MUST only use it for debugging
    /// purposes" (§3), and ours says nothing.
    pub resource_info: bool,
    /// ADDITIONAL_TS_POSSIBLE (§2.9; answers only).
    pub additional_ts_possible: bool,
}

/// IKE_AUTH request (RFC 7296 §1.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeAuthRequest {
    /// IDi.
    pub id_i: Identification,
    /// CERT payloads in order.
    pub certs: Vec<Certificate>,
    /// CERTREQ payloads.
    pub certreqs: Vec<CertificateRequest>,
    /// IDr: whom the initiator wants to talk to.
    pub id_r: Option<Identification>,
    /// AUTH; absent means EAP, which is refused.
    pub auth: Option<Authentication>,
    /// The first Child SA; absent in a childless initiation (RFC 6023).
    pub child: Option<ChildPayloads>,
    /// CP, parsed and ignored.
    pub configuration: Option<Configuration>,
    /// INITIAL_CONTACT (§2.4).
    pub initial_contact: bool,
    /// MOBIKE_SUPPORTED (RFC 4555 §3.1).
    pub mobike: bool,
    /// PPK_IDENTITY (RFC 8784 §3): the PPK_ID.
    pub ppk_identity: Option<Vec<u8>>,
    /// NO_PPK_AUTH: the data of an AUTH payload that was made without the PPK.
    pub no_ppk_auth: Option<Vec<u8>>,
    /// QUICK_CRASH_DETECTION (RFC 6290 §4.2): the TOKEN_SECRET_DATA.
    pub qcd_token: Option<Vec<u8>>,
    /// TICKET_REQUEST (RFC 5723 §4.1).
    pub ticket_request: bool,
    /// Notifies not understood.
    pub other: Vec<Notify>,
}

/// IKE_AUTH response that authenticates the responder.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeAuthResponse {
    /// IDr.
    pub id_r: Identification,
    /// CERT payloads.
    pub certs: Vec<Certificate>,
    /// AUTH.
    pub auth: Authentication,
    /// The first Child SA, or the error notify that stands for it (§1.2: the IKE SA is up all the same); `None` when
    /// none was asked for.
    pub child: Option<Result<ChildPayloads, Notify>>,
    /// CP, parsed and ignored.
    pub configuration: Option<Configuration>,
    /// INITIAL_CONTACT.
    pub initial_contact: bool,
    /// MOBIKE_SUPPORTED.
    pub mobike: bool,
    /// PPK_IDENTITY: the PPK is in the keys (RFC 8784 §3).
    pub ppk: bool,
    /// QUICK_CRASH_DETECTION, likewise.
    pub qcd_token: Option<Vec<u8>>,
    /// The answer to TICKET_REQUEST.
    pub ticket: Option<TicketAnswer>,
    /// Notifies not understood.
    pub other: Vec<Notify>,
}

/// IKE_AUTH response, of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IkeAuthReply {
    /// The responder authenticates itself.
    Accepted(Box<IkeAuthResponse>),
    /// An error notify: the exchange failed.
    Refused(Notify),
}

/// CREATE_CHILD_SA request (RFC 7296 §1.3).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CreateChildSaRequest {
    /// What it asks for, told by its payloads.
    pub kind: CreateChildSaKind,
    /// Ni.
    pub nonce: Nonce,
    /// KEi: always in an IKE rekey, with PFS in the others.
    pub ke: Option<KeyExchange>,
    /// Notifies not understood.
    pub other: Vec<Notify>,
}

/// The three uses of CREATE_CHILD_SA.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CreateChildSaKind {
    /// §1.3.1: SA, TSi, TSr.
    NewChild(ChildPayloads),
    /// §1.3.3: the same with N(REKEY_SA) naming the requester's inbound SPI.
    RekeyChild {
        /// SPI in N(REKEY_SA): inbound at the sender of the request.
        rekeyed: u32,
        /// The offer.
        child: ChildPayloads,
    },
    /// §1.3.2: SA without TS. Its proposals carry the new 8-octet SPI.
    RekeyIke(SecurityAssociation),
}

/// CREATE_CHILD_SA response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CreateChildSaReply {
    /// A new or rekeyed Child SA.
    Child {
        /// The answer.
        child: ChildPayloads,
        /// Nr.
        nonce: Nonce,
        /// KEr.
        ke: Option<KeyExchange>,
        /// ADDITIONAL_KEY_EXCHANGE: IKE_FOLLOWUP_KE is to come (RFC 9370 §2.2.4).
        link: Option<Vec<u8>>,
        /// Notifies not understood.
        other: Vec<Notify>,
    },
    /// A rekeyed IKE SA.
    Ike {
        /// One proposal with the responder's new SPI.
        sa: SecurityAssociation,
        /// Nr.
        nonce: Nonce,
        /// KEr.
        ke: KeyExchange,
        /// ADDITIONAL_KEY_EXCHANGE, likewise.
        link: Option<Vec<u8>>,
        /// Notifies not understood.
        other: Vec<Notify>,
    },
    /// An error notify.
    Refused(Notify),
}

/// INFORMATIONAL request or response (RFC 7296 §1.4).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Informational {
    /// Delete payloads.
    pub deletes: Vec<Delete>,
    /// Notifies, in order.
    pub notifies: Vec<Notify>,
    /// CP, parsed and ignored.
    pub configuration: Option<Configuration>,
}

/// IKE_INTERMEDIATE request or response (RFC 9242 §3.2), with what RFC 9370 §2.2.2 puts into it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Intermediate {
    /// KEi(n) or KEr(n).
    pub ke: Option<KeyExchange>,
    /// Notifies, in order.
    pub notifies: Vec<Notify>,
}

/// IKE_FOLLOWUP_KE request or response (RFC 9370 §2.2.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FollowupKe {
    /// KEi(n) or KEr(n).
    pub ke: KeyExchange,
    /// ADDITIONAL_KEY_EXCHANGE: "a blob meaningful only to the responder". In a response: the next one.
    pub link: Option<Vec<u8>>,
    /// Notifies not understood.
    pub other: Vec<Notify>,
}

/// IKE_FOLLOWUP_KE response, of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FollowupReply {
    /// The responder's half.
    Accepted(FollowupKe),
    /// An error notify.
    Refused(Notify),
}

/// IKE_INTERMEDIATE response, of any kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum IntermediateReply {
    /// The exchange goes on.
    Accepted(Intermediate),
    /// An error notify.
    Refused(Notify),
}

/// A decrypted or plain request, by exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Request {
    /// IKE_SA_INIT.
    IkeSaInit(Box<IkeSaInitRequest>),
    /// IKE_SESSION_RESUME.
    IkeSessionResume(Box<ResumeRequest>),
    /// IKE_AUTH.
    IkeAuth(Box<IkeAuthRequest>),
    /// CREATE_CHILD_SA.
    CreateChildSa(Box<CreateChildSaRequest>),
    /// INFORMATIONAL.
    Informational(Informational),
    /// IKE_INTERMEDIATE.
    IkeIntermediate(Intermediate),
    /// IKE_FOLLOWUP_KE.
    IkeFollowupKe(FollowupKe),
}

/// A decrypted or plain response, by exchange.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Response {
    /// IKE_SA_INIT.
    IkeSaInit(IkeSaInitReply),
    /// IKE_SESSION_RESUME.
    IkeSessionResume(ResumeReply),
    /// IKE_AUTH.
    IkeAuth(IkeAuthReply),
    /// CREATE_CHILD_SA.
    CreateChildSa(CreateChildSaReply),
    /// INFORMATIONAL.
    Informational(Informational),
    /// IKE_INTERMEDIATE.
    IkeIntermediate(IntermediateReply),
    /// IKE_FOLLOWUP_KE.
    IkeFollowupKe(FollowupReply),
}

/// What an INVALID_KE_PAYLOAD, UNSUPPORTED_CRITICAL_PAYLOAD, ... answer is built from: an unprotected message about a
/// foreign or unknown IKE SA (RFC 7296 §1.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct UnprotectedNotify {
    /// SPIs copied from the message answered.
    pub spi_i: IkeSpi,
    /// SPIs copied from the message answered.
    pub spi_r: IkeSpi,
    /// The type.
    pub notify_type: NotifyType,
}
