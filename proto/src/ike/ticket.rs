//! Tickets (RFC 5723 §6): what a responder needs to resume an IKE SA, sealed under a key that only it has, and what it keeps beside
//! them.
//!
//! The key never leaves the process. SK_d is in no ticket: it is kept here, and forgotten when the ticket is used, withdrawn or over.
//! Who finds the key later, and has recorded the ticket when it was presented, learns who met, and nothing of what they said.
//! Certificates are too long for a message that can't be fragmented (RFC 7383 §3): a ticket holds their digest, and they are kept
//! here for as long as it lives.

use super::event::PeerCertificate;
use super::proven::Proven;
use crate::crypto::{CipherSuite, Encryption, Group, Integrity, PacketCipher, PrfAlgorithm, Provider, Secret};
use crate::policy::connection::RemoteAuth;
use crate::policy::proposal::{AdditionalGroups, IkeSuite};
use crate::policy::sad::ConnectionName;
use crate::time::{Instant, Now};
use crate::wire::{IdType, Identification, IkeSpi};
use rand_core::CryptoRng;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// No ticket lives longer. §6.2: "a finite lifetime MUST be specified for the ticket."
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// How long a key seals; it opens for [`LONGEST`] after that. §6.2: it "MUST have a lifetime that is significantly longer than
/// the lifetime of an IKE SA", §9.5: "The keys should be changed regularly."
const ROTATION: Duration = Duration::from_secs(24 * 3600);

/// A longer one would make IKE_SESSION_RESUME too long for one datagram of 1280 octets, with all that is around it.
const MOST_OCTETS: usize = 1000;

/// Tickets that are out; then those that are over first are not taken any more.
const MOST_OUT: usize = 65_536;

/// Chains of certificates that are kept for tickets, and octets of one: a peer may show what it likes beside its own.
const MOST_CHAINS: usize = 16_384;
const LONGEST_CHAIN: usize = 8 << 10;

/// §6.1: "The 'ticket by value' MUST additionally include a key identity field".
const KEY_ID: usize = 8;
const IV: usize = 8;
const ICV: usize = 16;

/// Version of the format: the first octet.
const VERSION: u8 = 1;

/// What seals them: "at least 128 bits in strength" (§9.5).
const CIPHER: CipherSuite = CipherSuite {
    encryption: Encryption::AesGcm16_256,
    integrity: None,
};

/// What a ticket says.
#[derive(Clone, Debug)]
pub struct TicketState {
    pub connection: ConnectionName,
    /// IDi.
    pub peer: Identification,
    /// IDr.
    pub own: Identification,
    /// The SPI we had chosen for the IKE SA: "to help the gateway locate corresponding old IKE state" (§5, note 4).
    pub spi: IkeSpi,
    pub suite: IkeSuite,
    pub d: Secret,
    pub post_quantum: bool,
    pub ppk: bool,
    /// When the key exchange was that its keys come of.
    pub exchanged: Instant,
    /// When the peer has to have authenticated anew (RFC 4478).
    pub reauth_end: Option<Instant>,
    pub proof: Proven,
}

/// Tickets that one IKE SA is given. A rekey begins anew.
pub const MOST_OF_ONE: u32 = 32;

/// A ticket that is out. What is over first comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Issued {
    /// Seconds since 1970.
    expires: u64,
    serial: u64,
}

/// A responder's tickets.
#[derive(Clone, Default)]
pub struct Tickets {
    current: Option<Key>,
    previous: Option<Key>,
    serial: u64,
    /// SK_d of those that are out. One that is not among them is not good: it was used, withdrawn, or is over.
    secrets: BTreeMap<Issued, Secret>,
    chains: BTreeMap<[u8; 32], Chain>,
    changed: BTreeMap<ConnectionName, Changed>,
}

#[derive(Clone)]
struct Key {
    id: [u8; KEY_ID],
    cipher: Arc<dyn PacketCipher>,
    /// Never repeated under one key.
    iv: u64,
    since: Instant,
}

#[derive(Clone)]
struct Chain {
    own: PeerCertificate,
    shown: Arc<[Vec<u8>]>,
    unix: u64,
    expires: u64,
}

/// What a new configuration means for the tickets of a connection.
#[derive(Clone, Copy, Default)]
struct Changed {
    /// Those up to this one are void.
    void: u64,
    /// What those up to this one were proven with has to be looked at again.
    recheck: u64,
    /// When, in seconds since 1970.
    unix: u64,
}

impl Tickets {
    /// Seals a ticket that is good for `lifetime`; none if it would be too long, or nothing more can be kept.
    pub fn issue(
        &mut self,
        now: Now,
        provider: &Provider,
        rng: &mut dyn CryptoRng,
        state: &TicketState,
        lifetime: Duration,
    ) -> Option<(Issued, Vec<u8>)> {
        let expires = now.unix.saturating_add(lifetime.as_secs());
        self.rotate(now.instant, provider, rng);
        self.keep_chain(now.unix, &state.proof, expires)?;
        let issued = Issued {
            serial: self.serial + 1,
            expires,
        };
        let key = self.current.as_mut()?;
        let mut text = state.encode(issued)?;
        if 1 + KEY_ID + IV + text.len() + ICV > MOST_OCTETS {
            return None;
        }
        key.iv = key.iv.wrapping_add(1);
        let (iv, mut icv) = (key.iv.to_be_bytes(), [0; ICV]);
        let head = [&[VERSION], key.id.as_slice()].concat();
        key.cipher.seal(&head, None, &iv, &mut text, &mut icv);
        self.serial += 1;
        self.secrets.insert(issued, state.d.clone());
        self.forget(now.unix);
        Some((issued, [head.as_slice(), &iv, &text, &icv].concat()))
    }

    /// Opens one of ours that is still good as far as it goes.
    ///
    /// # Errors
    /// Why not, for the log.
    pub fn open(&self, now: Now, ticket: &[u8]) -> Result<(Issued, TicketState), &'static str> {
        let (head, rest) = ticket.split_at_checked(1 + KEY_ID).ok_or("it is too short")?;
        let (version, id) = head.split_first().ok_or("it is too short")?;
        let keys = [&self.current, &self.previous].into_iter().flatten();
        let usable = |key: &&Key| key.id == *id && now.instant.saturating_since(key.since) < ROTATION + LONGEST;
        let key = (*version == VERSION).then(|| keys.into_iter().find(usable)).flatten();
        let key = key.ok_or("it was not made by this gateway since it was started, or long ago")?;
        let (iv, rest) = rest.split_at_checked(IV).ok_or("it is too short")?;
        let (text, icv) = rest
            .len()
            .checked_sub(ICV)
            .map(|len| rest.split_at(len))
            .ok_or("it is too short")?;
        let mut text = text.to_vec();
        let authentic = key.cipher.open(head, None, iv, &mut text, icv);
        let text = Secret::new(text);
        authentic.map_err(|_| "it was changed on its way")?;
        let (issued, rest) = Issued::decode(text.expose()).ok_or("it is too short")?;
        if issued.expires <= now.unix {
            return Err("it has expired");
        }
        self.check(issued)?;
        let d = self.secrets.get(&issued).cloned();
        let state = d.and_then(|d| self.decode(rest, d));
        Ok((issued, state.ok_or("what it refers to is gone")?))
    }

    /// §4.3.1: "Tickets are intended for one-time use"; "A reused ticket SHOULD be rejected by a gateway."
    ///
    /// # Errors
    /// It was used, or withdrawn.
    pub fn check(&self, issued: Issued) -> Result<(), &'static str> {
        if !self.secrets.contains_key(&issued) {
            return Err("it was used already, or its IKE SA was deleted or rekeyed");
        }
        Ok(())
    }

    /// Whether the configuration still stands that it was made under. A key or certificate that was taken away since is none.
    ///
    /// # Errors
    /// Why not, for the log.
    pub fn check_changes(
        &self,
        now: Now,
        issued: Issued,
        state: &TicketState,
        remote: &RemoteAuth,
    ) -> Result<(), &'static str> {
        let changed = self.changed.get(&state.connection).copied().unwrap_or_default();
        if issued.serial <= changed.void {
            return Err("the connection was configured anew");
        }
        if issued.serial <= changed.recheck && state.proof.is_good_now(remote, &state.peer, now.unix).is_err() {
            return Err("what the peer had proven itself with was taken away");
        }
        Ok(())
    }

    /// It is used, or its IKE SA is no more: "when an IKE SA is deleted by the client or the gateway, the client MUST delete its
    /// stored ticket" (§6.2), and one that does not has an invalid one (§9.8).
    pub fn withdraw(&mut self, now: Now, issued: Issued) {
        self.secrets.remove(&issued);
        self.forget(now.unix);
    }

    /// What is over goes, and what there is no room for.
    fn forget(&mut self, unix: u64) {
        while let Some(first) = self.secrets.first_entry() {
            if first.key().expires > unix && self.secrets.len() <= MOST_OUT {
                break;
            }
            self.secrets.pop_first();
        }
    }

    /// How much is remembered.
    pub fn len(&self) -> usize {
        self.secrets.len() + self.chains.len() + self.changed.len()
    }

    /// A connection was configured anew, or is gone: none of its tickets is good any more.
    pub fn void(&mut self, now: Now, connection: &ConnectionName) {
        self.change(now, connection).void = self.serial;
    }

    /// Its keys and certificates changed: those of its tickets are looked at again.
    pub fn recheck(&mut self, now: Now, connection: &ConnectionName) {
        self.change(now, connection).recheck = self.serial;
    }

    fn change(&mut self, now: Now, connection: &ConnectionName) -> &mut Changed {
        // What was sealed before that has expired.
        let longest = LONGEST.as_secs();
        self.changed
            .retain(|_, changed| changed.unix.saturating_add(longest) > now.unix);
        let changed = self.changed.entry(Arc::clone(connection)).or_default();
        changed.unix = now.unix;
        changed
    }

    fn rotate(&mut self, now: Instant, provider: &Provider, rng: &mut dyn CryptoRng) {
        if self
            .current
            .as_ref()
            .is_some_and(|key| now.saturating_since(key.since) < ROTATION)
        {
            return;
        }
        let mut octets = vec![0; 36];
        rng.fill_bytes(&mut octets);
        let cipher = (provider.cipher)(CIPHER, &Secret::new(octets));
        let mut id = [0; KEY_ID];
        rng.fill_bytes(&mut id);
        let iv = rng.next_u64();
        let new = cipher.map(|cipher| Key {
            id,
            cipher: Arc::from(cipher),
            iv,
            since: now,
        });
        self.previous = std::mem::replace(&mut self.current, new);
    }

    /// Keeps the certificates of a proof; none if there are too many.
    fn keep_chain(&mut self, unix: u64, proof: &Proven, expires: u64) -> Option<()> {
        let Proven::Certificates { own, shown, unix: at } = proof else {
            return Some(());
        };
        if shown.iter().map(Vec::len).sum::<usize>() > LONGEST_CHAIN {
            return None;
        }
        let digest = digest(shown);
        if let Some(chain) = self.chains.get_mut(&digest) {
            chain.expires = chain.expires.max(expires);
            chain.unix = chain.unix.max(*at);
            return Some(());
        }
        if self.chains.len() >= MOST_CHAINS {
            self.chains.retain(|_, chain| chain.expires > unix);
        }
        (self.chains.len() < MOST_CHAINS).then(|| {
            let chain = Chain {
                own: own.clone(),
                shown: Arc::clone(shown),
                unix: *at,
                expires,
            };
            self.chains.insert(digest, chain);
        })
    }

    fn decode(&self, text: &[u8], d: Secret) -> Option<TicketState> {
        let mut rest = text;
        let mut take = |len: usize| {
            let (taken, left) = rest.split_at_checked(len)?;
            rest = left;
            Some(taken)
        };
        let mut number = || Some(u64::from_be_bytes(take(8)?.try_into().ok()?));
        let spi = IkeSpi(number()?.to_be_bytes());
        let exchanged = Instant::from_nanos(number()?);
        let reauth_end = Some(Instant::from_nanos(number()?)).filter(|end| *end != Instant::FAR_FUTURE);
        let suite = suite_of(take(SUITE)?)?;
        let &[flags] = take(1)? else { return None };
        let mut chunk = || {
            let len = take(2)?;
            take(usize::from(u16::from_be_bytes(len.try_into().ok()?)))
        };
        let connection = std::str::from_utf8(chunk()?).ok()?.into();
        let (peer, own) = (identification(chunk()?)?, identification(chunk()?)?);
        let proof = match *chunk()? {
            [] => Proven::Psk,
            ref octets if flags & RAW_KEY != 0 => {
                Proven::RawKey(crate::crypto::VerifyingKey::from_spki_der(octets).ok()?)
            }
            ref octets => {
                let chain = self.chains.get(octets)?;
                Proven::Certificates {
                    own: chain.own.clone(),
                    shown: Arc::clone(&chain.shown),
                    unix: chain.unix,
                }
            }
        };
        Some(TicketState {
            connection,
            peer,
            own,
            spi,
            suite,
            d,
            post_quantum: flags & POST_QUANTUM != 0,
            ppk: flags & PPK != 0,
            exchanged,
            reauth_end,
            proof,
        })
    }
}

impl Issued {
    fn decode(text: &[u8]) -> Option<(Self, &[u8])> {
        let (serial, rest) = text.split_first_chunk()?;
        let (expires, rest) = rest.split_first_chunk()?;
        let issued = Self {
            expires: u64::from_be_bytes(*expires),
            serial: u64::from_be_bytes(*serial),
        };
        Some((issued, rest))
    }
}

const POST_QUANTUM: u8 = 1;
const PPK: u8 = 2;
const RAW_KEY: u8 = 4;

impl TicketState {
    fn encode(&self, issued: Issued) -> Option<Vec<u8>> {
        let mut flags = 0;
        let proof = match &self.proof {
            Proven::Psk => Vec::new(),
            Proven::RawKey(key) => {
                flags |= RAW_KEY;
                key.to_spki_der()
            }
            Proven::Certificates { shown, .. } => digest(shown).to_vec(),
        };
        for (set, flag) in [(self.post_quantum, POST_QUANTUM), (self.ppk, PPK)] {
            flags |= if set { flag } else { 0 };
        }
        let id = |id: &Identification| [&[id.id_type.0], id.data.as_slice()].concat();
        let mut out = Vec::with_capacity(256);
        out.extend(issued.serial.to_be_bytes());
        out.extend(issued.expires.to_be_bytes());
        out.extend(self.spi.0);
        out.extend(self.exchanged.as_nanos().to_be_bytes());
        let reauth_end = self.reauth_end.unwrap_or(Instant::FAR_FUTURE);
        out.extend(reauth_end.as_nanos().to_be_bytes());
        out.extend(octets_of(self.suite)?);
        out.push(flags);
        let chunks: [&[u8]; 4] = [self.connection.as_bytes(), &id(&self.peer), &id(&self.own), &proof];
        for chunk in chunks {
            out.extend(u16::try_from(chunk.len()).ok()?.to_be_bytes());
            out.extend(chunk);
        }
        Some(out)
    }
}

fn identification(octets: &[u8]) -> Option<Identification> {
    let (id_type, data) = octets.split_first()?;
    Some(Identification {
        id_type: IdType(*id_type),
        reserved: [0; 3],
        data: data.to_vec(),
    })
}

/// Octets of a suite: each algorithm by its place in the list of all. A ticket does not outlive the process, so the list stays.
const SUITE: usize = 4 + crate::policy::proposal::MOST_ADDITIONAL;
const NOTHING: u8 = u8::MAX;

fn place<T: PartialEq>(all: &[T], one: Option<T>) -> Option<u8> {
    let Some(one) = one else { return Some(NOTHING) };
    all.iter()
        .position(|other| *other == one)
        .and_then(|place| u8::try_from(place).ok())
}

fn at<T: Copy>(all: &[T], place: u8) -> Option<T> {
    all.get(usize::from(place)).copied()
}

fn octets_of(suite: IkeSuite) -> Option<[u8; SUITE]> {
    let mut out = [NOTHING; SUITE];
    let [encryption, integrity, prf, group, additional @ ..] = &mut out;
    *encryption = place(Encryption::ALL, Some(suite.cipher.encryption))?;
    *integrity = place(Integrity::ALL, suite.cipher.integrity)?;
    *prf = place(PrfAlgorithm::ALL, Some(suite.prf))?;
    *group = place(Group::ALL, Some(suite.group))?;
    for (octet, group) in additional.iter_mut().zip(suite.additional.0) {
        *octet = place(Group::ALL, group)?;
    }
    Some(out)
}

fn suite_of(octets: &[u8]) -> Option<IkeSuite> {
    let [encryption, integrity, prf, group, rest @ ..] = octets else {
        return None;
    };
    let mut additional = AdditionalGroups::default();
    for (group, octet) in additional.0.iter_mut().zip(rest) {
        *group = at(Group::ALL, *octet);
    }
    Some(IkeSuite {
        cipher: CipherSuite {
            encryption: at(Encryption::ALL, *encryption)?,
            integrity: at(Integrity::ALL, *integrity),
        },
        prf: at(PrfAlgorithm::ALL, *prf)?,
        group: at(Group::ALL, *group)?,
        additional,
    })
}

fn digest(shown: &[Vec<u8>]) -> [u8; 32] {
    let mut hash = Sha256::new();
    for der in shown {
        hash.update(u64::try_from(der.len()).unwrap_or(u64::MAX).to_be_bytes());
        hash.update(der);
    }
    hash.finalize().into()
}
