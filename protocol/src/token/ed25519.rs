//! Ed25519 for the `jsonwebtoken` crate, which brings its own only together with RSA and the NIST curves: what nobody here may use.

use std::sync::Once;

use ed25519_dalek::{SECRET_KEY_LENGTH, Signature, SigningKey, VerifyingKey};
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, EncodingKey,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    errors::{ErrorKind, Result},
    signature,
};

static PROVIDER: CryptoProvider = CryptoProvider {
    signer_factory: |algorithm, key| Ok(Box::new(Signer::new(*algorithm, key)?)),
    verifier_factory: |algorithm, key| Ok(Box::new(Verifier::new(*algorithm, key)?)),
    // For JSON Web Keys, which are read and written by this crate itself.
    key_utils: KeyUtils::new_unimplemented(),
};

/// Makes this the process's provider, once. Nobody else here uses the crate: were another installed before, it would refuse these keys.
pub(super) fn install() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let _ = PROVIDER.install_default();
    });
}

struct Signer(SigningKey);

impl Signer {
    fn new(algorithm: Algorithm, key: &EncodingKey) -> Result<Self> {
        let seed: &[u8; SECRET_KEY_LENGTH] = (key.as_bytes().try_into())
            .ok()
            .filter(|_| algorithm == Algorithm::EdDSA && key.family() == AlgorithmFamily::Ed)
            .ok_or(ErrorKind::InvalidEddsaKey)?;
        Ok(Self(SigningKey::from_bytes(seed)))
    }
}

impl signature::Signer<Vec<u8>> for Signer {
    fn try_sign(&self, message: &[u8]) -> std::result::Result<Vec<u8>, signature::Error> {
        Ok(self.0.sign(message).to_vec())
    }
}

impl JwtSigner for Signer {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}

struct Verifier(VerifyingKey);

impl Verifier {
    fn new(algorithm: Algorithm, key: &DecodingKey) -> Result<Self> {
        let public = (key.try_get_as_bytes()?.try_into())
            .ok()
            .filter(|_| algorithm == Algorithm::EdDSA && key.family() == AlgorithmFamily::Ed)
            .ok_or(ErrorKind::InvalidEddsaKey)?;
        let public = VerifyingKey::from_bytes(public).map_err(|_| ErrorKind::InvalidEddsaKey)?;
        Ok(Self(public))
    }
}

impl signature::Verifier<Vec<u8>> for Verifier {
    fn verify(
        &self,
        message: &[u8],
        signature: &Vec<u8>,
    ) -> std::result::Result<(), signature::Error> {
        let signature = Signature::from_slice(signature).map_err(|_| signature::Error::new())?;
        // Strict: one signature a message and key, and no key of small order, which would fit many messages.
        (self.0.verify_strict(message, &signature)).map_err(|_| signature::Error::new())
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        Algorithm::EdDSA
    }
}
