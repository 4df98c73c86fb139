// A media-core without media: it proves the link secret, opens a broadcast, puts small objects and announces them, as the real one does.
import { createHmac, randomBytes } from "node:crypto";
import WebSocket from "ws";

/** What it answers to an offer. */
export const ANSWER = "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\na=ice-ufrag:ours\r\n";

const ALPHABET = "abcdefghijklmnopqrstuvwxyz234567";

/** Lower-case base32 without padding of `count` random bytes (or of the bytes given). */
export function base32(bytes) {
  let bits = 0;
  let value = 0;
  let text = "";
  for (const byte of bytes) {
    value = (value << 8) | byte;
    bits += 8;
    while (bits >= 5) {
      bits -= 5;
      text += ALPHABET[(value >> bits) & 31];
    }
    value &= (1 << bits) - 1;
  }
  return bits > 0 ? text + ALPHABET[(value << (5 - bits)) & 31] : text;
}

/** HMAC-SHA256 over length-prefixed fields: protocol::link_auth. */
function mac(secret, fields) {
  const hmac = createHmac("sha256", secret);
  for (const field of fields) {
    const length = Buffer.alloc(8);
    length.writeBigUInt64BE(BigInt(Buffer.byteLength(field)));
    hmac.update(length).update(field);
  }
  return hmac.digest("hex");
}

/** The box's request header, and what the edge must answer to it. */
export function proof(secret, method, path, now = Date.now()) {
  const time = String(Math.floor(now / 1000));
  const nonce = randomBytes(16).toString("hex");
  return {
    header: `GhostLive ${time}.${nonce}.${mac(secret, ["box", method, path, time, nonce])}`,
    answer: mac(secret, ["edge", nonce, time]),
  };
}

/** A request to an internal address, proved both ways. */
export async function internal(edge, secret, method, path, body, headers = {}) {
  const { header, answer } = proof(secret, method, path);
  const ask = () => fetch(edge + path, { method, body, headers: { authorization: header, ...headers } });
  // A kept connection may have been closed by the other side in the meantime; every internal request may be sent twice.
  const response = await ask().catch(ask);
  if (response.headers.get("x-ghost-live-edge") !== answer) {
    throw new Error(`the edge did not prove the link secret: ${method} ${path} gave ${response.status} ${await response.text()}`);
  }
  return response;
}

/** One broadcast link that reconnects never by itself: the test decides. */
export class Core {
  /** Whose token it publishes with: what its admission said. */
  publisher;
  /** What it answers to signals: one outcome each, or `null` for none; when there are none left, as a good box does. */
  outcomes = [];

  /**
   * `origin` is where objects are put instead of through the edge; `skewMs` is how far the box's clock is ahead.
   * @param {{edge: string, secret: string, stream: string, seed?: number, put?: boolean, origin?: string, skewMs?: number}} options
   */
  constructor({ edge, secret, stream, seed, put = true, origin, skewMs = 0 }) {
    Object.assign(this, { edge, secret, stream, put, origin, skewMs });
    // With a seed every name is the same in every run, so that playlists can be compared byte for byte.
    this.counter = 0;
    this.random = seed === undefined ? randomBytes : (n) => mac(String(seed), [String(this.counter++)]).match(/../g).slice(0, n).map((h) => parseInt(h, 16));
    this.broadcast = base32(this.random(16));
    this.seq = 0;
    this.sent = [];
    this.received = [];
    this.tracks = [];
    this.hints = new Map();
    this.objects = new Map();
  }

  tag() {
    return base32(this.random(12));
  }

  key(track, file) {
    return `${this.stream}/${this.broadcast}/${track}/${file.replace("TAG", this.tag())}`;
  }

  /** Asks which broadcast this is; takes over the id of one that goes on. */
  async open() {
    const response = await internal(this.edge, this.secret, "POST", "/internal/broadcasts", JSON.stringify({ stream: this.stream, broadcast: this.broadcast }), {
      "content-type": "application/json",
    });
    if (response.status !== 200) throw new Error(`open: ${response.status} ${await response.text()}`);
    return response.json();
  }

  /** Dials the link and waits for the welcome; sends again what the edge has not stored. */
  async dial() {
    const path = `/internal/link/${this.broadcast}`;
    const { header, answer } = proof(this.secret, "GET", path);
    const socket = new WebSocket(this.edge.replace(/^http/, "ws") + path, { headers: { authorization: header } });
    this.socket = socket;
    let proved = false;
    socket.on("upgrade", (response) => {
      proved = response.headers["x-ghost-live-edge"] === answer;
    });
    const welcome = await new Promise((resolve, reject) => {
      socket.on("error", reject);
      socket.on("close", (code, reason) => reject(new Error(`the link was closed: ${code} ${reason}`)));
      socket.on("message", (text) => {
        const message = JSON.parse(text);
        this.received.push({ ...message, at: performance.now() });
        for (const waiter of this.waiters ?? []) waiter();
        if (message.type === "signal") this.signaled(message);
        if (message.type === "welcome") resolve(message);
        if (message.type === "refused") reject(new Error(message.reason));
      });
    });
    if (!proved) throw new Error("the edge did not prove the link secret on the link");
    const beat = setInterval(() => this.heartbeat(), 2000);
    beat.unref();
    socket.on("close", () => clearInterval(beat));
    for (const message of this.sent) if (message.seq > welcome.seq) socket.send(JSON.stringify(message));
    return welcome;
  }

  /** Waits until a received message satisfies the test. */
  async until(test, timeoutMs = 5000) {
    const deadline = Date.now() + timeoutMs;
    for (;;) {
      const found = this.received.find(test);
      if (found) return found;
      if (Date.now() > deadline) throw new Error(`no such message within ${timeoutMs} ms; received ${JSON.stringify(this.received)}`);
      await new Promise((resolve) => {
        this.waiters ??= new Set();
        const timer = setTimeout(done, deadline - Date.now());
        const waiters = this.waiters;
        function done() {
          clearTimeout(timer);
          waiters.delete(done);
          resolve();
        }
        waiters.add(done);
      });
    }
  }

  send(message) {
    const numbered = { seq: ++this.seq, ...message };
    this.sent.push(numbered);
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(numbered));
    return numbered;
  }

  heartbeat(clock = Date.now() + this.skewMs) {
    this.socket.send(JSON.stringify({ seq: 0, type: "heartbeat", clock_unix_ms: clock, publisher: this.publisher }));
  }

  /** Something outside the order of the link. */
  say(message) {
    this.socket.send(JSON.stringify({ seq: 0, ...message }));
  }

  signaled({ request, signal }) {
    const usual = { offer: { outcome: "answer", sdp: ANSWER }, patch: { outcome: "patched" }, leave: { outcome: "left" } }[signal];
    const outcome = this.outcomes.length > 0 ? this.outcomes.shift() : usual;
    if (outcome) this.say({ type: "signaled", request, ...outcome });
  }

  /** The viewers that offered. */
  offered() {
    return this.received.filter(({ type, signal }) => type === "signal" && signal === "offer").map(({ viewer }) => viewer);
  }

  /** Waits until it is told that a session has ended. */
  ended(viewer, timeoutMs) {
    return this.until(({ type, sessions }) => type === "end" && sessions.includes(viewer.session.id), timeoutMs);
  }

  async store(key, bytes) {
    this.objects.set(key, bytes);
    if (!this.put) return;
    if (this.origin) {
      const stored = await fetch(`${this.origin}/${key}`, { method: "PUT", body: bytes });
      if (!stored.ok) throw new Error(`the origin answered ${stored.status} ${await stored.text()}`);
      return;
    }
    const response = await internal(this.edge, this.secret, "PUT", `/internal/media/${key}`, bytes);
    if (response.status !== 201) throw new Error(`put: ${response.status} ${await response.text()}`);
  }

  opened({ epoch = Date.now(), firstMsn = 0, windowS = 60 } = {}) {
    return this.send({ type: "opened", stream: this.stream, broadcast: this.broadcast, epoch_unix_ms: epoch, first_msn: firstMsn, window_s: windowS });
  }

  /** A 30 fps video track or a 48 kHz audio track, in 1/90000 s and samples. */
  async track(name, { msn = 0, init = 0 } = {}) {
    const video = name.startsWith("v-");
    const key = this.key(name, `init-${init}.TAG.mp4`);
    await this.store(key, Buffer.from(`init of ${name}`));
    const first = this.key(name, `${msn}.0.TAG.m4s`);
    this.hints.set(name, first);
    const track = {
      name,
      kind: video ? { kind: "video", width: 1280, height: 720, frame_rate: [30, 1] } : { kind: "audio", sample_rate: 48000, channels: 2 },
      codecs: video ? "avc1.64001f" : "mp4a.40.2",
      timescale: video ? 90000 : 48000,
      part_target: video ? 30000 : 16384,
      nominal_bps: video ? 2_500_000 : 128_000,
      init: key,
      from_msn: msn,
      first_part: first,
    };
    this.tracks.push(track);
    this.send({ type: "track", ...track });
    return track;
  }

  /** Puts a part under the key that was hinted, and announces it. Parts are 1/3 s, six a segment. */
  async part(name, msn, part, { announce = true, last = part === 5 } = {}) {
    const video = name.startsWith("v-");
    const key = this.hints.get(name);
    const bytes = Buffer.from(`${name} ${msn}.${part};`);
    await this.store(key, bytes);
    const next = this.key(name, last ? `${msn + 1}.0.TAG.m4s` : `${msn}.${part + 1}.TAG.m4s`);
    this.hints.set(name, next);
    const ticks = video ? 30000 : 16000;
    const message = { type: "part", track: name, msn, part, key, start: (msn * 6 + part) * ticks, duration: ticks, independent: !video || part === 0, size: bytes.length, next };
    if (announce) this.send(message);
    return message;
  }

  async segment(name, msn, { parts = 6 } = {}) {
    const video = name.startsWith("v-");
    const key = this.key(name, `${msn}.TAG.m4s`);
    const bytes = Buffer.concat(Array.from({ length: parts }, (_, part) => Buffer.from(`${name} ${msn}.${part};`)));
    await this.store(key, bytes);
    const ticks = video ? 30000 : 16000;
    return this.send({ type: "segment", track: name, msn, key, start: msn * 6 * ticks, duration: parts * ticks, size: bytes.length });
  }

  /** A whole segment of every track, part by part. */
  async wholeSegment(msn) {
    for (let part = 0; part < 6; part++) for (const { name } of this.tracks) await this.part(name, msn, part);
    for (const { name } of this.tracks) await this.segment(name, msn);
  }

  closed(reason = "unpublished") {
    return this.send({ type: "closed", reason });
  }

  async hangUp() {
    const socket = this.socket;
    if (!socket || socket.readyState === WebSocket.CLOSED) return;
    await new Promise((resolve) => {
      socket.on("close", resolve);
      socket.close();
    });
  }
}
