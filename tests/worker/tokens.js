// Tokens made with Node.js's own crypto, so that what is checked is the form and not one library's habits.
import { createHash, createPrivateKey, createPublicKey, randomBytes, sign } from "node:crypto";

/** The Ed25519 key of a seed, with its id as RFC 7638 has it. */
export function keyOf(seed) {
  const key = createPrivateKey({ key: Buffer.concat([Buffer.from("302e020100300506032b657004220420", "hex"), seed]), format: "der", type: "pkcs8" });
  const { x } = createPublicKey(key).export({ format: "jwk" });
  const kid = createHash("sha256").update(`{"crv":"Ed25519","kty":"OKP","x":"${x}"}`).digest("base64url").slice(0, 8);
  return { key, kid, x, seed: seed.toString("base64url") };
}

export const encode = (value) => Buffer.from(JSON.stringify(value)).toString("base64url");

/** A token with these claims, signed by the key; `header` is added to what its header says. */
export function signed(claims, by, header = {}) {
  const message = `${encode({ alg: "EdDSA", kid: by.kid, ...header })}.${encode({ jti: randomBytes(12).toString("base64url"), ...claims })}`;
  return `${message}.${sign(null, Buffer.from(message), by.key).toString("base64url")}`;
}
