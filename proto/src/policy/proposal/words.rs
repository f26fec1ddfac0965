//! Proposals in strongSwan's words: `aes256gcm16-prfsha384-ecp384`.

use super::{AdditionalExchanges, EspProposal, EspSuite, IkeProposal, IkeSuite, ProposalSyntaxError};
use crate::crypto::{CipherSuite, Encryption, Group, Integrity, PrfAlgorithm};
use std::fmt;

/// What a word stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Word {
    Encryption(Encryption),
    Integrity(Integrity),
    Prf(PrfAlgorithm),
    Group(Group),
    Esn(bool),
}

/// All words; the first of several for one thing is the one that is written.
const WORDS: &[(&str, Word)] = &[
    ("aes128gcm16", Word::Encryption(Encryption::AesGcm16_128)),
    ("aes192gcm16", Word::Encryption(Encryption::AesGcm16_192)),
    ("aes256gcm16", Word::Encryption(Encryption::AesGcm16_256)),
    ("aes128gcm128", Word::Encryption(Encryption::AesGcm16_128)),
    ("aes192gcm128", Word::Encryption(Encryption::AesGcm16_192)),
    ("aes256gcm128", Word::Encryption(Encryption::AesGcm16_256)),
    ("chacha20poly1305", Word::Encryption(Encryption::ChaCha20Poly1305)),
    ("aes128", Word::Encryption(Encryption::AesCbc128)),
    ("aes192", Word::Encryption(Encryption::AesCbc192)),
    ("aes256", Word::Encryption(Encryption::AesCbc256)),
    ("null", Word::Encryption(Encryption::Null)),
    ("sha256", Word::Integrity(Integrity::HmacSha256_128)),
    ("sha384", Word::Integrity(Integrity::HmacSha384_192)),
    ("sha512", Word::Integrity(Integrity::HmacSha512_256)),
    ("sha2_256", Word::Integrity(Integrity::HmacSha256_128)),
    ("sha2_384", Word::Integrity(Integrity::HmacSha384_192)),
    ("sha2_512", Word::Integrity(Integrity::HmacSha512_256)),
    ("sha1", Word::Integrity(Integrity::HmacSha1_96)),
    ("sha", Word::Integrity(Integrity::HmacSha1_96)),
    ("prfsha256", Word::Prf(PrfAlgorithm::HmacSha256)),
    ("prfsha384", Word::Prf(PrfAlgorithm::HmacSha384)),
    ("prfsha512", Word::Prf(PrfAlgorithm::HmacSha512)),
    ("prfsha1", Word::Prf(PrfAlgorithm::HmacSha1)),
    ("x25519", Word::Group(Group::Curve25519)),
    ("curve25519", Word::Group(Group::Curve25519)),
    ("ecp256", Word::Group(Group::Ecp256)),
    ("ecp384", Word::Group(Group::Ecp384)),
    ("ecp521", Word::Group(Group::Ecp521)),
    ("modp2048", Word::Group(Group::Modp2048)),
    ("modp3072", Word::Group(Group::Modp3072)),
    ("modp4096", Word::Group(Group::Modp4096)),
    ("modp6144", Word::Group(Group::Modp6144)),
    ("modp8192", Word::Group(Group::Modp8192)),
    ("modp1024", Word::Group(Group::Modp1024)),
    ("modp1536", Word::Group(Group::Modp1536)),
    ("modp2048s256", Word::Group(Group::Modp2048s256)),
    ("mlkem512", Word::Group(Group::MlKem512)),
    ("mlkem768", Word::Group(Group::MlKem768)),
    ("mlkem1024", Word::Group(Group::MlKem1024)),
    ("esn", Word::Esn(true)),
    ("noesn", Word::Esn(false)),
];

/// Words that are known, refused, and why (RFC 8247 §2, RFC 8221 §5, §6, RFC 9395).
const REFUSED: &[(&str, &str)] = &[
    ("des", "DES is broken; use aes256gcm16"),
    ("3des", "3DES is not offered; use aes256gcm16"),
    ("md5", "MD5 is broken; use sha256"),
    ("prfmd5", "MD5 is broken; use prfsha256"),
    ("modp768", "group 1 is broken; use ecp384, x25519 or modp2048"),
    ("modp1024s160", "group 22 is too weak; use ecp384, x25519 or modp2048"),
    (
        "modp2048s224",
        "group 23 is not offered; use ecp384, x25519 or modp2048",
    ),
];

fn spelled(word: Word) -> &'static str {
    WORDS
        .iter()
        .find(|(_, meaning)| *meaning == word)
        .map_or("?", |(text, _)| text)
}

macro_rules! display_as_word {
    ($($name:ident),*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(spelled(Word::$name(*self)))
            }
        }
    )*};
}
display_as_word!(Encryption, Integrity, Group);

/// `prfsha384`, the PRF's word (not implemented as `Display` on a foreign alias: `PrfAlgorithm` is spelled by it too).
impl fmt::Display for PrfAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(spelled(Word::Prf(*self)))
    }
}

impl fmt::Display for CipherSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.integrity {
            Some(integrity) => write!(f, "{}-{integrity}", self.encryption),
            None => write!(f, "{}", self.encryption),
        }
    }
}

impl fmt::Display for IkeSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}-{}{}", self.cipher, self.prf, self.group, self.additional)
    }
}

impl fmt::Display for EspSuite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.cipher)?;
        if let Some(group) = self.group {
            write!(f, "-{group}{}", self.additional)?;
        }
        if self.esn { f.write_str("-esn") } else { Ok(()) }
    }
}

fn write_words(f: &mut fmt::Formatter<'_>, words: impl IntoIterator<Item = Word>) -> fmt::Result {
    for (index, word) in words.into_iter().enumerate() {
        write!(f, "{}{}", if index > 0 { "-" } else { "" }, spelled(word))?;
    }
    Ok(())
}

impl fmt::Display for IkeProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.encryption.iter().map(|e| Word::Encryption(*e));
        let words = words.chain(self.integrity.iter().map(|i| Word::Integrity(*i)));
        let words = words.chain(self.prf.iter().map(|p| Word::Prf(*p)));
        write_words(f, words.chain(self.groups.iter().map(|g| Word::Group(*g))))?;
        write!(f, "{}", self.additional)
    }
}

impl fmt::Display for EspProposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = self.encryption.iter().map(|e| Word::Encryption(*e));
        let words = words.chain(self.integrity.iter().map(|i| Word::Integrity(*i)));
        let words = words.chain(self.groups.iter().map(|g| Word::Group(*g)));
        write_words(f, words)?;
        write!(f, "{}", self.additional)?;
        let esn: &[bool] = if self.esn == [false] { &[] } else { &self.esn };
        esn.iter()
            .try_for_each(|esn| write!(f, "-{}", spelled(Word::Esn(*esn))))
    }
}

#[derive(Default)]
struct Sorted {
    encryption: Vec<Encryption>,
    integrity: Vec<Integrity>,
    prf: Vec<PrfAlgorithm>,
    groups: Vec<Group>,
    additional: AdditionalExchanges,
    esn: Vec<bool>,
}

fn sort(text: &str) -> Result<Sorted, ProposalSyntaxError> {
    let mut sorted = Sorted::default();
    for part in text.split('-') {
        let part = part.trim().to_ascii_lowercase();
        if let Some((number, method)) = part.strip_prefix("ke").and_then(|rest| rest.split_once('_')) {
            sorted
                .additional(number, method)
                .map_err(|problem| wrong(text, problem))?;
            continue;
        }
        match WORDS
            .iter()
            .find(|(word, _)| *word == part)
            .map(|(_, meaning)| *meaning)
        {
            Some(Word::Encryption(e)) => push_once(&mut sorted.encryption, e),
            Some(Word::Integrity(i)) => push_once(&mut sorted.integrity, i),
            Some(Word::Prf(p)) => push_once(&mut sorted.prf, p),
            Some(Word::Group(g)) => push_once(&mut sorted.groups, g),
            Some(Word::Esn(e)) => push_once(&mut sorted.esn, e),
            None => return Err(wrong(text, unknown_word(&part))),
        }
    }
    let aead = sorted.encryption.iter().filter(|e| e.is_aead()).count();
    if sorted.encryption.is_empty() {
        return Err(wrong(text, "it names no encryption, such as aes256gcm16".to_owned()));
    }
    // RFC 5282 §8: AEADs and separate integrity don't go together in one proposal.
    if aead > 0 && aead < sorted.encryption.len() {
        let problem = "AEADs (gcm, chacha20poly1305) and other ciphers can't stand in one proposal; write two";
        return Err(wrong(text, problem.to_owned()));
    }
    if aead > 0 && !sorted.integrity.is_empty() {
        // strongSwan's users write aes256gcm16-sha384-ecp384 and mean the PRF.
        let prf = sorted.integrity[0];
        return Err(wrong(
            text,
            format!("an AEAD brings its own integrity; for the PRF write prf{prf} in place of {prf}"),
        ));
    }
    if aead == 0 && sorted.integrity.is_empty() {
        return Err(wrong(
            text,
            format!("{} needs an integrity algorithm, such as sha256", sorted.encryption[0]),
        ));
    }
    Ok(sorted)
}

impl Sorted {
    /// `ke1_mlkem768` (RFC 9370): the number and the method.
    fn additional(&mut self, number: &str, method: &str) -> Result<(), String> {
        let group = match WORDS.iter().find(|(word, _)| *word == method) {
            Some((_, Word::Group(group))) => Some(*group),
            _ if method == "none" => None,
            _ => {
                return Err(format!(
                    "{method:?} is not a key exchange: write for example ke1_mlkem768, or ke1_none if it may be left out"
                ));
            }
        };
        let number = number.parse().unwrap_or(0);
        self.additional
            .add(number, group)
            .then_some(())
            .ok_or_else(|| "additional key exchanges are ke1_... to ke7_...".to_owned())
    }
}

fn push_once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}

fn wrong(text: &str, problem: String) -> ProposalSyntaxError {
    ProposalSyntaxError {
        text: text.to_owned(),
        problem,
    }
}

fn unknown_word(part: &str) -> String {
    if let Some((_, why)) = REFUSED.iter().find(|(word, _)| *word == part) {
        return (*why).to_owned();
    }
    let nearest = WORDS.iter().map(|(word, _)| (distance(part, word), *word)).min();
    match nearest {
        Some((near, word)) if near <= 3 => format!("unknown word {part:?}; did you mean {word:?}?"),
        _ => format!("unknown word {part:?}"),
    }
}

/// Levenshtein distance of two short words.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.bytes().enumerate() {
            let replaced = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// What is weak in lists of algorithms: the word and why.
fn weaknesses(integrity: &[Integrity], prf: &[PrfAlgorithm], groups: &[Group]) -> Vec<String> {
    let integrity = integrity.iter().map(|a| (Word::Integrity(*a), a.weakness()));
    let prf = prf.iter().map(|a| (Word::Prf(*a), a.weakness()));
    let groups = groups.iter().map(|a| (Word::Group(*a), a.weakness()));
    let all = integrity.chain(prf).chain(groups);
    all.filter_map(|(word, why)| Some(format!("{}: {}", spelled(word), why?)))
        .collect()
}

impl IkeProposal {
    /// What in it is weak: each algorithm and why.
    #[must_use]
    pub fn weaknesses(&self) -> Vec<String> {
        weaknesses(&self.integrity, &self.prf, &self.groups)
    }

    /// Parses `aes256gcm16-prfsha384-ecp384`. Without a PRF, a cipher with integrity takes the PRF of its hash.
    ///
    /// # Errors
    /// [`ProposalSyntaxError`], with the remedy.
    pub fn parse(text: &str) -> Result<Self, ProposalSyntaxError> {
        let sorted = sort(text)?;
        if !sorted.esn.is_empty() {
            return Err(wrong(text, "esn and noesn belong to esp_proposals".to_owned()));
        }
        if sorted.encryption.contains(&Encryption::Null) {
            return Err(wrong(
                text,
                "an IKE SA can't go without encryption (RFC 7296 §5)".to_owned(),
            ));
        }
        if sorted.groups.is_empty() {
            return Err(wrong(
                text,
                "it names no key exchange, such as x25519 or ecp384".to_owned(),
            ));
        }
        let mut prf = sorted.prf;
        if prf.is_empty() {
            prf = sorted.integrity.iter().map(|integrity| prf_of(*integrity)).collect();
        }
        if prf.is_empty() {
            return Err(wrong(
                text,
                "an AEAD needs a PRF named beside it, such as prfsha384".to_owned(),
            ));
        }
        Ok(Self {
            encryption: sorted.encryption,
            integrity: sorted.integrity,
            prf,
            groups: sorted.groups,
            additional: sorted.additional,
        })
    }

    /// What is offered when nothing is configured: strong and widely spoken (RFC 8247), AEADs first, and
    /// before them the same with a post-quantum key exchange on top.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        let groups = vec![
            Group::Curve25519,
            Group::Ecp384,
            Group::Ecp256,
            Group::Modp3072,
            Group::Modp2048,
        ];
        let prf = vec![
            PrfAlgorithm::HmacSha384,
            PrfAlgorithm::HmacSha256,
            PrfAlgorithm::HmacSha512,
        ];
        let aead = Self {
            encryption: vec![
                Encryption::AesGcm16_256,
                Encryption::AesGcm16_128,
                Encryption::ChaCha20Poly1305,
            ],
            integrity: vec![],
            prf: prf.clone(),
            groups: groups.clone(),
            additional: AdditionalExchanges::default(),
        };
        // A peer that does not know additional key exchanges passes over a proposal with them (RFC 9370 §2.2.1), so they
        // have one of their own.
        let mut hybrid = aead.clone();
        hybrid.additional.add(1, Some(Group::MlKem768));
        hybrid.additional.add(1, Some(Group::MlKem1024));
        vec![
            hybrid,
            aead,
            Self {
                encryption: vec![Encryption::AesCbc256, Encryption::AesCbc128],
                integrity: vec![
                    Integrity::HmacSha256_128,
                    Integrity::HmacSha384_192,
                    Integrity::HmacSha512_256,
                ],
                prf,
                groups,
                additional: AdditionalExchanges::default(),
            },
        ]
    }
}

impl EspProposal {
    /// See [`IkeProposal::weaknesses`].
    #[must_use]
    pub fn weaknesses(&self) -> Vec<String> {
        weaknesses(&self.integrity, &[], &self.groups)
    }

    /// Parses `aes256gcm16-ecp384`. Without `esn` or `noesn` 32-bit sequence numbers are used; without a group there is
    /// no PFS.
    ///
    /// # Errors
    /// [`ProposalSyntaxError`], with the remedy.
    pub fn parse(text: &str) -> Result<Self, ProposalSyntaxError> {
        let sorted = sort(text)?;
        if !sorted.prf.is_empty() {
            return Err(wrong(text, "a PRF belongs to the IKE proposals".to_owned()));
        }
        // RFC 9370 §2.2.4: they follow "the one performed in the CREATE_CHILD_SA".
        if !sorted.additional.is_empty() && sorted.groups.is_empty() {
            return Err(wrong(
                text,
                "an additional key exchange follows a first one: name a group too, as in aes256gcm16-x25519-ke1_mlkem768"
                    .to_owned(),
            ));
        }
        let esn = if sorted.esn.is_empty() { vec![false] } else { sorted.esn };
        Ok(Self {
            encryption: sorted.encryption,
            integrity: sorted.integrity,
            groups: sorted.groups,
            additional: sorted.additional,
            esn,
        })
    }

    /// What is offered when nothing is configured: AEADs first, PFS, 64-bit sequence numbers where the peer can.
    #[must_use]
    pub fn defaults() -> Vec<Self> {
        let groups = vec![
            Group::Curve25519,
            Group::Ecp384,
            Group::Ecp256,
            Group::Modp3072,
            Group::Modp2048,
        ];
        let esn = vec![true, false];
        vec![
            Self {
                encryption: vec![
                    Encryption::AesGcm16_256,
                    Encryption::AesGcm16_128,
                    Encryption::ChaCha20Poly1305,
                ],
                integrity: vec![],
                groups: groups.clone(),
                additional: AdditionalExchanges::default(),
                esn: esn.clone(),
            },
            Self {
                encryption: vec![Encryption::AesCbc256, Encryption::AesCbc128],
                integrity: vec![
                    Integrity::HmacSha256_128,
                    Integrity::HmacSha384_192,
                    Integrity::HmacSha512_256,
                ],
                groups,
                additional: AdditionalExchanges::default(),
                esn,
            },
        ]
    }
}

const fn prf_of(integrity: Integrity) -> PrfAlgorithm {
    match integrity {
        Integrity::HmacSha256_128 => PrfAlgorithm::HmacSha256,
        Integrity::HmacSha384_192 => PrfAlgorithm::HmacSha384,
        Integrity::HmacSha512_256 => PrfAlgorithm::HmacSha512,
        Integrity::HmacSha1_96 => PrfAlgorithm::HmacSha1,
    }
}
