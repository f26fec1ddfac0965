//! Keys in a PKCS#11 token (a smart card, an HSM, SoftHSM), named by a URI (RFC 7512):
//! `pkcs11:token=vpn;object=gw?module-path=/usr/lib/softhsm/libsofthsm2.so`.

use super::Signer;
use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};
use cryptoki::mechanism::eddsa::{EddsaParams, EddsaSignatureScheme};
use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsPssParams};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::{Session, UserType};
use cryptoki::types::AuthPin;
use landbridge_proto::crypto::{Hash, KeyKind, Scheme, VerifyingKey, ecdsa_der};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use zeroize::Zeroizing;

/// Which key, in which token, by which module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenUri {
    text: String,
    module: PathBuf,
    token: Option<String>,
    serial: Option<String>,
    object: Option<String>,
    id: Option<Vec<u8>>,
}

impl TokenUri {
    /// Reads a URI of RFC 7512: `token`, `serial`, `object` and `id` say which, `module-path` by what. A PIN does not belong
    /// there: the configuration is not secret.
    ///
    /// # Errors
    /// What is wrong, in words.
    pub fn parse(text: &str) -> Result<Self, String> {
        let rest = text
            .strip_prefix("pkcs11:")
            .ok_or("a key in a token is named pkcs11:...")?;
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let mut uri = Self {
            text: text.to_owned(),
            module: PathBuf::new(),
            token: None,
            serial: None,
            object: None,
            id: None,
        };
        let parts = path.split(';').chain(query.split('&')).filter(|part| !part.is_empty());
        for part in parts {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} is not of the form name=value"))?;
            let octets = unescape(value).ok_or_else(|| format!("{value:?} is not properly escaped"))?;
            let words = || String::from_utf8(octets.clone()).map_err(|_| format!("{name} is not UTF-8"));
            match name {
                "token" => uri.token = Some(words()?),
                "serial" => uri.serial = Some(words()?),
                "object" => uri.object = Some(words()?),
                "id" => uri.id = Some(octets),
                "module-path" => uri.module = PathBuf::from(words()?),
                "type" if value == "private" => {}
                "manufacturer" | "model" | "slot-description" | "slot-manufacturer" => {}
                "pin-value" | "pin-source" => {
                    return Err("a PIN does not belong into the URI: name a file with it in pin_file".to_owned());
                }
                other => return Err(format!("{other:?} is not known in a pkcs11: URI here")),
            }
        }
        if !uri.module.is_absolute() {
            return Err(
                "module-path is missing, or does not begin with /: name the token's PKCS#11 library".to_owned(),
            );
        }
        if uri.object.is_none() && uri.id.is_none() {
            return Err("it names no key: write object= or id=".to_owned());
        }
        Ok(uri)
    }

    /// As it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}

/// Percent-encoding (RFC 3986 §2.1).
fn unescape(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut octets = text.bytes();
    while let Some(octet) = octets.next() {
        if octet == b'%' {
            let mut digit = || char::from(octets.next()?).to_digit(16);
            out.push(u8::try_from(digit()? << 4 | digit()?).ok()?);
        } else {
            out.push(octet);
        }
    }
    Some(out)
}

/// A private key in a token.
#[derive(Debug)]
pub struct TokenSigner {
    uri: TokenUri,
    pin: Option<Zeroizing<String>>,
    kind: KeyKind,
    /// Opened when it is first needed, and again when the token was away.
    open: Mutex<Option<Opened>>,
}

#[derive(Debug)]
struct Opened {
    session: Session,
    key: ObjectHandle,
}

impl TokenSigner {
    /// Finds the key and its public half.
    ///
    /// # Errors
    /// What the token says.
    pub fn open(uri: TokenUri, pin: Option<Zeroizing<String>>) -> Result<(VerifyingKey, Self), String> {
        let opened = open(&uri, pin.as_ref())?;
        let public = public_key(&opened.session, opened.key)?;
        let signer = Self {
            uri,
            pin,
            kind: public.kind(),
            open: Mutex::new(Some(opened)),
        };
        Ok((public, signer))
    }

    fn sign_once(&self, opened: &Opened, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, Error> {
        let sign = |mechanism: &Mechanism<'_>, data: &[u8]| opened.session.sign(mechanism, opened.key, data);
        match scheme {
            Scheme::Ed25519 => sign(
                &Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Ed25519)),
                message,
            ),
            // CKM_ECDSA takes the digest; few tokens know the mechanisms that make it.
            Scheme::Ecdsa(hash) => sign(&Mechanism::Ecdsa, &hash.digest(message)),
            Scheme::RsaPkcs1(Hash::Sha256) => sign(&Mechanism::Sha256RsaPkcs, message),
            Scheme::RsaPkcs1(Hash::Sha384) => sign(&Mechanism::Sha384RsaPkcs, message),
            Scheme::RsaPkcs1(Hash::Sha512) => sign(&Mechanism::Sha512RsaPkcs, message),
            Scheme::RsaPss(hash) => {
                let (hash_alg, mgf) = match hash {
                    Hash::Sha256 => (MechanismType::SHA256, PkcsMgfType::MGF1_SHA256),
                    Hash::Sha384 => (MechanismType::SHA384, PkcsMgfType::MGF1_SHA384),
                    Hash::Sha512 => (MechanismType::SHA512, PkcsMgfType::MGF1_SHA512),
                };
                let parameters = PkcsPssParams {
                    hash_alg,
                    mgf,
                    s_len: hash.octets().try_into()?,
                };
                let mechanism = match hash {
                    Hash::Sha256 => Mechanism::Sha256RsaPkcsPss(parameters),
                    Hash::Sha384 => Mechanism::Sha384RsaPkcsPss(parameters),
                    Hash::Sha512 => Mechanism::Sha512RsaPkcsPss(parameters),
                };
                sign(&mechanism, message)
            }
        }
    }
}

impl Signer for TokenSigner {
    fn sign(&self, scheme: Scheme, message: &[u8]) -> Result<Vec<u8>, String> {
        if !scheme.fits(self.kind) {
            return Err(format!("an {} key makes no {scheme} signature", self.kind));
        }
        let mut slot = lock(&self.open);
        let mut tried = false;
        loop {
            let opened = match slot.take() {
                Some(opened) => opened,
                None => open(&self.uri, self.pin.as_ref())?,
            };
            match self.sign_once(&opened, scheme, message) {
                Ok(signature) => {
                    *slot = Some(opened);
                    return match scheme {
                        Scheme::Ecdsa(_) => ecdsa_der(self.kind, &signature)
                            .ok_or_else(|| "the token's signature has a wrong length".to_owned()),
                        _ => Ok(signature),
                    };
                }
                // The token may have been away, or have forgotten the session: once more from the start.
                Err(_) if !tried => tried = true,
                Err(error) => return Err(brief(&error)),
            }
        }
    }
}

/// A module may be initialized only once in a process (PKCS#11 §5.4).
static MODULES: Mutex<BTreeMap<PathBuf, Pkcs11>> = Mutex::new(BTreeMap::new());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn module(path: &PathBuf) -> Result<Pkcs11, String> {
    let mut modules = lock(&MODULES);
    if let Some(module) = modules.get(path) {
        return Ok(module.clone());
    }
    let failed = |error: Error| format!("{}: {}", path.display(), brief(&error));
    let module = Pkcs11::new(path).map_err(failed)?;
    match module.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
        Err(error) => return Err(failed(error)),
    }
    modules.insert(path.clone(), module.clone());
    Ok(module)
}

fn open(uri: &TokenUri, pin: Option<&Zeroizing<String>>) -> Result<Opened, String> {
    let module = module(&uri.module)?;
    let text = |error: Error| brief(&error);
    let mut tokens = Vec::new();
    for slot in module.get_slots_with_token().map_err(text)? {
        let Ok(info) = module.get_token_info(slot) else {
            continue;
        };
        let fits = |wanted: &Option<String>, is: &str| wanted.as_ref().is_none_or(|wanted| wanted == is.trim_end());
        if fits(&uri.token, info.label()) && fits(&uri.serial, info.serial_number()) {
            tokens.push(slot);
        }
    }
    let [slot] = tokens[..] else {
        return Err(match tokens.len() {
            0 => "there is no such token".to_owned(),
            more => format!("{more} tokens are called so: name one by serial="),
        });
    };
    let session = module.open_ro_session(slot).map_err(text)?;
    if let Some(pin) = pin {
        let pin = AuthPin::from(pin.as_str());
        match session.login(UserType::User, Some(&pin)) {
            // Sessions of one process share their login.
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => {}
            Err(error) => return Err(format!("logging in: {}", brief(&error))),
        }
    }
    let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
    template.extend(
        uri.object
            .as_ref()
            .map(|label| Attribute::Label(label.as_bytes().to_vec())),
    );
    template.extend(uri.id.clone().map(Attribute::Id));
    match session.find_objects(&template).map_err(text)?[..] {
        [key] => Ok(Opened { session, key }),
        [] if pin.is_none() => Err("it has no such private key, or shows it only after a PIN (pin_file)".to_owned()),
        [] => Err("it has no such private key".to_owned()),
        _ => Err("several private keys are called so: name one by id=".to_owned()),
    }
}

/// The public half: from the private key's own attributes, or the public key beside it with the same CKA_ID.
fn public_key(session: &Session, private: ObjectHandle) -> Result<VerifyingKey, String> {
    let mut objects = vec![private];
    let ids = session
        .get_attributes(private, &[AttributeType::Id])
        .unwrap_or_default();
    if let Some(Attribute::Id(id)) = ids.into_iter().next().filter(|id| *id != Attribute::Id(Vec::new())) {
        let template = [Attribute::Class(ObjectClass::PUBLIC_KEY), Attribute::Id(id)];
        objects.extend(session.find_objects(&template).unwrap_or_default());
    }
    let wanted = [
        AttributeType::KeyType,
        AttributeType::EcParams,
        AttributeType::EcPoint,
        AttributeType::Modulus,
        AttributeType::PublicExponent,
    ];
    for object in objects {
        let (mut kind, mut curve, mut point, mut n, mut e) = (None, None, None, None, None);
        for attribute in session.get_attributes(object, &wanted).unwrap_or_default() {
            match attribute {
                Attribute::KeyType(is) => kind = Some(is),
                Attribute::EcParams(octets) => curve = Some(octets),
                Attribute::EcPoint(octets) => point = Some(octets),
                Attribute::Modulus(octets) => n = Some(octets),
                Attribute::PublicExponent(octets) => e = Some(octets),
                _ => {}
            }
        }
        let spki = match (kind, curve, point, n, e) {
            (Some(KeyType::EC), Some(curve), Some(point), ..) => spki::ec(&curve, &point),
            (Some(KeyType::EC_EDWARDS), _, Some(point), ..) => spki::ed25519(&point),
            (Some(KeyType::RSA), _, _, Some(n), Some(e)) => spki::rsa(&n, &e),
            _ => continue,
        };
        return VerifyingKey::from_spki_der(&spki).map_err(|error| error.to_string());
    }
    Err("the token does not show the public half of the key: it needs a public key object with the same id".to_owned())
}

/// SubjectPublicKeyInfo of what a token shows.
mod spki {
    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let value = parts.concat();
        let mut out = vec![tag];
        match value.len() {
            short @ 0..128 => out.push(short as u8),
            long @ 128..256 => out.extend([0x81, long as u8]),
            long => out.extend([0x82, (long >> 8) as u8, long as u8]),
        }
        out.extend(value);
        out
    }

    /// CKA_EC_POINT is the point within an OCTET STRING; some tokens leave that away.
    fn point(octets: &[u8]) -> &[u8] {
        match octets {
            [0x04, length, rest @ ..] if usize::from(*length) == rest.len() && *length < 128 => rest,
            [0x04, 0x81, length, rest @ ..] if usize::from(*length) == rest.len() => rest,
            _ => octets,
        }
    }

    pub(super) fn ec(curve: &[u8], octets: &[u8]) -> Vec<u8> {
        const EC: [u8; 9] = [0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
        tlv(0x30, &[&tlv(0x30, &[&EC, curve]), &tlv(0x03, &[&[0], point(octets)])])
    }

    pub(super) fn ed25519(octets: &[u8]) -> Vec<u8> {
        const ED25519: [u8; 5] = [0x06, 0x03, 0x2b, 0x65, 0x70];
        tlv(0x30, &[&tlv(0x30, &[&ED25519]), &tlv(0x03, &[&[0], point(octets)])])
    }

    pub(super) fn rsa(n: &[u8], e: &[u8]) -> Vec<u8> {
        const RSA: [u8; 13] = [
            0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01, 0x05, 0x00,
        ];
        let key = tlv(0x30, &[&integer(n), &integer(e)]);
        tlv(0x30, &[&tlv(0x30, &[&RSA]), &tlv(0x03, &[&[0], &key])])
    }

    /// A big-endian number as an INTEGER: no zeros in front but the one that keeps it positive.
    fn integer(octets: &[u8]) -> Vec<u8> {
        let start = octets.iter().position(|octet| *octet != 0).unwrap_or(octets.len());
        let digits = &octets[start..];
        let sign: &[u8] = if digits.first().is_none_or(|first| *first >= 0x80) {
            &[0]
        } else {
            &[]
        };
        tlv(0x02, &[sign, digits])
    }
}

/// The token's return value by its name; its explanations fill half a page.
fn brief(error: &Error) -> String {
    match error {
        Error::Pkcs11(value, function) => format!("the token answers {value:?} to {function:?}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uris_name_a_key_and_a_module() {
        let uri =
            TokenUri::parse("pkcs11:token=my%20vpn;object=gw;id=%01%ff;type=private?module-path=/lib/p11.so").unwrap();
        assert_eq!(
            (uri.token.as_deref(), uri.object.as_deref()),
            (Some("my vpn"), Some("gw"))
        );
        assert_eq!(
            (uri.id.as_deref(), uri.module.to_str()),
            (Some(&[1, 0xff][..]), Some("/lib/p11.so"))
        );
        for (wrong, told) in [
            ("file:x", "is named pkcs11:"),
            ("pkcs11:object=gw", "module-path is missing"),
            ("pkcs11:object=gw?module-path=p11.so", "module-path is missing"),
            ("pkcs11:token=a?module-path=/p", "names no key"),
            ("pkcs11:object=a;pin-value=1234?module-path=/p", "pin_file"),
            ("pkcs11:object=a?pin-source=/x&module-path=/p", "pin_file"),
            ("pkcs11:object=%4?module-path=/p", "not properly escaped"),
            ("pkcs11:colour=red;object=a?module-path=/p", "is not known"),
        ] {
            let error = TokenUri::parse(wrong).unwrap_err();
            assert!(error.contains(told), "{wrong}: {error}");
        }
    }

    #[test]
    fn a_module_that_is_none_is_an_error() {
        let uri = TokenUri::parse("pkcs11:object=gw?module-path=/nonexistent/p11.so").unwrap();
        assert!(
            TokenSigner::open(uri, None)
                .unwrap_err()
                .contains("/nonexistent/p11.so")
        );
    }
}
