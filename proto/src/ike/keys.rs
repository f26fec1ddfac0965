//! Key derivation (RFC 7296 §2.13, §2.14, §2.17, §2.18; RFC 5282 §7.1).

use crate::crypto::{Provider, Secret};
use crate::policy::proposal::{EspSuite, IkeSuite};
use crate::wire::IkeSpi;

/// Everything derived for one IKE SA.
pub struct IkeKeys {
    /// The suite they were derived for.
    pub suite: IkeSuite,
    /// SK_d.
    pub d: Secret,
    /// SK_ai | SK_ei in the order a [`crate::crypto::PacketCipher`] wants: encryption key, salt, integrity key.
    pub cipher_i: Secret,
    /// The same of the responder.
    pub cipher_r: Secret,
    /// SK_pi.
    pub pi: Secret,
    /// SK_pr.
    pub pr: Secret,
}

/// The nonces and SPIs a derivation is bound to.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// Ni.
    pub ni: &'a [u8],
    /// Nr.
    pub nr: &'a [u8],
    /// SPIi of the new SA.
    pub spi_i: IkeSpi,
    /// SPIr of the new SA.
    pub spi_r: IkeSpi,
}

/// KEYMAT of a Child SA, cut for the two directions.
pub struct ChildKeys {
    /// From the exchange's initiator to its responder.
    pub initiator_to_responder: Secret,
    /// The other way.
    pub responder_to_initiator: Secret,
}

impl IkeKeys {
    /// SKEYSEED = prf(Ni | Nr, g^ir) and what follows (§2.14); `None` if the provider lacks an algorithm.
    #[must_use]
    pub fn derive(provider: &Provider, suite: IkeSuite, shared: &Secret, binding: &Binding<'_>) -> Option<Self> {
        let _ = (provider, suite, shared, binding);
        todo!()
    }

    /// Keys of the SA that replaces this one: SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr) with the old SA's PRF
    /// (§2.18), the rest with the new one's.
    #[must_use]
    pub fn rekey(&self, provider: &Provider, suite: IkeSuite, shared: &Secret, binding: &Binding<'_>) -> Option<Self> {
        let _ = (provider, suite, shared, binding);
        todo!()
    }

    /// KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr) (§2.17).
    #[must_use]
    pub fn child(
        &self,
        provider: &Provider,
        suite: &EspSuite,
        shared: Option<&Secret>,
        ni: &[u8],
        nr: &[u8],
    ) -> Option<ChildKeys> {
        let _ = (provider, suite, shared, ni, nr);
        todo!()
    }
}
