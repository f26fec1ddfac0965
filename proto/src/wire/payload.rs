//! The payloads of RFC 7296 §3 as owned values. Parsing is under caps (see [`super::limits`]); encoding can't fail.

use super::DecodeError;
use super::number::{
    AttributeType, AuthMethod, CertEncoding, CfgType, IdType, KeMethod, NotifyType, PayloadType, PrfId, ProtocolId,
    TransformType,
};
use std::net::IpAddr;

/// One payload of a chain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Payload {
    /// Security Association (§3.3).
    Sa(SecurityAssociation),
    /// Key Exchange (§3.4).
    Ke(KeyExchange),
    /// Identification - Initiator (§3.5).
    IdI(Identification),
    /// Identification - Responder (§3.5).
    IdR(Identification),
    /// Certificate (§3.6).
    Cert(Certificate),
    /// Certificate Request (§3.7).
    CertReq(CertificateRequest),
    /// Authentication (§3.8).
    Auth(Authentication),
    /// Nonce (§3.9).
    Nonce(Nonce),
    /// Notify (§3.10).
    Notify(Notify),
    /// Delete (§3.11).
    Delete(Delete),
    /// Vendor ID (§3.12).
    VendorId(Vec<u8>),
    /// Traffic Selector - Initiator (§3.13).
    TsI(Vec<TrafficSelector>),
    /// Traffic Selector - Responder (§3.13).
    TsR(Vec<TrafficSelector>),
    /// Configuration (§3.15).
    Cp(Configuration),
    /// Puzzle Solution (RFC 8019 §8.2): four keys of the same size, one after the other.
    PuzzleSolution(Vec<u8>),
    /// A type not known here. Its critical bit is kept: the caller answers UNSUPPORTED_CRITICAL_PAYLOAD (§2.5).
    Unknown {
        /// Payload type.
        payload_type: PayloadType,
        /// The critical bit.
        critical: bool,
        /// Body after the generic header.
        body: Vec<u8>,
    },
}

/// SA payload: proposals in order of preference (§3.3).
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct SecurityAssociation {
    /// At most [`super::limits::PROPOSALS`].
    pub proposals: Vec<Proposal>,
}

/// Proposal substructure (§3.3.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Proposal {
    /// Proposal Num: 1, 2, 3, ... in an offer; the chosen one's in an answer.
    pub number: u8,
    /// IKE or ESP (AH and unknown ones survive a round trip).
    pub protocol: ProtocolId,
    /// The sender's SPI: 0, 4 or 8 octets.
    pub spi: Vec<u8>,
    /// At most [`super::limits::TRANSFORMS`].
    pub transforms: Vec<Transform>,
}

/// Transform substructure (§3.3.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Transform {
    /// ENCR, PRF, ...
    pub transform_type: TransformType,
    /// Number within the type.
    pub id: u16,
    /// Attributes, unmodified: §3.3.5 wants them returned as they came.
    pub attributes: Vec<Attribute>,
}

impl Transform {
    /// The Key Length attribute in bits, if it is there.
    #[must_use]
    pub fn key_length(&self) -> Option<u16> {
        self.attributes.iter().find_map(|a| match a {
            Attribute::Short(AttributeType::KEY_LENGTH, bits) => Some(*bits),
            _ => None,
        })
    }
}

/// Transform attribute (§3.3.5).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Attribute {
    /// AF = 1: type and 2-octet value.
    Short(AttributeType, u16),
    /// AF = 0: type, length, value.
    Long(AttributeType, Vec<u8>),
}

/// KE payload (§3.4).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyExchange {
    /// The method ("Diffie-Hellman Group Num").
    pub method: KeMethod,
    /// Public value, encapsulation key or ciphertext.
    pub data: Vec<u8>,
}

/// ID payload (§3.5).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Identification {
    /// The type.
    pub id_type: IdType,
    /// RESERVED octets as received: they are covered by AUTH (§2.15). Zero when sent.
    pub reserved: [u8; 3],
    /// The data, without terminator.
    pub data: Vec<u8>,
}

/// CERT payload (§3.6).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// Encoding.
    pub encoding: CertEncoding,
    /// Data.
    pub data: Vec<u8>,
}

/// CERTREQ payload (§3.7).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CertificateRequest {
    /// Encoding.
    pub encoding: CertEncoding,
    /// Concatenated SHA-1 hashes of SubjectPublicKeyInfo for X.509.
    pub authorities: Vec<u8>,
}

/// AUTH payload (§3.8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Authentication {
    /// Method.
    pub method: AuthMethod,
    /// Data; for method 14 it begins with the AlgorithmIdentifier (RFC 7427 §3).
    pub data: Vec<u8>,
}

/// Nonce (§3.9): 16 to 256 octets.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Nonce(pub Vec<u8>);

/// Notify payload (§3.10).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notify {
    /// Protocol of `spi`, or NONE.
    pub protocol: ProtocolId,
    /// 0, 4 or 8 octets.
    pub spi: Vec<u8>,
    /// Type.
    pub notify_type: NotifyType,
    /// Data, opaque.
    pub data: Vec<u8>,
}

impl Notify {
    /// A notify about the IKE SA or the message it stands in: no protocol, no SPI.
    #[must_use]
    pub const fn new(notify_type: NotifyType, data: Vec<u8>) -> Self {
        Self {
            protocol: ProtocolId::NONE,
            spi: Vec::new(),
            notify_type,
            data,
        }
    }
}

/// Delete payload (§3.11).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Delete {
    /// The IKE SA the message travels in.
    Ike,
    /// Child SAs, by the sender's inbound SPIs.
    Children {
        /// ESP or AH.
        protocol: ProtocolId,
        /// SPIs.
        spis: Vec<u32>,
    },
}

/// A traffic selector (§3.13.1).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum TrafficSelector {
    /// TS_IPV4_ADDR_RANGE or TS_IPV6_ADDR_RANGE. Start and end are of one family and start <= end (addresses).
    Range {
        /// IP protocol; 0 is any.
        protocol: u8,
        /// First port (or ICMP type << 8 | code); 65535 with end 0 is OPAQUE.
        start_port: u16,
        /// Last port.
        end_port: u16,
        /// First address.
        start: IpAddr,
        /// Last address.
        end: IpAddr,
    },
    /// A type not known here; it survives a round trip and is never chosen.
    Unknown {
        /// TS type.
        ts_type: u8,
        /// All after the TS type and protocol octets and the length.
        protocol: u8,
        /// Body.
        body: Vec<u8>,
    },
}

/// The requirement flags of USE_AGGFRAG (RFC 9347 §6.1.4): what its sender demands of whom it is sent to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AggfragFlags(pub u8);

impl AggfragFlags {
    /// "Congestion Control bit. If set, then the sender is requiring that congestion control information MUST be returned to
    /// it periodically".
    const C: u8 = 2;
    /// "Don't Fragment bit. If set, it indicates the sender of the notify message does not support receiving packet
    /// fragments".
    const D: u8 = 1;

    /// With these two bits.
    #[must_use]
    pub const fn new(congestion_control: bool, dont_fragment: bool) -> Self {
        let c = if congestion_control { Self::C } else { 0 };
        let d = if dont_fragment { Self::D } else { 0 };
        Self(c | d)
    }

    /// C.
    #[must_use]
    pub const fn congestion_control(self) -> bool {
        self.0 & Self::C != 0
    }

    /// D.
    #[must_use]
    pub const fn dont_fragment(self) -> bool {
        self.0 & Self::D != 0
    }

    /// No other bit is set.
    #[must_use]
    pub const fn is_understood(self) -> bool {
        self.0 & !(Self::C | Self::D) == 0
    }
}

/// What N(PUZZLE) asks for (RFC 8019 §8.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PuzzleNotify {
    /// "Transform ID of the PRF algorithm that MUST be used to solve the puzzle."
    pub prf: PrfId,
    /// "the minimum number of trailing zero bits (ZBC) that each of the results of PRF must contain"; 0 leaves it to the initiator.
    pub difficulty: u8,
}

impl PuzzleNotify {
    /// Reads a notify's data.
    pub(super) fn read(notify: &Notify) -> Result<Self, DecodeError> {
        match *notify.data.as_slice() {
            [high, low, difficulty] => Ok(Self {
                prf: PrfId(u16::from_be_bytes([high, low])),
                difficulty,
            }),
            ref other => Err(DecodeError::BadLength {
                what: "PUZZLE",
                length: other.len(),
            }),
        }
    }

    /// As it is sent: "Protocol ID (1 octet) -- MUST be 0. SPI Size (1 octet) -- MUST be 0".
    #[must_use]
    pub fn notify(self) -> Notify {
        let [high, low] = self.prf.0.to_be_bytes();
        Notify::new(NotifyType::PUZZLE, vec![high, low, self.difficulty])
    }
}

/// Configuration payload (§3.15): parsed, not acted upon.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Configuration {
    /// REQUEST, REPLY, SET, ACK.
    pub cfg_type: CfgType,
    /// Attribute type and value.
    pub attributes: Vec<(u16, Vec<u8>)>,
}
