//! Typed messages -> payloads, in the RFC's order.

use super::message::{
    Capabilities, ChildPayloads, CreateChildSaKind, CreateChildSaReply, FollowupKe, FollowupReply, IkeAuthReply,
    IkeSaInitReply, Informational, Intermediate, IntermediateReply, Request, Response,
};
use super::payload::{Notify, Payload};
use super::{NotifyType, ProtocolId, ticket};

/// A typed request as payloads in the RFC's order.
#[must_use]
pub fn encode_request(request: &Request) -> Vec<Payload> {
    let mut out = Vec::new();
    match request {
        Request::IkeSaInit(m) => {
            // RFC 7296 §2.6: the cookie is "the first payload".
            out.extend(m.cookie.iter().map(|cookie| notify(NotifyType::COOKIE, cookie)));
            // RFC 8019 §7.1.2: "HDR, N(COOKIE), [PS,] SA, KE, Ni".
            out.extend(m.solution.clone().map(Payload::PuzzleSolution));
            out.push(Payload::Sa(m.sa.clone()));
            out.push(Payload::Ke(m.ke.clone()));
            out.push(Payload::Nonce(m.nonce.clone()));
            push_announcements(
                &mut out,
                &m.nat_source,
                &m.nat_destination,
                &m.capabilities,
                &m.vendor_ids,
                &m.other,
            );
        }
        Request::IkeSessionResume(m) => ticket::encode_request(&mut out, m),
        Request::IkeAuth(m) => {
            out.push(Payload::IdI(m.id_i.clone()));
            out.extend(m.certs.iter().cloned().map(Payload::Cert));
            out.extend(m.initial_contact.then(|| notify(NotifyType::INITIAL_CONTACT, &[])));
            out.extend(m.certreqs.iter().cloned().map(Payload::CertReq));
            out.extend(m.id_r.clone().map(Payload::IdR));
            out.extend(m.auth.clone().map(Payload::Auth));
            push_token(&mut out, m.qcd_token.as_deref());
            out.extend(m.configuration.clone().map(Payload::Cp));
            m.child.iter().for_each(|child| push_child(&mut out, child, None));
            out.extend(m.mobike.then(|| notify(NotifyType::MOBIKE_SUPPORTED, &[])));
            out.extend(m.ppk_identity.as_deref().map(|id| notify(NotifyType::PPK_IDENTITY, id)));
            out.extend(
                m.no_ppk_auth
                    .as_deref()
                    .map(|data| notify(NotifyType::NO_PPK_AUTH, data)),
            );
            out.extend(m.ticket_request.then(|| notify(NotifyType::TICKET_REQUEST, &[])));
            out.extend(m.other.iter().cloned().map(Payload::Notify));
        }
        Request::CreateChildSa(m) => {
            let middle = std::iter::once(Payload::Nonce(m.nonce.clone()))
                .chain(m.ke.clone().map(Payload::Ke))
                .collect();
            match &m.kind {
                CreateChildSaKind::NewChild(child) => push_child(&mut out, child, Some(middle)),
                CreateChildSaKind::RekeyChild { rekeyed, child } => {
                    out.push(Payload::Notify(Notify {
                        protocol: ProtocolId::ESP,
                        spi: rekeyed.to_be_bytes().to_vec(),
                        notify_type: NotifyType::REKEY_SA,
                        data: Vec::new(),
                    }));
                    push_child(&mut out, child, Some(middle));
                }
                CreateChildSaKind::RekeyIke(sa) => {
                    out.push(Payload::Sa(sa.clone()));
                    out.extend(middle);
                }
            }
            out.extend(m.other.iter().cloned().map(Payload::Notify));
        }
        Request::Informational(m) => push_informational(&mut out, m),
        Request::IkeIntermediate(m) => push_intermediate(&mut out, m),
        Request::IkeFollowupKe(m) => push_followup(&mut out, m),
    }
    out
}

/// A typed response as payloads in the RFC's order.
#[must_use]
pub fn encode_response(response: &Response) -> Vec<Payload> {
    let mut out = Vec::new();
    match response {
        Response::IkeSaInit(IkeSaInitReply::Accepted(m)) => {
            out.push(Payload::Sa(m.sa.clone()));
            out.push(Payload::Ke(m.ke.clone()));
            out.push(Payload::Nonce(m.nonce.clone()));
            // RFC 8019 §7.2.1, figure 4: "HDR, SA, KE, Nr, N(PUZZLE)".
            out.extend(m.puzzle.map(|puzzle| Payload::Notify(puzzle.notify())));
            out.extend(m.certreqs.iter().cloned().map(Payload::CertReq));
            push_announcements(
                &mut out,
                &m.nat_source,
                &m.nat_destination,
                &m.capabilities,
                &m.vendor_ids,
                &m.other,
            );
        }
        Response::IkeSaInit(IkeSaInitReply::Cookie { cookie, puzzle }) => {
            out.push(notify(NotifyType::COOKIE, cookie));
            out.extend(puzzle.map(|puzzle| Payload::Notify(puzzle.notify())));
        }
        Response::IkeSaInit(IkeSaInitReply::Redirect(redirect)) => out.push(Payload::Notify(redirect.notify())),
        Response::IkeSaInit(IkeSaInitReply::InvalidKe(group)) => {
            out.push(notify(NotifyType::INVALID_KE_PAYLOAD, &group.0.to_be_bytes()));
        }
        Response::IkeSaInit(IkeSaInitReply::Refused(error))
        | Response::IkeAuth(IkeAuthReply::Refused(error))
        | Response::IkeIntermediate(IntermediateReply::Refused(error))
        | Response::IkeFollowupKe(FollowupReply::Refused(error))
        | Response::CreateChildSa(CreateChildSaReply::Refused(error)) => out.push(Payload::Notify(error.clone())),
        Response::IkeSessionResume(reply) => ticket::encode_reply(&mut out, reply),
        Response::IkeAuth(IkeAuthReply::Accepted(m)) => {
            out.push(Payload::IdR(m.id_r.clone()));
            out.extend(m.certs.iter().cloned().map(Payload::Cert));
            out.push(Payload::Auth(m.auth.clone()));
            push_token(&mut out, m.qcd_token.as_deref());
            out.extend(m.configuration.clone().map(Payload::Cp));
            match &m.child {
                Some(Ok(child)) => push_child(&mut out, child, None),
                Some(Err(error)) => out.push(Payload::Notify(error.clone())),
                None => {}
            }
            out.extend(m.initial_contact.then(|| notify(NotifyType::INITIAL_CONTACT, &[])));
            out.extend(m.mobike.then(|| notify(NotifyType::MOBIKE_SUPPORTED, &[])));
            out.extend(m.ppk.then(|| notify(NotifyType::PPK_IDENTITY, &[])));
            out.extend(m.ticket.iter().map(|ticket| Payload::Notify(ticket.notify())));
            out.extend(m.other.iter().cloned().map(Payload::Notify));
        }
        Response::CreateChildSa(CreateChildSaReply::Child {
            child,
            nonce,
            ke,
            link,
            other,
        }) => {
            let middle = std::iter::once(Payload::Nonce(nonce.clone()))
                .chain(ke.clone().map(Payload::Ke))
                .collect();
            push_child(&mut out, child, Some(middle));
            push_link(&mut out, link.as_deref());
            out.extend(other.iter().cloned().map(Payload::Notify));
        }
        Response::CreateChildSa(CreateChildSaReply::Ike {
            sa,
            nonce,
            ke,
            link,
            other,
        }) => {
            out.push(Payload::Sa(sa.clone()));
            out.push(Payload::Nonce(nonce.clone()));
            out.push(Payload::Ke(ke.clone()));
            push_link(&mut out, link.as_deref());
            out.extend(other.iter().cloned().map(Payload::Notify));
        }
        Response::Informational(m) => push_informational(&mut out, m),
        Response::IkeIntermediate(IntermediateReply::Accepted(m)) => push_intermediate(&mut out, m),
        Response::IkeFollowupKe(FollowupReply::Accepted(m)) => push_followup(&mut out, m),
    }
    out
}

pub(super) fn notify(notify_type: NotifyType, data: &[u8]) -> Payload {
    Payload::Notify(Notify::new(notify_type, data.to_vec()))
}

/// RFC 6290 §4.2: it "should follow the AUTH payload and precede the Configuration payload and all payloads related to the child
/// SA"; §4.1: "Protocol ID (1 octet) MUST be 1".
fn push_token(out: &mut Vec<Payload>, token: Option<&[u8]>) {
    out.extend(token.map(|token| {
        let plain = Notify::new(NotifyType::QUICK_CRASH_DETECTION, token.to_vec());
        let protocol = ProtocolId::IKE;
        Payload::Notify(Notify { protocol, ..plain })
    }));
}

pub(super) fn push_announcements(
    out: &mut Vec<Payload>,
    nat_source: &[[u8; 20]],
    nat_destination: &[[u8; 20]],
    capabilities: &Capabilities,
    vendor_ids: &[Vec<u8>],
    other: &[Notify],
) {
    out.extend(
        nat_source
            .iter()
            .map(|digest| notify(NotifyType::NAT_DETECTION_SOURCE_IP, digest)),
    );
    out.extend(
        nat_destination
            .iter()
            .map(|digest| notify(NotifyType::NAT_DETECTION_DESTINATION_IP, digest)),
    );
    out.extend(
        capabilities
            .fragmentation
            .then(|| notify(NotifyType::IKEV2_FRAGMENTATION_SUPPORTED, &[])),
    );
    if let Some(hashes) = &capabilities.signature_hashes {
        let data: Vec<u8> = hashes.iter().flat_map(|hash| hash.0.to_be_bytes()).collect();
        out.push(notify(NotifyType::SIGNATURE_HASH_ALGORITHMS, &data));
    }
    out.extend(
        capabilities
            .intermediate
            .then(|| notify(NotifyType::INTERMEDIATE_EXCHANGE_SUPPORTED, &[])),
    );
    out.extend(
        capabilities
            .childless
            // RFC 6023 §4: "Protocol ID (1 octet) MUST be 1, as this message is related to an IKEv2 SA."
            .then(|| {
                let plain = Notify::new(NotifyType::CHILDLESS_IKEV2_SUPPORTED, Vec::new());
                let protocol = ProtocolId::IKE;
                Payload::Notify(Notify { protocol, ..plain })
            }),
    );
    out.extend(capabilities.ppk.then(|| notify(NotifyType::USE_PPK, &[])));
    out.extend(capabilities.redirect.map(|support| Payload::Notify(support.notify())));
    out.extend(vendor_ids.iter().cloned().map(Payload::VendorId));
    out.extend(other.iter().cloned().map(Payload::Notify));
}

/// SA, [nonce, KE,] TSi, TSr and the notifies that go with them.
fn push_child(out: &mut Vec<Payload>, child: &ChildPayloads, middle: Option<Vec<Payload>>) {
    for (set, notify_type) in [
        (child.transport_mode, NotifyType::USE_TRANSPORT_MODE),
        (child.no_tfc_padding, NotifyType::ESP_TFC_PADDING_NOT_SUPPORTED),
        (child.non_first_fragments, NotifyType::NON_FIRST_FRAGMENTS_ALSO),
        // RFC 9611 §3: it "MAY be empty".
        (child.resource_info, NotifyType::SA_RESOURCE_INFO),
    ] {
        out.extend(set.then(|| notify(notify_type, &[])));
    }
    // RFC 9347 §6.1.4: "The notification payload contains 1 octet of requirement flags."
    out.extend(child.aggfrag.map(|flags| notify(NotifyType::USE_AGGFRAG, &[flags.0])));
    out.push(Payload::Sa(child.sa.clone()));
    out.extend(middle.into_iter().flatten());
    out.push(Payload::TsI(child.ts_i.clone()));
    out.push(Payload::TsR(child.ts_r.clone()));
    out.extend(
        child
            .additional_ts_possible
            .then(|| notify(NotifyType::ADDITIONAL_TS_POSSIBLE, &[])),
    );
}

fn push_intermediate(out: &mut Vec<Payload>, message: &Intermediate) {
    out.extend(message.ke.clone().map(Payload::Ke));
    out.extend(message.notifies.iter().cloned().map(Payload::Notify));
}

fn push_followup(out: &mut Vec<Payload>, message: &FollowupKe) {
    out.push(Payload::Ke(message.ke.clone()));
    push_link(out, message.link.as_deref());
    out.extend(message.other.iter().cloned().map(Payload::Notify));
}

fn push_link(out: &mut Vec<Payload>, link: Option<&[u8]>) {
    out.extend(link.map(|link| notify(NotifyType::ADDITIONAL_KEY_EXCHANGE, link)));
}

fn push_informational(out: &mut Vec<Payload>, message: &Informational) {
    out.extend(message.notifies.iter().cloned().map(Payload::Notify));
    out.extend(message.deletes.iter().cloned().map(Payload::Delete));
    out.extend(message.configuration.clone().map(Payload::Cp));
}
