//! Key derivation (RFC 7296 §2.13, §2.14, §2.17, §2.18; RFC 5282 §7.1; RFC 5723 §5.1).

use crate::crypto::{Provider, Secret, cipher};
use crate::policy::proposal::{EspSuite, IkeSuite};
use crate::wire::IkeSpi;

/// Everything derived for one IKE SA.
#[derive(Clone)]
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
    /// What they were derived from, until they are installed.
    pub origin: Option<Box<Origin>>,
}

/// What keys were derived from. It is dropped (and zeroized) when they are installed; only `super::export` looks at it.
#[derive(Clone)]
pub struct Origin {
    /// Ni.
    pub ni: Vec<u8>,
    /// Nr.
    pub nr: Vec<u8>,
    /// What was agreed.
    pub secrets: Secrets,
}

/// The shared secrets that keys come from.
#[derive(Clone, Default)]
pub struct Secrets {
    /// SK(0), or g^ir: of the exchange itself, if it had a key exchange.
    pub first: Option<Secret>,
    /// SK(1) to SK(n): of the exchanges that followed it (RFC 9370 §2.2.4).
    pub further: Vec<Secret>,
}

impl Secrets {
    /// Those of an exchange that nothing follows.
    #[must_use]
    pub const fn of(first: Option<Secret>) -> Self {
        Self {
            first,
            further: Vec::new(),
        }
    }

    /// `SK(0) | Ni | Nr | SK(1) | ... SK(n)`
    fn seed<'a>(&'a self, ni: &'a [u8], nr: &'a [u8]) -> Vec<&'a [u8]> {
        let first = self.first.as_ref().map_or(&[][..], Secret::expose);
        let further = self.further.iter().map(Secret::expose);
        [first, ni, nr].into_iter().chain(further).collect()
    }
}

impl Origin {
    fn new(ni: &[u8], nr: &[u8], secrets: &Secrets) -> Option<Box<Self>> {
        Some(Box::new(Self {
            ni: ni.to_vec(),
            nr: nr.to_vec(),
            secrets: secrets.clone(),
        }))
    }
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
    /// What they were derived from, until they are installed.
    pub origin: Option<Box<Origin>>,
}

impl IkeKeys {
    /// SKEYSEED = prf(Ni | Nr, g^ir) and what follows (§2.14); `None` if the provider lacks an algorithm.
    #[must_use]
    pub fn derive(provider: &Provider, suite: IkeSuite, shared: &Secret, binding: &Binding<'_>) -> Option<Self> {
        let prf = (provider.prf)(suite.prf)?;
        let skeyseed = prf.prf(&[binding.ni, binding.nr].concat(), &[shared.expose()]);
        Self::expand(provider, suite, &skeyseed, &Secrets::of(Some(shared.clone())), binding)
    }

    /// Keys of the SA that replaces this one: SKEYSEED = prf(SK_d (old), g^ir (new) | Ni | Nr) with the old SA's PRF
    /// (§2.18), the rest with the new one's. RFC 9370 §2.2.4: `SKEYSEED = prf(SK_d, SK(0) | Ni | Nr | SK(1) | ... SK(n))`.
    #[must_use]
    pub fn rekey(
        &self,
        provider: &Provider,
        suite: IkeSuite,
        secrets: &Secrets,
        binding: &Binding<'_>,
    ) -> Option<Self> {
        let old_prf = (provider.prf)(self.suite.prf)?;
        let skeyseed = old_prf.prf(self.d.expose(), &secrets.seed(binding.ni, binding.nr));
        Self::expand(provider, suite, &skeyseed, secrets, binding)
    }

    /// Keys of an IKE SA that is resumed: `SKEYSEED = prf(SK_d_old, "Resumption" | Ni | Nr)` (RFC 5723 §5.1: "The literal string is
    /// encoded as 10 ASCII characters, with no NULL terminator"), the rest as ever.
    #[must_use]
    pub fn resume(provider: &Provider, suite: IkeSuite, old: &Secret, binding: &Binding<'_>) -> Option<Self> {
        let prf = (provider.prf)(suite.prf)?;
        let skeyseed = prf.prf(old.expose(), &[b"Resumption", binding.ni, binding.nr]);
        Self::expand(provider, suite, &skeyseed, &Secrets::default(), binding)
    }

    /// {SK_d | SK_ai | SK_ar | SK_ei | SK_er | SK_pi | SK_pr} = prf+(SKEYSEED, Ni | Nr | SPIi | SPIr) (§2.14). With an
    /// AEAD there are no SK_a*, and SK_e* include the salt (RFC 5282 §7.1).
    fn expand(
        provider: &Provider,
        suite: IkeSuite,
        skeyseed: &Secret,
        secrets: &Secrets,
        binding: &Binding<'_>,
    ) -> Option<Self> {
        let prf = (provider.prf)(suite.prf)?;
        let sizes = (provider.sizes)(suite.cipher)?;
        let (pk, ek, ak) = (prf.output_len(), sizes.key + sizes.salt, sizes.integrity_key);
        let seed = [binding.ni, binding.nr, &binding.spi_i.0, &binding.spi_r.0];
        let stream = prf.prf_plus(skeyseed.expose(), &seed, 3 * pk + 2 * ek + 2 * ak)?;
        let mut rest = stream.expose();
        let mut cut = |len: usize| {
            let (taken, left) = rest.split_at(len);
            rest = left;
            taken
        };
        let d = Secret::new(cut(pk).to_vec());
        let (ai, ar, ei, er) = (cut(ak), cut(ak), cut(ek), cut(ek));
        let cipher_i = Secret::new([ei, ai].concat());
        let cipher_r = Secret::new([er, ar].concat());
        let (pi, pr) = (Secret::new(cut(pk).to_vec()), Secret::new(cut(pk).to_vec()));
        Some(Self {
            suite,
            d,
            cipher_i,
            cipher_r,
            pi,
            pr,
            origin: Origin::new(binding.ni, binding.nr, secrets),
        })
    }

    /// KEYMAT = prf+(SK_d, [g^ir (new) |] Ni | Nr) (§2.17), or `prf+ (SK_d, SK(0) | Ni | Nr | SK(1) |  ... SK(n))` (RFC 9370
    /// §2.2.4).
    #[must_use]
    pub fn child(
        &self,
        provider: &Provider,
        suite: &EspSuite,
        secrets: &Secrets,
        ni: &[u8],
        nr: &[u8],
    ) -> Option<ChildKeys> {
        let prf = (provider.prf)(self.suite.prf)?;
        // The suite is ESP's: NULL is among them, which no provider of IKE has.
        let each = cipher::sizes(suite.cipher)?.key_material();
        let keymat = prf.prf_plus(self.d.expose(), &secrets.seed(ni, nr), 2 * each)?;
        // §2.17: "All keys for SAs carrying data from the initiator to the responder are taken before SAs going from the
        // responder to the initiator", and the encryption key before the integrity key.
        let (first, second) = keymat.expose().split_at(each);
        Some(ChildKeys {
            initiator_to_responder: Secret::new(first.to_vec()),
            responder_to_initiator: Secret::new(second.to_vec()),
            origin: Origin::new(ni, nr, secrets),
        })
    }
}
