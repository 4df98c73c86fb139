// A stand-in for the edge: the pages as they are built, and live streams from a recording in a loop. `npm run build && npm run mock`.
import { readFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { extname, join } from 'node:path';
import { Broadcast } from './broadcast.js';
import { TRACKS, encode } from './encoder.js';

const DIST = join(import.meta.dirname, '..', 'dist');
const TYPES = /** @type {Record<string, string>} */ ({ '.html': 'text/html; charset=utf-8', '.js': 'text/javascript', '.css': 'text/css', '.svg': 'image/svg+xml' });
// What the edge sends with every page.
const CSP = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' blob:; font-src 'self'; connect-src 'self'; worker-src 'self' blob:; manifest-src 'self'; base-uri 'none'; form-action 'none'";
export const SECRET = 'studio-secret';

/** @typedef {import('node:http').ServerResponse} Response */

class Stream {
  /** @type {Broadcast | null} */
  broadcast = null;
  live = false;
  /** @type {(() => void) | null} */
  kill = null;
  /** When each viewer was last heard of. @type {Map<string, number>} */
  viewers = new Map();
  /** Null: it cannot be shown. @type {string | null} */
  key = 'demo_7hq2k9x4m1v8';
  visibility = 'public';
  /** What lets somebody watch; null: anybody may. @type {Map<string, Ticket> | null} */
  tickets = null;
  /** Playback sessions by their segment of the addresses. @type {Map<string, { token: string, ended: boolean, seenMs: number, begunMs: number }>} */
  sessions = new Map();
  /** Watch links, newest first. @type {{ jti: string, name: string, token: string, exp: number, max?: number, chat: boolean, created_unix_ms: number }[]} */
  links = [];
}

/** @typedef {{ good: true | 'expired' | 'revoked', max: number }} Ticket */

/** A session that asked for nothing for so long makes room, milliseconds. */
const IDLE_MS = 20_000;
const REFUSALS = /** @type {const} */ ({
  'token-needed': [401, 'This stream can only be watched with a link.'],
  token: [401, 'this is not a token: copy it again, whole'],
  expired: [401, 'the token has expired: ask for a new one'],
  revoked: [403, 'the token has been revoked'],
  'in-use': [403, 'the token plays on as many devices as it is for'],
});

/**
 * What stands for the media server: it answers an offer, or says with a status and a problem's name why not, and hears who left. An answer
 * that never comes is one that is asked for forever.
 *
 * @typedef {{ status: number, kind?: string, retryAfterS?: number }} WhepRefusal
 * @typedef {{ answer: (offer: string, session: string) => Promise<string | WhepRefusal>, left: (session: string) => void }} Whep
 */

export class MockServer {
  /** Null: an edge that knows of no WHEP. @type {Whep | null} */
  whep = null;
  /** Sessions of viewers without a token so far. */
  #anonymous = 0;
  /** @type {Map<string, Stream>} */
  streams = new Map();
  /** Requests for playlists and media that are open now, and the most there ever were at once. */
  open = 0;
  mostOpen = 0;
  /** What the studio link carries. */
  secret = SECRET;
  /** Answers nothing but refused connections while true. */
  down = false;
  /** Playlists and media wait for this: a network that carries nothing. */
  #carried = Promise.resolve();
  /** Ends the hold. */
  /** @type {() => void} */
  release = () => undefined;
  #server = createServer((request, response) => void this.#answer(request, response));
  /** @type {Set<import('node:net').Socket>} */
  #sockets = new Set();

  /** @param {string[]} names */
  constructor(names) {
    for (const name of names) this.streams.set(name, new Stream());
    this.#server.on('connection', (socket) => {
      if (this.down) {
        socket.destroy();
        return;
      }
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
  }

  /** @param {number} [port] */
  async listen(port = 0) {
    await new Promise((resolve) => this.#server.listen(port, '127.0.0.1', () => resolve(undefined)));
    const address = /** @type {import('node:net').AddressInfo} */ (this.#server.address());
    return `http://127.0.0.1:${address.port}`;
  }

  /** @param {string} name */
  stream(name) {
    const stream = this.streams.get(name);
    if (!stream) throw new Error(`no stream ${name}`);
    return stream;
  }

  /** A new broadcast. @param {string} name */
  async start(name) {
    const stream = this.stream(name);
    const broadcast = new Broadcast();
    stream.broadcast = broadcast;
    this.#publish(stream, broadcast);
    while (!broadcast.ready) await new Promise((resolve) => setTimeout(resolve, 100));
    stream.live = true;
  }

  /** @param {Stream} stream @param {Broadcast} broadcast */
  #publish(stream, broadcast) {
    let current = true;
    const stop = encode({
      init: (track, bytes) => current && broadcast.init(track, bytes),
      part: (track, part) => current && broadcast.part(track, part),
    });
    stream.kill = () => {
      current = false;
      stop();
    };
  }

  /** The streamer stops: playlists end. @param {string} name */
  stop(name) {
    const stream = this.stream(name);
    stream.kill?.();
    stream.broadcast?.end();
    stream.live = false;
  }

  /** The encoder's connection breaks; the broadcast stays open. @param {string} name */
  cut(name) {
    this.stream(name).kill?.();
  }

  /** The encoder is back within the grace period. @param {string} name */
  comeBack(name) {
    const stream = this.stream(name);
    if (!stream.broadcast) throw new Error('nothing to come back to');
    stream.broadcast.discontinue();
    this.#publish(stream, stream.broadcast);
  }

  /** From now on no playlist and no media is answered, until `release`. */
  hold() {
    this.#carried = new Promise((resolve) => {
      this.release = () => resolve(undefined);
    });
  }

  /** The server dies: connections break, new ones are refused. */
  die() {
    this.down = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  revive() {
    this.down = false;
  }

  async close() {
    for (const stream of this.streams.values()) stream.kill?.();
    this.die();
    await new Promise((resolve) => this.#server.close(() => resolve(undefined)));
  }

  /** From now on the stream needs this token. @param {string} name @param {string} token @param {Partial<Ticket>} ticket */
  ticket(name, token, { good = true, max = Infinity } = {}) {
    const stream = this.stream(name);
    stream.tickets ??= new Map();
    stream.tickets.set(token, { good, max });
  }

  /** Why a token does not let anybody in. @param {Stream} stream @param {string | undefined} token @returns {keyof typeof REFUSALS | null} */
  #refusal(stream, token) {
    if (!stream.tickets || token === this.secret) return null;
    if (token === undefined) return 'token-needed';
    const good = stream.tickets.get(token)?.good ?? 'token';
    return good === true ? null : good;
  }

  /** Why a playback session may not go on. What only waited is not `seen`. @param {Stream} stream @param {string} id @param {boolean} [seen] @returns {keyof typeof REFUSALS | null} */
  #over(stream, id, seen = true) {
    if (id === '-') return this.#refusal(stream, undefined);
    const session = stream.sessions.get(id);
    if (!session) return 'token';
    if (session.ended || stream.tickets?.get(session.token)?.good === 'revoked') return 'revoked';
    if (seen) session.seenMs = Date.now();
    return null;
  }

  /** Lets somebody in. @param {Stream} stream @param {URL} url @param {string | undefined} token @returns {{ session: string } | { refused: keyof typeof REFUSALS }} */
  #enter(stream, url, token) {
    const id = url.searchParams.get('session');
    if (id !== null) {
      const refused = this.#over(stream, id);
      return refused ? { refused } : { session: id };
    }
    const refused = this.#refusal(stream, token);
    if (refused) return { refused };
    if (token === undefined) return { session: '-' };
    // Whoever shows a token is looked at, whether it is needed or not.
    if (!stream.tickets && token !== this.secret) return { refused: 'token' };
    const active = [...stream.sessions.values()].filter((session) => session.token === token && !session.ended && session.seenMs > Date.now() - IDLE_MS);
    if (active.length >= (stream.tickets?.get(token)?.max ?? Infinity)) return { refused: 'in-use' };
    const session = `session-${stream.sessions.size}`;
    stream.sessions.set(session, { token, ended: false, seenMs: Date.now(), begunMs: Date.now() });
    return { session };
  }

  /** @param {string} name @param {Stream} stream */
  #state(name, stream) {
    const horizon = Date.now() - 40_000;
    for (const [viewer, seen] of stream.viewers) if (seen < horizon) stream.viewers.delete(viewer);
    return {
      name,
      live: stream.live,
      since: stream.live ? (stream.broadcast?.since ?? null) : null,
      viewers: stream.viewers.size,
      tracks: stream.live ? TRACKS.map(({ name, kind, width, height, rate, bandwidth }) => ({ name, kind, width, height, frame_rate: rate, bandwidth, codecs: kind === 'video' ? stream.broadcast?.codecs() : 'mp4a.40.2' })) : [],
    };
  }

  /** @param {import('node:http').IncomingMessage} request @param {Response} response */
  async #answer(request, response) {
    try {
      await this.#route(request, response);
    } catch (error) {
      console.error(request.url, error);
      response.destroy();
    }
  }

  /** @param {import('node:http').IncomingMessage} request @param {Response} response */
  async #route(request, response) {
    const url = new URL(request.url ?? '/', 'http://mock');
    const path = url.pathname.split('/').slice(1);
    if (path[0] === 'api') return this.#api(request, response, path.slice(1));
    if (path[0] === 'live' || path[0] === 'media') {
      this.open++;
      this.mostOpen = Math.max(this.mostOpen, this.open);
      response.on('close', () => this.open--);
      await this.#carried;
      return path[0] === 'live' ? this.#live(response, url, path.slice(1), bearer(request)) : this.#media(response, path.slice(1));
    }
    if (path[0] === 'whep') return this.#whep(request, response, url, path.slice(1));
    const page = { '': 'index', watch: 'watch', embed: 'embed', studio: 'studio' }[path[0] ?? ''];
    const file = page ? `${page}.html` : path[0] === 'assets' && path.length === 2 ? `assets/${path[1]}` : null;
    if (!file || file.includes('..')) return problem(response, 404, 'There is no such page.');
    const body = await readFile(join(DIST, file)).catch(() => null);
    if (!body) return problem(response, 404, 'There is no such page.');
    response.writeHead(200, { 'content-type': TYPES[extname(file)], 'content-security-policy': CSP, 'cache-control': page ? 'no-cache' : 'max-age=31536000, immutable' });
    return response.end(body);
  }

  /** @param {import('node:http').IncomingMessage} request @param {Response} response @param {string[]} path */
  async #api(request, response, path) {
    const [area, name = '', action, id] = path;
    if (area === 'time') return json(response, { unix_ms: Date.now() });
    if (area === 'streams' && !name) return json(response, { streams: [...this.streams].map(([name, stream]) => this.#state(name, stream)) });
    const stream = this.streams.get(name);
    if (!stream) return problem(response, 404, `There is no stream called ${name}.`);
    if (area === 'streams' && action === 'beacon') {
      const { viewer, left, session } = /** @type {{ viewer: string, left?: boolean, session?: string }} */ (await body(request));
      if (session !== undefined) {
        const known = stream.sessions.get(session);
        if (known && left) known.seenMs = 0;
      } else if (left) stream.viewers.delete(viewer);
      else stream.viewers.set(viewer, Date.now());
      return response.writeHead(204).end();
    }
    const owner = bearer(request) === this.secret;
    if (area === 'streams' && (action === 'links' || action === 'sessions')) return this.#owned(request, response, stream, action, id, owner);
    if (area === 'streams' && request.method === 'PATCH') {
      if (!owner) return problem(response, 401, 'This needs the studio link.', 'unauthorized');
      const { visibility } = /** @type {{ visibility: string }} */ (await body(request));
      if (visibility === 'token') stream.tickets ??= new Map();
      else stream.tickets = null;
      stream.visibility = visibility;
      return json(response, this.#state(name, stream));
    }
    if (area === 'streams') {
      // As the Worker has it: whoever shows a token is looked at, whether it is needed or not.
      const shown = bearer(request);
      const refused = owner ? null : !stream.tickets && shown !== undefined ? 'token' : this.#refusal(stream, shown);
      return refused ? refuse(response, refused) : json(response, this.#state(name, stream));
    }
    if (area !== 'studio') return problem(response, 404, 'There is no such thing.');
    if (!owner) return problem(response, 401, 'This needs the studio link.');
    if (action === 'log-out') {
      this.secret = `studio-${Math.random().toString(36).slice(2, 14)}`;
      for (const session of stream.sessions.values()) session.ended ||= session.token.startsWith('studio-');
      return json(response, { secret: this.secret });
    }
    if (action === 'rotate-key') stream.key = `demo_${Math.random().toString(36).slice(2, 14)}`;
    return json(response, {
      stream: name,
      ...this.#state(name, stream),
      servers: [
        { url: 'rtmps://live.example.org:1936/live', note: 'Encrypted. OBS accepts it once the certificate is trusted.' },
        { url: 'rtmp://192.168.1.20:1935/live', note: 'On this network.' },
      ],
      key: stream.key,
      visibility: stream.tickets ? 'token' : stream.visibility,
    });
  }

  /** @param {import('node:http').IncomingMessage} request @param {Response} response @param {URL} url @param {string[]} path */
  async #whep(request, response, url, [name = '', session]) {
    const stream = this.streams.get(name);
    if (!this.whep || !stream) return problem(response, 404, 'There is nothing here.', 'not-found');
    if (session !== undefined) {
      if (request.method !== 'DELETE') return problem(response, 405, 'This is not done here.');
      const known = stream.sessions.get(session);
      if (known) known.seenMs = 0;
      this.whep.left(session);
      return response.writeHead(200).end();
    }
    let offer = '';
    for await (const chunk of /** @type {AsyncIterable<Buffer>} */ (request)) offer += chunk.toString();
    if (!stream.live) return problem(response, 404, 'The stream is not live.', 'not-live');
    const entered = this.#enter(stream, url, bearer(request));
    if ('refused' in entered) return refuse(response, entered.refused);
    const id = entered.session === '-' ? `anonymous-${this.#anonymous++}` : entered.session;
    const answer = await this.whep.answer(offer, id);
    if (typeof answer !== 'string') {
      if (answer.retryAfterS !== undefined) response.setHeader('retry-after', answer.retryAfterS);
      return problem(response, answer.status, 'It cannot be watched by WebRTC.', answer.kind);
    }
    const active = stream.sessions.get(id);
    // It counts until it is left, whatever it asks for.
    if (active) active.seenMs = Infinity;
    response.writeHead(201, { 'content-type': 'application/sdp', location: `/whep/${name}/${id}`, etag: '"1"', link: '<stun:127.0.0.1:9>; rel="ice-server"', 'cache-control': 'no-store' });
    return response.end(answer);
  }

  /** Links and sessions, for the owner. @param {import('node:http').IncomingMessage} request @param {Response} response @param {Stream} stream @param {string} what @param {string | undefined} id @param {boolean} owner */
  async #owned(request, response, stream, what, id, owner) {
    if (!owner) return problem(response, 401, 'This needs the studio link.', 'unauthorized');
    if (what === 'sessions' && request.method === 'DELETE') {
      const session = stream.sessions.get(id ?? '');
      if (session) session.ended = true;
      return response.writeHead(204).end();
    }
    if (what === 'sessions') {
      const active = [...stream.sessions].filter(([, session]) => !session.ended && session.seenMs > Date.now() - IDLE_MS).reverse();
      return json(response, {
        sessions: active.map(([id, { token, seenMs, begunMs }]) => {
          const link = stream.links.find((link) => link.token === token);
          return { id, subject: link?.name ?? 'studio', jti: link?.jti ?? 'studio', protocol: 'hls', address: '192.0.2.7', begun_unix_ms: begunMs, seen_unix_ms: seenMs };
        }),
      });
    }
    if (request.method === 'DELETE') {
      const link = stream.links.find(({ jti }) => jti === id);
      if (!link) return problem(response, 404, 'There is no such link.', 'not-found');
      stream.links = stream.links.filter(({ jti }) => jti !== id);
      const ticket = stream.tickets?.get(link.token);
      if (ticket) ticket.good = 'revoked';
      return response.writeHead(204).end();
    }
    if (request.method === 'POST') {
      const { name, for_s, max, chat } = /** @type {{ name: string, for_s: number, max?: number, chat: boolean }} */ (await body(request));
      if (name === 'refused') return problem(response, 400, 'the name of a link has 1 to 80 characters', 'bad-body');
      const jti = `link-${stream.links.length}-${Math.random().toString(36).slice(2, 8)}`;
      const link = { jti, name, token: `header.${jti}.signature`, exp: Math.floor(Date.now() / 1000) + for_s, ...(max === undefined ? {} : { max }), chat, created_unix_ms: Date.now() };
      stream.links = [link, ...stream.links];
      stream.tickets?.set(link.token, { good: true, max: max ?? Infinity });
      response.writeHead(201, { 'content-type': 'application/json', 'cache-control': 'no-store' });
      return response.end(JSON.stringify(link));
    }
    return json(response, { links: stream.links });
  }

  /** @param {Response} response @param {URL} url @param {string[]} path @param {string | undefined} token */
  async #live(response, url, path, token) {
    const [name = '', second = '', session = '', track = '', file = ''] = path;
    const stream = this.streams.get(name);
    const broadcast = stream?.broadcast;
    if (!stream || !broadcast?.ready) return problem(response, 404, 'The stream is not live.');
    if (second === 'index.m3u8' || second === 'manifest.mpd') {
      const entered = this.#enter(stream, url, token);
      if ('refused' in entered) return refuse(response, entered.refused);
      const own = (/** @type {string} */ body) => body.replaceAll('/-/', `/${entered.session}/`);
      if (second === 'index.m3u8') return text(response, 'application/vnd.apple.mpegurl', own(broadcast.multivariant()));
      const location = entered.session === '-' ? '' : `<Location>manifest.mpd?session=${entered.session}</Location>\n`;
      return text(response, 'application/dash+xml', own(broadcast.manifest()).replace('<ServiceDescription', `${location}<ServiceDescription`));
    }
    const over = this.#over(stream, session);
    if (over) return refuse(response, over);
    if (second !== broadcast.id || !broadcast.tracks.has(track)) return problem(response, 404, 'This broadcast is over.');
    if (file === 'init.mp4') return bytes(response, broadcast.track(track).inits.at(-1) ?? Buffer.alloc(0));
    const number = /^(\d+)\.m4s$/.exec(file)?.[1];
    if (number !== undefined) return this.#chunked(response, broadcast, track, Number(number));
    const msn = url.searchParams.get('_HLS_msn');
    if (msn !== null) {
      const part = Number(url.searchParams.get('_HLS_part') ?? -1);
      if (!(await broadcast.until(() => broadcast.has(track, Number(msn), part)))) return problem(response, 503, 'Nothing new came in time.');
      const meanwhile = this.#over(stream, session, false);
      if (meanwhile) return refuse(response, meanwhile);
    }
    return text(response, 'application/vnd.apple.mpegurl', broadcast.playlist(name, track));
  }

  /** A DASH segment as it grows. @param {Response} response @param {Broadcast} broadcast @param {string} track @param {number} msn */
  async #chunked(response, broadcast, track, msn) {
    await broadcast.until(() => broadcast.has(track, msn, 0));
    const segment = broadcast.track(track).segments.find((candidate) => candidate.msn === msn);
    if (!segment) return problem(response, 404, 'This segment is gone.');
    response.writeHead(200, { 'content-type': 'video/mp4' });
    for (let part = 0; ; part++) {
      await broadcast.until(() => segment.parts.length > part || segment.done);
      const next = segment.parts[part];
      if (!next) break;
      response.write(next.bytes);
    }
    return response.end();
  }

  /** @param {Response} response @param {string[]} path */
  #media(response, [name = '', id = '', trackName = '', file = '']) {
    const broadcast = this.streams.get(name)?.broadcast;
    const track = broadcast?.id === id ? broadcast.tracks.get(trackName) : undefined;
    const found = /^(?:init-(\d+)\.mp4|(\d+)(?:\.(\d+))?\.m4s)$/.exec(file);
    if (!track || !found) return problem(response, 404, 'There is no such object.');
    if (found[1] !== undefined) return bytes(response, track.inits[Number(found[1])] ?? Buffer.alloc(0));
    const segment = track.segments.find(({ msn }) => msn === Number(found[2]));
    const parts = found[3] === undefined ? segment?.parts : segment?.parts.slice(Number(found[3]), Number(found[3]) + 1);
    if (!parts?.length) return problem(response, 404, 'There is no such object.');
    return bytes(response, Buffer.concat(parts.map((part) => part.bytes)));
  }
}

/** @param {Response} response @param {string} type @param {string} body */
function text(response, type, body) {
  return response.writeHead(200, { 'content-type': type, 'cache-control': 'no-store' }).end(body);
}

/** @param {Response} response @param {Buffer} body */
function bytes(response, body) {
  return response.writeHead(200, { 'content-type': 'video/mp4', 'cache-control': 'max-age=31536000, immutable' }).end(body);
}

/** @param {Response} response @param {unknown} body */
function json(response, body) {
  return text(response, 'application/json', JSON.stringify(body));
}

/** @param {Response} response @param {number} status @param {string} detail @param {string} [kind] */
function problem(response, status, detail, kind) {
  response.writeHead(status, { 'content-type': 'application/problem+json', 'cache-control': 'no-store' });
  return response.end(JSON.stringify({ type: kind ? `urn:ghost-live:problem:${kind}` : 'about:blank', title: 'Not done', status, detail }));
}

/** @param {Response} response @param {keyof typeof REFUSALS} kind */
function refuse(response, kind) {
  const [status, detail] = REFUSALS[kind];
  return problem(response, status, detail, kind);
}

/** @param {import('node:http').IncomingMessage} request @returns {Promise<unknown>} */
async function body(request) {
  let text = '';
  for await (const chunk of /** @type {AsyncIterable<Buffer>} */ (request)) text += chunk.toString();
  /** @type {unknown} */
  const parsed = JSON.parse(text);
  return parsed;
}

/** @param {import('node:http').IncomingMessage} request */
function bearer(request) {
  return /^Bearer (.+)$/.exec(request.headers.authorization ?? '')?.[1];
}

if (process.argv[1] === import.meta.filename) {
  const server = new MockServer(['demo', 'evening-show', 'garden-cam']);
  const address = await server.listen(Number(process.env.PORT ?? 8090));
  await server.start('demo');
  console.log(`watch   ${address}/watch/demo\nstudio  ${address}/studio/demo#${SECRET}`);
  process.on('SIGINT', () => void server.close().then(() => process.exit(0)));
}
