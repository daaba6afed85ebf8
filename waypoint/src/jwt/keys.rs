//! Key sets (RFC 7517) and signatures (RFC 7518, RFC 8037).

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256, RSA_PSS_2048_8192_SHA384,
    RSA_PSS_2048_8192_SHA512, RsaPublicKeyComponents, UnparsedPublicKey,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Deserialize;

use super::token::{Parsed, TokenError};

/// Keys of one set that are kept. A token without a key id is tried with each that fits, so this bounds the work of one
/// request; key rotation needs two or three.
const MAX_KEYS: usize = 32;
/// Bytes of an RSA modulus: 2048 to 8192 bits, what aws-lc-rs verifies.
const MODULUS: std::ops::RangeInclusive<usize> = 256..=1024;

/// Algorithms of signatures. What is not here does not exist: neither `none` nor HMAC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    EdDsa,
    Es256,
    Es384,
    Es512,
    Ps256,
    Ps384,
    Ps512,
    Rs256,
    Rs384,
    Rs512,
}

impl Algorithm {
    pub(super) fn of(name: &str) -> Option<Self> {
        Some(match name {
            // RFC 9864 gives EdDSA with this curve a name of its own.
            "EdDSA" | "Ed25519" => Self::EdDsa,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            _ => return None,
        })
    }
}

/// The keys of an issuer.
#[derive(Debug, Default)]
pub(super) struct KeySet(Vec<Key>);

#[derive(Debug)]
struct Key {
    id: Option<String>,
    /// The one algorithm that the set says it is for.
    only: Option<Algorithm>,
    material: Material,
}

#[derive(Debug)]
enum Material {
    Ed25519(Vec<u8>),
    /// Points, uncompressed.
    P256(Vec<u8>),
    P384(Vec<u8>),
    P521(Vec<u8>),
    Rsa {
        modulus: Vec<u8>,
        exponent: Vec<u8>,
    },
}

#[derive(Deserialize)]
struct RawSet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct RawKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Reads a set; keys that cannot be used are left out and told in the second part.
    ///
    /// # Errors
    /// When it is no key set, or no key of it can be used.
    pub(super) fn parse(json: &str) -> Result<(Self, Vec<String>), String> {
        let raw: RawSet = serde_json::from_str(json).map_err(|e| format!("the key set cannot be read: {e}"))?;
        let mut unusable = Vec::new();
        let mut keys = Vec::new();
        for (i, raw) in raw.keys.into_iter().enumerate() {
            if keys.len() == MAX_KEYS {
                unusable.push(format!("key set: keys from number {i} on are not used (limit {MAX_KEYS})"));
                break;
            }
            match Key::read(raw) {
                Ok(Some(key)) => keys.push(key),
                // For encryption: no mistake.
                Ok(None) => {}
                Err(why) => unusable.push(format!("key set: key number {i} is not used: {why}")),
            }
        }
        match (keys.is_empty(), unusable.first()) {
            (false, _) => Ok((Self(keys), unusable)),
            (true, Some(first)) => Err(first.clone()),
            (true, None) => Err("the key set holds no key for signatures".to_owned()),
        }
    }

    /// Checks the signature with each key that the token may be signed by.
    pub(super) fn verify(&self, token: &Parsed<'_>) -> Result<(), TokenError> {
        let named = |key: &&Key| match (&key.id, &token.key_id) {
            (Some(id), Some(wanted)) => id == wanted,
            // A key without a name, or a token that names none: RFC 7515 4.1.4 leaves both optional.
            _ => true,
        };
        let mut fitting = self.0.iter().filter(named).filter(|k| k.is_for(token.algorithm)).peekable();
        if fitting.peek().is_none() {
            return Err(TokenError::NoKey);
        }
        let verified = fitting.any(|k| k.verify(token.algorithm, token.signed.as_bytes(), &token.signature));
        if verified { Ok(()) } else { Err(TokenError::Signature) }
    }
}

impl Key {
    fn read(raw: serde_json::Value) -> Result<Option<Self>, String> {
        let raw: RawKey = serde_json::from_value(raw).map_err(|e| e.to_string())?;
        let verifies = |ops: &Vec<String>| ops.iter().any(|o| o == "verify");
        if raw.usage.as_deref().is_some_and(|u| u != "sig") || raw.key_ops.as_ref().is_some_and(|o| !verifies(o)) {
            return Ok(None);
        }
        let material = Material::read(&raw)?;
        let only = match &raw.alg {
            Some(name) => Some(Algorithm::of(name).ok_or_else(|| format!("algorithm {name:?} is not accepted"))?),
            None => None,
        };
        let key = Self { id: raw.kid, only, material };
        match only {
            Some(only) if !key.is_for(only) => Err("its algorithm and its type do not belong together".to_owned()),
            _ => Ok(Some(key)),
        }
    }

    /// Whether signatures of an algorithm can be by this key: decided by the type of the key.
    fn is_for(&self, algorithm: Algorithm) -> bool {
        use Algorithm as A;
        let by_type = match (&self.material, algorithm) {
            (Material::Ed25519(_), A::EdDsa)
            | (Material::P256(_), A::Es256)
            | (Material::P384(_), A::Es384)
            | (Material::P521(_), A::Es512) => true,
            (Material::Rsa { .. }, a) => {
                matches!(a, A::Ps256 | A::Ps384 | A::Ps512 | A::Rs256 | A::Rs384 | A::Rs512)
            }
            _ => false,
        };
        by_type && self.only.is_none_or(|only| only == algorithm)
    }

    fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        use Algorithm as A;
        match &self.material {
            Material::Ed25519(key) => UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok(),
            Material::P256(key) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, key).verify(message, signature).is_ok()
            }
            Material::P384(key) => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, key).verify(message, signature).is_ok()
            }
            Material::P521(key) => {
                UnparsedPublicKey::new(&ECDSA_P521_SHA512_FIXED, key).verify(message, signature).is_ok()
            }
            Material::Rsa { modulus, exponent } => {
                let parameters = match algorithm {
                    A::Ps256 => &RSA_PSS_2048_8192_SHA256,
                    A::Ps384 => &RSA_PSS_2048_8192_SHA384,
                    A::Ps512 => &RSA_PSS_2048_8192_SHA512,
                    A::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
                    A::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
                    A::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
                    A::EdDsa | A::Es256 | A::Es384 | A::Es512 => return false,
                };
                RsaPublicKeyComponents { n: modulus, e: exponent }.verify(parameters, message, signature).is_ok()
            }
        }
    }
}

impl Material {
    fn read(raw: &RawKey) -> Result<Self, String> {
        match (raw.kty.as_str(), raw.crv.as_deref()) {
            ("RSA", _) => {
                // Leading zeros are not part of a number (RFC 7518 6.3.1.1).
                let modulus = number(&raw.n, "n")?;
                if !MODULUS.contains(&modulus.len()) {
                    return Err(format!("an RSA key of {} bits is not accepted (2048 to 8192)", modulus.len() * 8));
                }
                Ok(Self::Rsa { modulus, exponent: number(&raw.e, "e")? })
            }
            ("EC", Some("P-256")) => Ok(Self::P256(point(raw, 32)?)),
            ("EC", Some("P-384")) => Ok(Self::P384(point(raw, 48)?)),
            ("EC", Some("P-521")) => Ok(Self::P521(point(raw, 66)?)),
            ("OKP", Some("Ed25519")) => Ok(Self::Ed25519(coordinate(&raw.x, "x", 32)?)),
            ("oct", _) => Err("symmetric keys are not accepted: whoever can check a token could make one".to_owned()),
            (kind, curve) => Err(format!("keys of type {kind:?} {:?} are not known", curve.unwrap_or_default())),
        }
    }
}

fn bytes(text: &Option<String>, name: &str) -> Result<Vec<u8>, String> {
    let text = text.as_ref().ok_or_else(|| format!("{name:?} is missing"))?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| format!("{name:?} is not base64url without padding"))
}

fn number(text: &Option<String>, name: &str) -> Result<Vec<u8>, String> {
    let bytes = bytes(text, name)?;
    Ok(bytes.iter().copied().skip_while(|b| *b == 0).collect())
}

fn coordinate(text: &Option<String>, name: &str, len: usize) -> Result<Vec<u8>, String> {
    let bytes = bytes(text, name)?;
    if bytes.len() == len { Ok(bytes) } else { Err(format!("{name:?} is not {len} bytes long")) }
}

fn point(raw: &RawKey, len: usize) -> Result<Vec<u8>, String> {
    // SEC 1, 2.3.3: an uncompressed point.
    let mut point = vec![4];
    point.extend(coordinate(&raw.x, "x", len)?);
    point.extend(coordinate(&raw.y, "y", len)?);
    Ok(point)
}
