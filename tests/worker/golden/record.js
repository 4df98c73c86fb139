// Writes messages.json: one broadcast with two tracks, a discontinuity, a lost segment and a running segment. Run it only to change the
// recording; then `UPDATE_GOLDEN=1 cargo test -p ghost-live-edge-worker --test golden` writes the texts anew.
import { writeFile } from "node:fs/promises";
import { Core } from "../core.js";

const core = new Core({ edge: "", secret: "", stream: "golden", seed: 1, put: false });
core.opened({ epoch: 1_800_000_000_000 });
await core.track("v-720p30");
await core.track("a-aac-128k");
for (let msn = 0; msn < 16; msn++) {
  if (msn === 9) core.send({ type: "discontinuity", msn });
  if (msn === 12) {
    // Lost in both tracks: announced as gaps, and the next segment begins under another key than was hinted.
    for (const { name } of core.tracks) {
      const ticks = name.startsWith("v-") ? 30000 : 16000;
      core.send({ type: "segment", track: name, msn, key: null, start: msn * 6 * ticks, duration: 6 * ticks, size: 0 });
      core.hints.set(name, core.key(name, `${msn + 1}.0.TAG.m4s`));
    }
    continue;
  }
  await core.wholeSegment(msn);
}
for (const part of [0, 1]) for (const { name } of core.tracks) await core.part(name, 16, part);
await writeFile(new URL("messages.json", import.meta.url), `[\n${core.sent.map((message) => JSON.stringify(message)).join(",\n")}\n]\n`);
