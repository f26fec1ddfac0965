//! Keys for whoever has to decrypt a capture: nothing of this is made unless [`super::Endpoint::export_keys`] was called.

use super::event::Event;
use super::keys::{IkeKeys, Origin};
use super::sa::IkeSa;
use super::shared::Shared;
use crate::crypto::{CipherSuite, Secret, cipher};
use crate::policy::proposal::{EspSuite, IkeSuite};
use crate::policy::sad::{ChildSaEntry, ConnectionName, Path};
use crate::wire::IkeSpi;
use std::sync::Arc;

/// The keys of an SA that was just installed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ExportedKeys {
    /// An IKE SA, not yet authenticated if it is not a rekeyed one.
    Ike(IkeSaKeys),
    /// A Child SA pair.
    Child(ChildSaKeys),
}

/// Of an IKE SA (RFC 7296 §2.14).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct IkeSaKeys {
    /// Whose; unknown to a responder before IKE_AUTH.
    pub connection: Option<ConnectionName>,
    /// Outer addresses.
    pub path: Path,
    /// SPIs.
    pub spi_i: IkeSpi,
    /// SPIs.
    pub spi_r: IkeSpi,
    /// Whether we began it.
    pub initiator: bool,
    /// Algorithms.
    pub suite: IkeSuite,
    /// Ni.
    pub ni: Vec<u8>,
    /// Nr.
    pub nr: Vec<u8>,
    /// g^ir.
    pub shared: Secret,
    /// SK(1) to SK(n) of a rekey (RFC 9370 §2.2.4).
    pub further: Vec<Secret>,
    /// SK_d.
    pub d: Secret,
    /// SK_ei with salt, and SK_ai (empty with an AEAD).
    pub cipher_i: (Secret, Secret),
    /// SK_er with salt, and SK_ar.
    pub cipher_r: (Secret, Secret),
    /// SK_pi.
    pub pi: Secret,
    /// SK_pr.
    pub pr: Secret,
}

/// Of a Child SA pair (RFC 7296 §2.17).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ChildSaKeys {
    /// SPIs, selectors, addresses.
    pub entry: Arc<ChildSaEntry>,
    /// Algorithms.
    pub suite: EspSuite,
    /// Ni of the exchange that made it.
    pub ni: Vec<u8>,
    /// Nr.
    pub nr: Vec<u8>,
    /// g^ir of that exchange, if it had a key exchange of its own.
    pub shared: Option<Secret>,
    /// SK(1) to SK(n) (RFC 9370 §2.2.4).
    pub further: Vec<Secret>,
    /// Receiving: encryption key with salt, and integrity key (empty with an AEAD).
    pub inbound: (Secret, Secret),
    /// Sending.
    pub outbound: (Secret, Secret),
}

/// Encryption key with salt, and integrity key.
fn split(suite: CipherSuite, key: &Secret) -> (Secret, Secret) {
    let at = cipher::sizes(suite).map_or(0, |sizes| sizes.key + sizes.salt);
    let (encryption, integrity) = key.expose().split_at(at.min(key.expose().len()));
    (Secret::new(encryption.to_vec()), Secret::new(integrity.to_vec()))
}

/// An IKE SA's keys are about to be used.
pub fn ike(shared: &mut Shared, sa: &IkeSa, keys: &IkeKeys, origin: &Origin) {
    let (true, Some(secret)) = (shared.export_keys, origin.secrets.first.clone()) else {
        return;
    };
    let cipher = keys.suite.cipher;
    let exported = IkeSaKeys {
        connection: sa.name(),
        path: sa.path,
        spi_i: sa.spi_i,
        spi_r: sa.spi_r,
        initiator: sa.initiator,
        suite: keys.suite,
        ni: origin.ni.clone(),
        nr: origin.nr.clone(),
        shared: secret,
        further: origin.secrets.further.clone(),
        d: keys.d.clone(),
        cipher_i: split(cipher, &keys.cipher_i),
        cipher_r: split(cipher, &keys.cipher_r),
        pi: keys.pi.clone(),
        pr: keys.pr.clone(),
    };
    shared.event(Event::Keys(Box::new(ExportedKeys::Ike(exported))));
}

/// A Child SA pair's keys are about to be used.
pub fn child(shared: &mut Shared, entry: &Arc<ChildSaEntry>, suite: EspSuite, origin: &Origin) {
    if !shared.export_keys {
        return;
    }
    let exported = ChildSaKeys {
        entry: Arc::clone(entry),
        suite,
        ni: origin.ni.clone(),
        nr: origin.nr.clone(),
        shared: origin.secrets.first.clone(),
        further: origin.secrets.further.clone(),
        inbound: split(suite.cipher, &entry.inbound.key),
        outbound: split(suite.cipher, &entry.outbound.key),
    };
    shared.event(Event::Keys(Box::new(ExportedKeys::Child(exported))));
}
