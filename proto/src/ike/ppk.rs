//! Post-quantum preshared keys (RFC 8784): a secret that both ends have beforehand goes into the keys of the IKE SA when it is
//! authenticated, and by them into all that come of it.

use super::error::IkeError;
use super::keys::IkeKeys;
use super::sa::IkeSa;
use super::shared::Shared;
use crate::crypto::{Provider, Secret};
use crate::policy::connection::Connection;
use crate::wire::Authentication;
use crate::wire::message::IkeAuthRequest;

impl IkeKeys {
    /// §3: `SK_d = prf+ (PPK, SK_d')`, and likewise SK_pi and SK_pr. What messages are protected with stays as it is.
    #[must_use]
    pub fn with_ppk(&self, provider: &Provider, ppk: &Secret) -> Option<Self> {
        let prf = (provider.prf)(self.suite.prf)?;
        let mix = |key: &Secret| prf.prf_plus(ppk.expose(), &[key.expose()], key.expose().len());
        Some(Self {
            d: mix(&self.d)?,
            pi: mix(&self.pi)?,
            pr: mix(&self.pr)?,
            ..self.clone()
        })
    }
}

/// The PPK of an IKE SA.
#[derive(Clone, Default)]
pub struct PpkState {
    /// Both have sent USE_PPK.
    pub negotiated: bool,
    /// It is in the keys, or will be if the responder has it too.
    pub used: bool,
    /// As initiator: the keys without it, until the responder has said whether it has it.
    without: Option<Box<IkeKeys>>,
}

/// As responder: what the peer's IKE_AUTH is verified with.
pub enum PeerProof {
    /// Its AUTH.
    Auth,
    /// NO_PPK_AUTH, "as the authentication data (which usually resides in the AUTH payload)".
    WithoutPpk(Authentication),
}

impl IkeSa {
    /// As initiator, before AUTH is made: the PPK goes into the keys. Returns the PPK_ID to send.
    ///
    /// # Errors
    /// The peer has none, and we insist on one.
    pub fn use_ppk(&mut self, shared: &Shared, connection: &Connection) -> Result<Option<Vec<u8>>, IkeError> {
        let ppk = &connection.ppk;
        let Some(own) = ppk.to_send().filter(|_| self.ppk.negotiated) else {
            // "If the responder did not include the USE_PPK notification and the flag mandatory_or_not indicates that using PPKs
            // is mandatory for communication with this responder, then the initiator MUST abort the exchange."
            let why = "the peer announces none, and ppk_required is set";
            return if ppk.required { Err(no_ppk(why)) } else { Ok(None) };
        };
        let keys = self.keys.as_ref().ok_or(IkeError::Internal("no keys"))?;
        let mixed = keys.with_ppk(shared.provider, &own.secret);
        let mixed = mixed.ok_or(IkeError::Internal("an algorithm is not available"))?;
        self.ppk.without = self.keys.replace(mixed).map(Box::new);
        self.ppk.used = true;
        Ok(Some(own.id.clone()))
    }

    /// As initiator: the keys for NO_PPK_AUTH, if the PPK is in use and may be left out.
    pub fn keys_without_ppk(&self, connection: &Connection) -> Option<&IkeKeys> {
        self.ppk.without.as_deref().filter(|_| !connection.ppk.required)
    }

    /// As initiator: whether the responder has the PPK, by its answer. "If the initiator does not receive the PPK_IDENTITY, it
    /// MUST either fail the IKE SA negotiation ... or continue without using the PPK".
    ///
    /// # Errors
    /// It has not, and we insist on it.
    pub fn settle_ppk(&mut self, connection: &Connection, confirmed: bool) -> Result<(), IkeError> {
        let Some(without) = self.ppk.without.take().filter(|_| !confirmed) else {
            return Ok(());
        };
        if connection.ppk.required {
            return Err(no_ppk(
                "the peer does not have the one that we sent the id of, and ppk_required is set",
            ));
        }
        self.keys = Some(*without);
        self.ppk.used = false;
        Ok(())
    }

    /// As responder: Table 1 of §3.
    ///
    /// # Errors
    /// Authentication fails.
    pub fn choose_ppk(
        &mut self,
        shared: &Shared,
        connection: &Connection,
        request: &IkeAuthRequest,
    ) -> Result<PeerProof, IkeError> {
        let ppk = &connection.ppk;
        if !self.ppk.negotiated {
            let why = "the peer announces none, or knows of none of ours, and ppk_required is set";
            return if ppk.required {
                Err(no_ppk(why))
            } else {
                Ok(PeerProof::Auth)
            };
        }
        // "If no PPK_IDENTITY notification is found and the peers successfully exchanged USE_PPK notifications in the
        // IKE_SA_INIT exchange, then the responder MUST send back an AUTHENTICATION_FAILED notification".
        let id = request
            .ppk_identity
            .as_ref()
            .ok_or_else(|| no_ppk("the peer announces one, and names none"))?;
        if let Some(known) = ppk.keys.iter().find(|known| known.id == *id) {
            let keys = self.keys.as_ref().ok_or(IkeError::Internal("no keys"))?;
            let mixed = keys.with_ppk(shared.provider, &known.secret);
            self.keys = Some(mixed.ok_or(IkeError::Internal("an algorithm is not available"))?);
            self.ppk.used = true;
            return Ok(PeerProof::Auth);
        }
        // "If using PPKs is mandatory or no NO_PPK_AUTH notification is found, then the responder MUST send back an
        // AUTHENTICATION_FAILED notification".
        let data = request.no_ppk_auth.clone().filter(|_| !ppk.required);
        let method = request.auth.as_ref().map(|auth| auth.method);
        match (data, method) {
            (Some(data), Some(method)) => Ok(PeerProof::WithoutPpk(Authentication { method, data })),
            _ => Err(no_ppk(&format!(
                "the peer names {:?}, which is not configured for it",
                String::from_utf8_lossy(id.get(1..).unwrap_or_default())
            ))),
        }
    }
}

fn no_ppk(why: &str) -> IkeError {
    IkeError::NoPpk(why.to_owned())
}
