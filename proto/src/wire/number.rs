//! IANA's IKEv2 numbers as newtypes over the integer: an unknown value survives a round trip, `match` still works
//! on the associated constants.

macro_rules! numbers {
    ($(#[$meta:meta])* $name:ident($int:ty) { $($(#[$cmeta:meta])* $konst:ident = $value:expr;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $int);
        #[allow(missing_docs, reason = "the names are the registry's")]
        impl $name {
            $($(#[$cmeta])* pub const $konst: Self = Self($value);)*
            /// The registry's name, if it is known here.
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                match self.0 { $($value => Some(stringify!($konst)),)* _ => None }
            }
        }
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.name() { Some(name) => f.write_str(name), None => write!(f, "{}({})", stringify!($name), self.0) }
            }
        }
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { std::fmt::Display::fmt(self, f) }
        }
    };
}

numbers! {
    /// Exchange types (RFC 7296 §3.1; 5723; 9242; 9370).
    ExchangeType(u8) {
        IKE_SA_INIT = 34; IKE_AUTH = 35; CREATE_CHILD_SA = 36; INFORMATIONAL = 37;
        IKE_SESSION_RESUME = 38; IKE_INTERMEDIATE = 43; IKE_FOLLOWUP_KE = 44;
    }
}
numbers! {
    /// Payload types (RFC 7296 §3.2).
    PayloadType(u8) {
        NONE = 0; SA = 33; KE = 34; IDI = 35; IDR = 36; CERT = 37; CERTREQ = 38; AUTH = 39; NONCE = 40; NOTIFY = 41;
        DELETE = 42; VENDOR_ID = 43; TSI = 44; TSR = 45; SK = 46; CP = 47; EAP = 48; SKF = 53; PUZZLE_SOLUTION = 54;
    }
}
numbers! {
    /// Security protocol identifiers (RFC 7296 §3.3.1).
    ProtocolId(u8) { NONE = 0; IKE = 1; AH = 2; ESP = 3; }
}
numbers! {
    /// Transform types (RFC 7296 §3.3.2; 9370).
    TransformType(u8) {
        ENCR = 1; PRF = 2; INTEG = 3; KE = 4; ESN = 5;
        ADDKE1 = 6; ADDKE2 = 7; ADDKE3 = 8; ADDKE4 = 9; ADDKE5 = 10; ADDKE6 = 11; ADDKE7 = 12;
    }
}
numbers! {
    /// Transform type 1 (RFC 7296 §3.3.2).
    EncrId(u16) {
        DES = 2; TRIPLE_DES = 3; NULL = 11; AES_CBC = 12; AES_CTR = 13; AES_CCM_8 = 14; AES_CCM_12 = 15; AES_CCM_16 = 16;
        AES_GCM_8 = 18; AES_GCM_12 = 19; AES_GCM_16 = 20; NULL_AUTH_AES_GMAC = 21; CAMELLIA_CBC = 23; CHACHA20_POLY1305 = 28;
    }
}
numbers! {
    /// Transform type 2 (RFC 7296 §3.3.2).
    PrfId(u16) { HMAC_MD5 = 1; HMAC_SHA1 = 2; AES128_XCBC = 4; HMAC_SHA2_256 = 5; HMAC_SHA2_384 = 6; HMAC_SHA2_512 = 7; AES128_CMAC = 8; }
}
numbers! {
    /// Transform type 3 (RFC 7296 §3.3.2).
    IntegId(u16) {
        NONE = 0; HMAC_MD5_96 = 1; HMAC_SHA1_96 = 2; AES_XCBC_96 = 5; AES_CMAC_96 = 8;
        HMAC_SHA2_256_128 = 12; HMAC_SHA2_384_192 = 13; HMAC_SHA2_512_256 = 14;
    }
}
numbers! {
    /// Transform type 4 and 6-12 (RFC 7296 §3.3.2; 9370).
    KeMethod(u16) {
        NONE = 0; MODP_768 = 1; MODP_1024 = 2; MODP_1536 = 5; MODP_2048 = 14; MODP_3072 = 15; MODP_4096 = 16; MODP_6144 = 17; MODP_8192 = 18;
        ECP_256 = 19; ECP_384 = 20; ECP_521 = 21; MODP_1024_160 = 22; MODP_2048_224 = 23; MODP_2048_256 = 24;
        CURVE25519 = 31; CURVE448 = 32; ML_KEM_512 = 35; ML_KEM_768 = 36; ML_KEM_1024 = 37;
    }
}
numbers! {
    /// Transform type 5 (RFC 7296 §3.3.2; 4304).
    EsnId(u16) { NO_ESN = 0; ESN = 1; }
}
numbers! {
    /// Transform attributes (RFC 7296 §3.3.5).
    AttributeType(u16) { KEY_LENGTH = 14; }
}
numbers! {
    /// Authentication methods (RFC 7296 §3.8; 7427).
    AuthMethod(u8) { RSA_SIGNATURE = 1; SHARED_KEY_MIC = 2; DSS = 3; ECDSA_P256_SHA256 = 9; ECDSA_P384_SHA384 = 10; ECDSA_P521_SHA512 = 11; NULL = 13; DIGITAL_SIGNATURE = 14; }
}
numbers! {
    /// Hash algorithms of SIGNATURE_HASH_ALGORITHMS (RFC 7427 §4; 8420 §2).
    HashAlgorithm(u16) { SHA1 = 1; SHA2_256 = 2; SHA2_384 = 3; SHA2_512 = 4; IDENTITY = 5; }
}
numbers! {
    /// Identification types (RFC 7296 §3.5).
    IdType(u8) { IPV4_ADDR = 1; FQDN = 2; RFC822_ADDR = 3; IPV6_ADDR = 5; DER_ASN1_DN = 9; DER_ASN1_GN = 10; KEY_ID = 11; NULL = 13; }
}
numbers! {
    /// Certificate encodings (RFC 7296 §3.6; 7670).
    CertEncoding(u8) { PKCS7 = 1; X509_SIGNATURE = 4; CRL = 7; RAW_RSA = 11; HASH_URL_CERT = 12; HASH_URL_BUNDLE = 13; OCSP = 14; RAW_PUBLIC_KEY = 15; }
}
numbers! {
    /// Traffic selector types (RFC 7296 §3.13.1).
    TsType(u8) { IPV4_ADDR_RANGE = 7; IPV6_ADDR_RANGE = 8; SECLABEL = 10; }
}
numbers! {
    /// Configuration payload types (RFC 7296 §3.15).
    CfgType(u8) { REQUEST = 1; REPLY = 2; SET = 3; ACK = 4; }
}
numbers! {
    /// Notify message types (RFC 7296 §3.10.1): errors below 16384, status from there.
    NotifyType(u16) {
        UNSUPPORTED_CRITICAL_PAYLOAD = 1; INVALID_IKE_SPI = 4; INVALID_MAJOR_VERSION = 5; INVALID_SYNTAX = 7; INVALID_MESSAGE_ID = 9; INVALID_SPI = 11;
        NO_PROPOSAL_CHOSEN = 14; INVALID_KE_PAYLOAD = 17; AUTHENTICATION_FAILED = 24; SINGLE_PAIR_REQUIRED = 34; NO_ADDITIONAL_SAS = 35;
        INTERNAL_ADDRESS_FAILURE = 36; FAILED_CP_REQUIRED = 37; TS_UNACCEPTABLE = 38; INVALID_SELECTORS = 39; UNACCEPTABLE_ADDRESSES = 40;
        UNEXPECTED_NAT_DETECTED = 41; TEMPORARY_FAILURE = 43; CHILD_SA_NOT_FOUND = 44; INVALID_GROUP_ID = 45; AUTHORIZATION_FAILED = 46;
        STATE_NOT_FOUND = 47; TS_MAX_QUEUE = 48;
        INITIAL_CONTACT = 16384; SET_WINDOW_SIZE = 16385; ADDITIONAL_TS_POSSIBLE = 16386; IPCOMP_SUPPORTED = 16387; NAT_DETECTION_SOURCE_IP = 16388;
        NAT_DETECTION_DESTINATION_IP = 16389; COOKIE = 16390; USE_TRANSPORT_MODE = 16391; HTTP_CERT_LOOKUP_SUPPORTED = 16392; REKEY_SA = 16393;
        ESP_TFC_PADDING_NOT_SUPPORTED = 16394; NON_FIRST_FRAGMENTS_ALSO = 16395; MOBIKE_SUPPORTED = 16396; ADDITIONAL_IP4_ADDRESS = 16397;
        ADDITIONAL_IP6_ADDRESS = 16398; NO_ADDITIONAL_ADDRESSES = 16399; UPDATE_SA_ADDRESSES = 16400; COOKIE2 = 16401; NO_NATS_ALLOWED = 16402;
        AUTH_LIFETIME = 16403; MULTIPLE_AUTH_SUPPORTED = 16404; REDIRECT_SUPPORTED = 16406; REDIRECT = 16407; REDIRECTED_FROM = 16408; TICKET_LT_OPAQUE = 16409; TICKET_REQUEST = 16410;
        TICKET_ACK = 16411; TICKET_NACK = 16412; TICKET_OPAQUE = 16413; CHILDLESS_IKEV2_SUPPORTED = 16418; QUICK_CRASH_DETECTION = 16419;
        IKEV2_FRAGMENTATION_SUPPORTED = 16430; SIGNATURE_HASH_ALGORITHMS = 16431; PUZZLE = 16434; USE_PPK = 16435; PPK_IDENTITY = 16436; NO_PPK_AUTH = 16437;
        INTERMEDIATE_EXCHANGE_SUPPORTED = 16438; ADDITIONAL_KEY_EXCHANGE = 16441; USE_AGGFRAG = 16442; SUPPORTED_AUTH_METHODS = 16443;
        SA_RESOURCE_INFO = 16444;
    }
}

impl NotifyType {
    /// Whether the type reports an error (RFC 7296 §3.10.1: "0-16383").
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 < 16384
    }
}
