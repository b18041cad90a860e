// Judges Sigstore bundles by a key with @sigstore/verify: the folder of node modules, the key's PEM file
// and bundle files as arguments; prints a JSON list with null for accepted or the error's code.
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { createPublicKey } from "node:crypto";
import { resolve } from "node:path";

const [folder, keyFile, ...files] = process.argv.slice(2);
const require = createRequire(resolve(folder, "x.js"));
const { bundleFromJSON } = require("@sigstore/bundle");
const { Verifier, toSignedEntity, toTrustMaterial } = require("@sigstore/verify");

const publicKey = createPublicKey(readFileSync(keyFile));
const root = { mediaType: "application/vnd.dev.sigstore.trustedroot+json;version=0.1", tlogs: [], certificateAuthorities: [], ctlogs: [], timestampAuthorities: [] };
const trust = toTrustMaterial(root, () => ({ publicKey, validFor: () => true }));
const verifier = new Verifier(trust, { tlogThreshold: 0, tsaThreshold: 0, ctlogThreshold: 0 });

const verdicts = files.map((file) => {
  try {
    verifier.verify(toSignedEntity(bundleFromJSON(JSON.parse(readFileSync(file, "utf8")))));
    return null;
  } catch (error) {
    return error.code ?? error.name;
  }
});
console.log(JSON.stringify(verdicts));
