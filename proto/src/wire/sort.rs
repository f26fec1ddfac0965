//! Payloads -> typed messages. The order of payloads never matters when reading (RFC 7296 §2.5, checklist A6).

use super::message::{
    Capabilities, ChildPayloads, CreateChildSaKind, CreateChildSaReply, CreateChildSaRequest, FollowupKe,
    FollowupReply, IkeAuthReply, IkeAuthRequest, IkeAuthResponse, IkeSaInitReply, IkeSaInitRequest, IkeSaInitResponse,
    Informational, Intermediate, IntermediateReply, Request, Response, TicketAnswer,
};
use super::payload::{
    AggfragFlags, Authentication, Certificate, CertificateRequest, Configuration, Delete, Identification, KeyExchange,
    Nonce, Notify, Payload, PuzzleNotify, SecurityAssociation, TrafficSelector,
};
use super::redirect::{Redirect, RedirectSupport};
use super::{DecodeError, ExchangeType, HashAlgorithm, KeMethod, NotifyType, ProtocolId, rules, ticket};

/// Sorts a request's payloads into a typed message, under the rules of its exchange.
///
/// # Errors
/// [`DecodeError::Rule`], [`DecodeError::UnknownExchange`].
pub fn decode_request(exchange: ExchangeType, payloads: Vec<Payload>) -> Result<Request, DecodeError> {
    match exchange {
        ExchangeType::IKE_SA_INIT => {
            rules::check("IKE_SA_INIT request", rules::SA_INIT_REQUEST, &payloads)?;
            let mut parts = Parts::collect(payloads);
            parts.drop_errors();
            let (nat_source, nat_destination) = parts.nat_detection();
            Ok(Request::IkeSaInit(Box::new(IkeSaInitRequest {
                cookie: parts.cookie()?,
                solution: parts.solution.take(),
                sa: need(parts.sa.take(), "SA")?,
                ke: need(parts.ke.take(), "KE")?,
                nonce: need(parts.nonce.take(), "NONCE")?,
                nat_source,
                nat_destination,
                capabilities: parts.capabilities()?,
                vendor_ids: parts.vendor_ids,
                other: parts.notifies,
            })))
        }
        ExchangeType::IKE_SESSION_RESUME => {
            ticket::decode_request(payloads).map(|request| Request::IkeSessionResume(Box::new(request)))
        }
        ExchangeType::IKE_AUTH => {
            rules::check("IKE_AUTH request", rules::AUTH_REQUEST, &payloads)?;
            let mut parts = Parts::collect(payloads);
            parts.drop_errors();
            let child = parts.child("IKE_AUTH request")?;
            parts.no_sa_is_left("IKE_AUTH request")?;
            Ok(Request::IkeAuth(Box::new(IkeAuthRequest {
                id_i: need(parts.id_i.take(), "IDI")?,
                initial_contact: parts.flag(NotifyType::INITIAL_CONTACT),
                mobike: parts.flag(NotifyType::MOBIKE_SUPPORTED),
                ppk_identity: parts.data(NotifyType::PPK_IDENTITY),
                no_ppk_auth: parts.data(NotifyType::NO_PPK_AUTH),
                qcd_token: parts.data(NotifyType::QUICK_CRASH_DETECTION),
                ticket_request: parts.flag(NotifyType::TICKET_REQUEST),
                certs: parts.certs,
                certreqs: parts.certreqs,
                id_r: parts.id_r,
                auth: parts.auth,
                child,
                configuration: parts.configuration,
                other: parts.notifies,
            })))
        }
        ExchangeType::CREATE_CHILD_SA => {
            rules::check("CREATE_CHILD_SA request", rules::CREATE_CHILD, &payloads)?;
            let mut parts = Parts::collect(payloads);
            parts.drop_errors();
            let rekeyed = parts.rekey_sa()?;
            let kind = match (parts.child("CREATE_CHILD_SA request")?, rekeyed) {
                (Some(child), None) => CreateChildSaKind::NewChild(child),
                (Some(child), Some(rekeyed)) => CreateChildSaKind::RekeyChild { rekeyed, child },
                // §1.3.3: what replaces a Child SA has selectors.
                (None, Some(_)) => return Err(missing("CREATE_CHILD_SA request", "TSI")),
                // RFC 7296 §1.3.2: without TS it rekeys the IKE SA; a KE payload is then not optional.
                (None, None) if parts.ke.is_none() => return Err(missing("CREATE_CHILD_SA request", "KE")),
                (None, None) => CreateChildSaKind::RekeyIke(need(parts.sa.take(), "SA")?),
            };
            Ok(Request::CreateChildSa(Box::new(CreateChildSaRequest {
                kind,
                nonce: need(parts.nonce.take(), "NONCE")?,
                ke: parts.ke,
                other: parts.notifies,
            })))
        }
        ExchangeType::INFORMATIONAL => informational("INFORMATIONAL request", payloads).map(Request::Informational),
        ExchangeType::IKE_INTERMEDIATE => {
            rules::check("IKE_INTERMEDIATE request", rules::INTERMEDIATE, &payloads)?;
            let mut parts = Parts::collect(payloads);
            parts.drop_errors();
            Ok(Request::IkeIntermediate(parts.intermediate()))
        }
        ExchangeType::IKE_FOLLOWUP_KE => {
            rules::check("IKE_FOLLOWUP_KE request", rules::FOLLOWUP_KE, &payloads)?;
            let mut parts = Parts::collect(payloads);
            parts.drop_errors();
            parts.followup().map(Request::IkeFollowupKe)
        }
        other => Err(DecodeError::UnknownExchange(other.0)),
    }
}

/// Sorts a response's payloads into a typed message. An unknown error notify is a refusal (RFC 7296 §3.10.1).
///
/// # Errors
/// [`DecodeError::Rule`], [`DecodeError::UnknownExchange`].
pub fn decode_response(exchange: ExchangeType, payloads: Vec<Payload>) -> Result<Response, DecodeError> {
    match exchange {
        ExchangeType::IKE_SA_INIT => sa_init_reply(payloads).map(Response::IkeSaInit),
        ExchangeType::IKE_SESSION_RESUME => ticket::decode_reply(payloads).map(Response::IkeSessionResume),
        ExchangeType::IKE_AUTH => auth_reply(payloads).map(Response::IkeAuth),
        ExchangeType::CREATE_CHILD_SA => create_child_reply(payloads).map(Response::CreateChildSa),
        ExchangeType::INFORMATIONAL => informational("INFORMATIONAL response", payloads).map(Response::Informational),
        ExchangeType::IKE_INTERMEDIATE => {
            rules::check("IKE_INTERMEDIATE response", rules::INTERMEDIATE, &payloads)?;
            let mut parts = Parts::collect(payloads);
            Ok(Response::IkeIntermediate(match parts.first_error() {
                Some(error) => IntermediateReply::Refused(error),
                None => IntermediateReply::Accepted(parts.intermediate()),
            }))
        }
        ExchangeType::IKE_FOLLOWUP_KE => followup_reply(payloads).map(Response::IkeFollowupKe),
        other => Err(DecodeError::UnknownExchange(other.0)),
    }
}

fn sa_init_reply(payloads: Vec<Payload>) -> Result<IkeSaInitReply, DecodeError> {
    let has_sa = payloads.iter().any(|payload| matches!(payload, Payload::Sa(_)));
    if !has_sa {
        let mut parts = Parts::collect(payloads);
        let puzzle = parts.puzzle()?;
        if let Some(cookie) = parts.cookie()? {
            return Ok(IkeSaInitReply::Cookie { cookie, puzzle });
        }
        // RFC 8019 §7.1.2: without a cookie "this message is malformed because it requests to solve the puzzle but doesn't provide
        // enough information to allow the puzzle to be solved. In this case, the Initiator MUST ignore the received message".
        if puzzle.is_some() {
            return Err(missing("IKE_SA_INIT response with PUZZLE", "COOKIE"));
        }
        if let Some(notify) = parts.take(NotifyType::REDIRECT).first() {
            return Redirect::decode(notify).map(IkeSaInitReply::Redirect);
        }
        let error = parts
            .first_error()
            .ok_or_else(|| missing("IKE_SA_INIT response", "SA"))?;
        return match (error.notify_type, <[u8; 2]>::try_from(error.data.as_slice())) {
            // RFC 7296 §1.3: the data is the accepted group number, two octets.
            (NotifyType::INVALID_KE_PAYLOAD, Ok(group)) => {
                Ok(IkeSaInitReply::InvalidKe(KeMethod(u16::from_be_bytes(group))))
            }
            (NotifyType::INVALID_KE_PAYLOAD, Err(_)) => Err(DecodeError::Invalid {
                what: "INVALID_KE_PAYLOAD",
                why: "the data is not a group number",
            }),
            _ => Ok(IkeSaInitReply::Refused(error)),
        };
    }
    rules::check("IKE_SA_INIT response", rules::SA_INIT_RESPONSE, &payloads)?;
    let mut parts = Parts::collect(payloads);
    let (nat_source, nat_destination) = parts.nat_detection();
    Ok(IkeSaInitReply::Accepted(Box::new(IkeSaInitResponse {
        sa: need(parts.sa.take(), "SA")?,
        ke: need(parts.ke.take(), "KE")?,
        nonce: need(parts.nonce.take(), "NONCE")?,
        nat_source,
        nat_destination,
        capabilities: parts.capabilities()?,
        // One that can't be read is not understood, and the rest of the answer is good.
        puzzle: parts.puzzle().unwrap_or_default(),
        certreqs: parts.certreqs,
        vendor_ids: parts.vendor_ids,
        other: parts.notifies,
    })))
}

fn auth_reply(payloads: Vec<Payload>) -> Result<IkeAuthReply, DecodeError> {
    let authenticates = payloads.iter().any(|payload| matches!(payload, Payload::Auth(_)));
    if !authenticates {
        let error = Parts::collect(payloads)
            .first_error()
            .ok_or_else(|| missing("IKE_AUTH response", "AUTH"))?;
        return Ok(IkeAuthReply::Refused(error));
    }
    rules::check("IKE_AUTH response", rules::AUTH_RESPONSE, &payloads)?;
    let mut parts = Parts::collect(payloads);
    // RFC 7296 §1.2: "If creating the Child SA during the IKE_AUTH exchange fails for some reason, the IKE SA is still
    // created as usual": an error notify beside AUTH is about the Child SA.
    let child = match parts.child("IKE_AUTH response")? {
        Some(child) => Some(Ok(child)),
        None => parts.first_error().map(Err),
    };
    parts.no_sa_is_left("IKE_AUTH response")?;
    Ok(IkeAuthReply::Accepted(Box::new(IkeAuthResponse {
        id_r: need(parts.id_r.take(), "IDR")?,
        auth: need(parts.auth.take(), "AUTH")?,
        initial_contact: parts.flag(NotifyType::INITIAL_CONTACT),
        mobike: parts.flag(NotifyType::MOBIKE_SUPPORTED),
        ppk: parts.flag(NotifyType::PPK_IDENTITY),
        qcd_token: parts.data(NotifyType::QUICK_CRASH_DETECTION),
        ticket: TicketAnswer::take(&mut parts.notifies),
        certs: parts.certs,
        child,
        configuration: parts.configuration,
        other: parts.notifies,
    })))
}

fn create_child_reply(payloads: Vec<Payload>) -> Result<CreateChildSaReply, DecodeError> {
    let has_sa = payloads.iter().any(|payload| matches!(payload, Payload::Sa(_)));
    if !has_sa {
        let error = Parts::collect(payloads)
            .first_error()
            .ok_or_else(|| missing("CREATE_CHILD_SA response", "SA"))?;
        return Ok(CreateChildSaReply::Refused(error));
    }
    rules::check("CREATE_CHILD_SA response", rules::CREATE_CHILD, &payloads)?;
    let mut parts = Parts::collect(payloads);
    let child = parts.child("CREATE_CHILD_SA response")?;
    let nonce = need(parts.nonce.take(), "NONCE")?;
    let link = parts.link();
    Ok(match child {
        Some(child) => CreateChildSaReply::Child {
            child,
            nonce,
            ke: parts.ke,
            link,
            other: parts.notifies,
        },
        None => CreateChildSaReply::Ike {
            sa: need(parts.sa.take(), "SA")?,
            nonce,
            ke: need(parts.ke.take(), "KE")?,
            link,
            other: parts.notifies,
        },
    })
}

fn followup_reply(payloads: Vec<Payload>) -> Result<FollowupReply, DecodeError> {
    let has_ke = payloads.iter().any(|payload| matches!(payload, Payload::Ke(_)));
    if !has_ke {
        let error = Parts::collect(payloads).first_error();
        return error
            .map(FollowupReply::Refused)
            .ok_or_else(|| missing("IKE_FOLLOWUP_KE response", "KE"));
    }
    rules::check("IKE_FOLLOWUP_KE response", rules::FOLLOWUP_KE, &payloads)?;
    Parts::collect(payloads).followup().map(FollowupReply::Accepted)
}

fn informational(exchange: &'static str, payloads: Vec<Payload>) -> Result<Informational, DecodeError> {
    rules::check(exchange, rules::INFORMATIONAL, &payloads)?;
    let parts = Parts::collect(payloads);
    Ok(Informational {
        deletes: parts.deletes,
        notifies: parts.notifies,
        configuration: parts.configuration,
    })
}

/// A message's payloads by kind. The rules have counted them, so a later one of a kind never overwrites an earlier one
/// where that matters.
#[derive(Default)]
pub(super) struct Parts {
    sa: Option<SecurityAssociation>,
    ke: Option<KeyExchange>,
    pub(super) nonce: Option<Nonce>,
    id_i: Option<Identification>,
    id_r: Option<Identification>,
    auth: Option<Authentication>,
    ts_i: Option<Vec<TrafficSelector>>,
    ts_r: Option<Vec<TrafficSelector>>,
    configuration: Option<Configuration>,
    solution: Option<Vec<u8>>,
    certs: Vec<Certificate>,
    certreqs: Vec<CertificateRequest>,
    vendor_ids: Vec<Vec<u8>>,
    deletes: Vec<Delete>,
    pub(super) notifies: Vec<Notify>,
}

impl Parts {
    pub(super) fn collect(payloads: Vec<Payload>) -> Self {
        let mut parts = Self::default();
        for payload in payloads {
            match payload {
                Payload::Sa(sa) => parts.sa = Some(sa),
                Payload::Ke(ke) => parts.ke = Some(ke),
                Payload::Nonce(nonce) => parts.nonce = Some(nonce),
                Payload::IdI(id) => parts.id_i = Some(id),
                Payload::IdR(id) => parts.id_r = Some(id),
                Payload::Auth(auth) => parts.auth = Some(auth),
                Payload::TsI(ts) => parts.ts_i = Some(ts),
                Payload::TsR(ts) => parts.ts_r = Some(ts),
                Payload::Cp(cp) => parts.configuration = Some(cp),
                Payload::PuzzleSolution(solution) => parts.solution = Some(solution),
                Payload::Cert(cert) => parts.certs.push(cert),
                Payload::CertReq(request) => parts.certreqs.push(request),
                Payload::VendorId(id) => parts.vendor_ids.push(id),
                Payload::Delete(delete) => parts.deletes.push(delete),
                Payload::Notify(notify) => parts.notifies.push(notify),
                // RFC 7296 §2.5: not critical, so skipped.
                Payload::Unknown { .. } => {}
            }
        }
        parts
    }

    fn intermediate(self) -> Intermediate {
        Intermediate {
            ke: self.ke,
            notifies: self.notifies,
        }
    }

    fn followup(mut self) -> Result<FollowupKe, DecodeError> {
        Ok(FollowupKe {
            ke: need(self.ke.take(), "KE")?,
            link: self.link(),
            other: self.notifies,
        })
    }

    /// RFC 9370 §2.2.4: what links an exchange to the one before it.
    fn link(&mut self) -> Option<Vec<u8>> {
        self.data(NotifyType::ADDITIONAL_KEY_EXCHANGE)
    }

    /// The data of a notify.
    pub(super) fn data(&mut self, wanted: NotifyType) -> Option<Vec<u8>> {
        self.take(wanted).into_iter().next().map(|notify| notify.data)
    }

    /// RFC 7296 §3.10.1: unrecognized error types "in a request ... MUST be ignored"; no known one means anything there.
    pub(super) fn drop_errors(&mut self) {
        self.notifies.retain(|notify| !notify.notify_type.is_error());
    }

    pub(super) fn first_error(&mut self) -> Option<Notify> {
        let index = self.notifies.iter().position(|notify| notify.notify_type.is_error())?;
        Some(self.notifies.remove(index))
    }

    /// Takes all notifies of a type out.
    pub(super) fn take(&mut self, wanted: NotifyType) -> Vec<Notify> {
        self.notifies
            .extract_if(.., |notify| notify.notify_type == wanted)
            .collect()
    }

    fn flag(&mut self, wanted: NotifyType) -> bool {
        !self.take(wanted).is_empty()
    }

    /// RFC 7296 §2.6: "Cookie ... MUST be between 1 and 64 octets in length (inclusive)".
    pub(super) fn cookie(&mut self) -> Result<Option<Vec<u8>>, DecodeError> {
        match self.take(NotifyType::COOKIE).into_iter().next() {
            Some(notify) if (1..=64).contains(&notify.data.len()) => Ok(Some(notify.data)),
            Some(notify) => Err(DecodeError::BadLength {
                what: "COOKIE",
                length: notify.data.len(),
            }),
            None => Ok(None),
        }
    }

    /// RFC 8019 §8.1.
    fn puzzle(&mut self) -> Result<Option<PuzzleNotify>, DecodeError> {
        let notify = self.take(NotifyType::PUZZLE).into_iter().next();
        notify.as_ref().map(PuzzleNotify::read).transpose()
    }

    /// RFC 7296 §2.23. A digest that is not 20 octets long matches no address; it stands as zeroes, which no hash is.
    pub(super) fn nat_detection(&mut self) -> (Vec<[u8; 20]>, Vec<[u8; 20]>) {
        let digests = |list: Vec<Notify>| list.into_iter().map(|n| n.data.try_into().unwrap_or([0; 20])).collect();
        (
            digests(self.take(NotifyType::NAT_DETECTION_SOURCE_IP)),
            digests(self.take(NotifyType::NAT_DETECTION_DESTINATION_IP)),
        )
    }

    pub(super) fn capabilities(&mut self) -> Result<Capabilities, DecodeError> {
        let signature_hashes = match self.take(NotifyType::SIGNATURE_HASH_ALGORITHMS).into_iter().next() {
            // RFC 7427 §4: "The Notification Data field contains the list of 16-bit hash algorithm identifiers".
            Some(notify) if notify.data.len() % 2 != 0 => {
                return Err(DecodeError::BadLength {
                    what: "SIGNATURE_HASH_ALGORITHMS",
                    length: notify.data.len(),
                });
            }
            Some(notify) => Some(
                notify
                    .data
                    .chunks_exact(2)
                    .map(|c| HashAlgorithm(u16::from_be_bytes([c[0], c[1]])))
                    .collect(),
            ),
            None => None,
        };
        Ok(Capabilities {
            fragmentation: self.flag(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED),
            signature_hashes,
            intermediate: self.flag(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED),
            childless: self.flag(NotifyType::CHILDLESS_IKEV2_SUPPORTED),
            ppk: self.flag(NotifyType::USE_PPK),
            redirect: RedirectSupport::take(self),
        })
    }

    /// RFC 9347 §6.1.4: one octet of flags. What is longer or shorter asks for something that we don't understand: then it is
    /// as if all flags were set.
    fn aggfrag(&mut self) -> Option<AggfragFlags> {
        let notify = self.take(NotifyType::USE_AGGFRAG).into_iter().next()?;
        Some(match notify.data.as_slice() {
            [flags] => AggfragFlags(*flags),
            _ => AggfragFlags(u8::MAX),
        })
    }

    /// RFC 7296 §1.3.3: protocol and SPI of the SA to be rekeyed, as the sender of the request receives on it.
    fn rekey_sa(&mut self) -> Result<Option<u32>, DecodeError> {
        match self.take(NotifyType::REKEY_SA).into_iter().next() {
            None => Ok(None),
            Some(notify) => match (notify.protocol, <[u8; 4]>::try_from(notify.spi.as_slice())) {
                (ProtocolId::ESP, Ok(spi)) => Ok(Some(u32::from_be_bytes(spi))),
                _ => Err(DecodeError::Invalid {
                    what: "REKEY_SA",
                    why: "it names no ESP SA",
                }),
            },
        }
    }

    /// RFC 7296 §1.2: in IKE_AUTH an SA payload is the offer of a Child SA, which has selectors.
    const fn no_sa_is_left(&self, exchange: &'static str) -> Result<(), DecodeError> {
        match self.sa {
            Some(_) => Err(missing(exchange, "TSI")),
            None => Ok(()),
        }
    }

    /// SA, TSi and TSr come together or not at all; the SA stays where it is when there are no selectors (IKE rekey).
    fn child(&mut self, exchange: &'static str) -> Result<Option<ChildPayloads>, DecodeError> {
        let (ts_i, ts_r) = match (self.ts_i.take(), self.ts_r.take()) {
            (Some(ts_i), Some(ts_r)) => (ts_i, ts_r),
            (None, None) => return Ok(None),
            (None, _) => return Err(missing(exchange, "TSI")),
            (_, None) => return Err(missing(exchange, "TSR")),
        };
        Ok(Some(ChildPayloads {
            sa: self.sa.take().ok_or_else(|| missing(exchange, "SA"))?,
            ts_i,
            ts_r,
            transport_mode: self.flag(NotifyType::USE_TRANSPORT_MODE),
            no_tfc_padding: self.flag(NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED),
            non_first_fragments: self.flag(NotifyType::NON_FIRST_FRAGMENTS_ALSO),
            aggfrag: self.aggfrag(),
            resource_info: self.flag(NotifyType::SA_RESOURCE_INFO),
            additional_ts_possible: self.flag(NotifyType::ADDITIONAL_TS_POSSIBLE),
        }))
    }
}

/// What the rules have already made sure of.
pub(super) fn need<T>(part: Option<T>, payload: &'static str) -> Result<T, DecodeError> {
    part.ok_or_else(|| missing("message", payload))
}

pub(super) const fn missing(exchange: &'static str, payload: &'static str) -> DecodeError {
    DecodeError::Rule {
        exchange,
        payload,
        problem: "is missing",
    }
}
