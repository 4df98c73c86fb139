/** What the edge's HTTP interface says, typed, and with its problems (RFC 9457) as errors. */

export interface Track {
  name: string;
  kind: 'video' | 'audio';
  width?: number | null;
  height?: number | null;
  frame_rate?: number | null;
  codecs?: string;
  /** Peak bit rate, bits per second. */
  bandwidth?: number;
}

export interface Stream {
  name: string;
  live: boolean;
  /** When the broadcast began, RFC 3339. */
  since: string | null;
  viewers: number;
  tracks: Track[];
}

export interface StudioState {
  stream: string;
  live: boolean;
  since: string | null;
  viewers: number;
  servers: { url: string; note?: string }[];
  /** Null when the edge cannot show it any more: it goes on to admit, and a new one can be shown. */
  key: string | null;
  tracks: Track[];
  visibility: Visibility;
}

/** Who may watch: anybody; anybody who knows the address; whoever has a token. */
export type Visibility = 'public' | 'unlisted' | 'token';

export interface WatchLink {
  jti: string;
  name: string;
  token: string;
  /** From when on it lets nobody new in, seconds since 1970. */
  exp: number;
  /** On how many devices at a time; any number when missing. */
  max?: number;
  chat: boolean;
  created_unix_ms: number;
}

export interface WantedLink {
  name: string;
  /** How long it lets people in, seconds. */
  for_s: number;
  max?: number;
  chat: boolean;
}

/** Somebody who watches with a token. What began before the edge was restarted has no subject. */
export interface PlaybackSession {
  id: string;
  subject?: string;
  jti?: string;
  protocol?: 'hls' | 'dash';
  address: string;
  begun_unix_ms: number;
  seen_unix_ms: number;
}

/** An answer that was not 2xx, in the server's words. */
export class ApiError extends Error {
  /**
   * @param kind the problem's stable name: the end of its `type`; empty for an answer of somebody else
   * @param retryAfterS `Retry-After`, seconds; `null` without one
   */
  constructor(
    readonly status: number,
    message: string,
    readonly kind = '',
    readonly retryAfterS: number | null = null,
  ) {
    super(message);
    this.name = 'ApiError';
  }
}

/** No answer at all: the server or the network is down. */
export class UnreachableError extends Error {
  constructor(cause?: unknown) {
    super('The server does not answer.', { cause });
    this.name = 'UnreachableError';
  }
}

/** What a WHEP session begins with: the offer goes in, and this comes out. */
export type WhepDoor = (offer: string) => Promise<WhepAnswer>;

export interface WhepAnswer {
  /** The server's SDP. */
  answer: string;
  /** The playback session, which the session's address ends with. */
  session: string;
  /** The `Link` headers. */
  link: string | null;
  /** Ends the session, in a way that outlives the page. */
  leave(): void;
}

const TIMEOUT_MS = 10_000;

export class Api {
  readonly #token: string | null;

  /**
   * @param origin where the edge is, without a trailing slash; empty for the page's own origin
   * @param token what lets somebody watch. It goes to this edge alone, in a header, and into no address
   */
  constructor(
    readonly origin = '',
    token: string | null = null,
  ) {
    this.#token = token;
  }

  /** Is there a token? */
  get hasToken(): boolean {
    return this.#token !== null;
  }

  async streams(signal?: AbortSignal): Promise<Stream[]> {
    const body = await this.#json<{ streams: Stream[] }>('/api/streams', signal ? { signal } : {});
    return body.streams;
  }

  stream(name: string, by: 'token' | 'nothing', signal?: AbortSignal): Promise<Stream> {
    return this.#json<Stream>(`/api/streams/${encodeURIComponent(name)}`, { headers: by === 'token' ? this.#bearer() : {}, ...(signal ? { signal } : {}) });
  }

  /**
   * Comes in where `hlsUrl` or `dashUrl` leads, or asks whether a playback session may go on.
   *
   * @param by the token, a session, or nothing
   * @returns the playback session: `null` where nobody has one
   */
  async enter(name: string, protocol: 'hls' | 'dash', by: 'token' | 'nothing' | { session: string }, signal?: AbortSignal): Promise<string | null> {
    const session = typeof by === 'object' ? by.session : null;
    const url = protocol === 'dash' ? this.dashUrl(name, session) : this.hlsUrl(name, session);
    const response = await this.#fetch(url, { headers: by === 'token' ? this.#bearer() : {}, ...(signal ? { signal } : {}) });
    try {
      return sessionOf(await response.text());
    } catch (cause) {
      throw new UnreachableError(cause);
    }
  }

  /**
   * Offers to play by WebRTC (WHEP).
   *
   * @param session a playback session to go on with, so that a device that changes over from HLS is not counted twice
   */
  async whep(name: string, offer: string, session: string | null): Promise<WhepAnswer> {
    const response = await this.#fetch(`/whep/${encodeURIComponent(name)}${inQuery(session)}`, {
      method: 'POST',
      headers: { ...this.#bearer(), 'content-type': 'application/sdp', accept: 'application/sdp' },
      body: offer,
    });
    const location = response.headers.get('location');
    let answer: string;
    try {
      answer = await response.text();
    } catch (cause) {
      throw new UnreachableError(cause);
    }
    if (response.status !== 201 || location === null) throw new ApiError(response.status, 'The server did not begin a WebRTC session.');
    const url = new URL(location, response.url);
    // The token is for this edge, wherever the address leads.
    const headers = url.origin === new URL(response.url).origin ? this.#bearer() : {};
    return {
      answer,
      session: decodeURIComponent(url.pathname.split('/').at(-1) ?? ''),
      link: response.headers.get('link'),
      leave: () => void fetch(url, { method: 'DELETE', headers, keepalive: true, cache: 'no-store' }).catch(() => undefined),
    };
  }

  /** The server's clock, milliseconds since 1970. */
  async time(signal?: AbortSignal): Promise<number> {
    return (await this.#json<{ unix_ms: number }>('/api/time', signal ? { signal } : {})).unix_ms;
  }

  async beacon(name: string, viewer: string): Promise<void> {
    await this.#fetch(`/api/streams/${encodeURIComponent(name)}/beacon`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ viewer }),
    });
  }

  /** Tells the edge that the page is left, in a way that outlives the page. */
  leave(name: string, viewer: string, session: string | null): void {
    const body = JSON.stringify({ viewer, left: true, ...(session === null ? {} : { session }) });
    // As text, which needs no question to another origin beforehand, for which no time is left.
    navigator.sendBeacon(this.#url(`/api/streams/${encodeURIComponent(name)}/beacon`), body);
  }

  studio(name: string, secret: string, signal?: AbortSignal): Promise<StudioState> {
    return this.#json<StudioState>(`/api/studio/${encodeURIComponent(name)}`, { ...owner(secret), ...(signal ? { signal } : {}) });
  }

  rotateKey(name: string, secret: string): Promise<StudioState> {
    return this.#json<StudioState>(`/api/studio/${encodeURIComponent(name)}/rotate-key`, owner(secret, 'POST'));
  }

  /** Makes a new studio link: every page that the old one opened is out. What the new one carries. */
  async logOut(name: string, secret: string): Promise<string> {
    return (await this.#json<{ secret: string }>(`/api/studio/${encodeURIComponent(name)}/log-out`, owner(secret, 'POST'))).secret;
  }

  async setVisibility(name: string, secret: string, visibility: Visibility): Promise<void> {
    const init = owner(secret, 'PATCH');
    await this.#fetch(`/api/streams/${encodeURIComponent(name)}`, {
      ...init,
      headers: { ...init.headers, 'content-type': 'application/json' },
      body: JSON.stringify({ visibility }),
    });
  }

  /** The watch links of a stream, newest first. */
  async links(name: string, secret: string): Promise<WatchLink[]> {
    return (await this.#json<{ links: WatchLink[] }>(`/api/streams/${encodeURIComponent(name)}/links`, owner(secret))).links;
  }

  addLink(name: string, secret: string, wanted: WantedLink): Promise<WatchLink> {
    const init = owner(secret, 'POST');
    return this.#json<WatchLink>(`/api/streams/${encodeURIComponent(name)}/links`, {
      ...init,
      headers: { ...init.headers, 'content-type': 'application/json' },
      body: JSON.stringify(wanted),
    });
  }

  /** Takes a watch link back, and ends whatever plays by it. */
  async deleteLink(name: string, secret: string, jti: string): Promise<void> {
    await this.#fetch(`/api/streams/${encodeURIComponent(name)}/links/${encodeURIComponent(jti)}`, owner(secret, 'DELETE'));
  }

  /** Who watches with a token, newest first. */
  async sessions(name: string, secret: string): Promise<PlaybackSession[]> {
    return (await this.#json<{ sessions: PlaybackSession[] }>(`/api/streams/${encodeURIComponent(name)}/sessions`, owner(secret))).sessions;
  }

  async endSession(name: string, secret: string, id: string): Promise<void> {
    await this.#fetch(`/api/streams/${encodeURIComponent(name)}/sessions/${encodeURIComponent(id)}`, owner(secret, 'DELETE'));
  }

  hlsUrl(name: string, session: string | null = null): string {
    return this.#url(`/live/${encodeURIComponent(name)}/index.m3u8${inQuery(session)}`);
  }

  dashUrl(name: string, session: string | null = null): string {
    return this.#url(`/live/${encodeURIComponent(name)}/manifest.mpd${inQuery(session)}`);
  }

  #bearer(): Record<string, string> {
    return this.#token === null ? {} : { authorization: `Bearer ${this.#token}` };
  }

  #url(path: string): string {
    return new URL(this.origin + path, location.href).href;
  }

  async #json<T>(path: string, init: RequestInit): Promise<T> {
    const response = await this.#fetch(path, init);
    try {
      return (await response.json()) as T;
    } catch (cause) {
      throw new UnreachableError(cause);
    }
  }

  async #fetch(path: string, init: RequestInit): Promise<Response> {
    const timeout = AbortSignal.timeout(TIMEOUT_MS);
    const given = init.signal;
    const controller = new AbortController();
    const abort = () => controller.abort();
    timeout.addEventListener('abort', abort);
    given?.addEventListener('abort', abort);
    if (given?.aborted) abort();
    let response: Response;
    try {
      response = await fetch(this.#url(path), { cache: 'no-store', ...init, signal: controller.signal });
    } catch (cause) {
      given?.throwIfAborted();
      throw new UnreachableError(cause);
    } finally {
      timeout.removeEventListener('abort', abort);
      given?.removeEventListener('abort', abort);
    }
    if (!response.ok) throw await problem(response);
    return response;
  }
}

/** What the owner of a stream asks with: what their studio link carries. */
function owner(secret: string, method = 'GET'): { method: string; headers: Record<string, string> } {
  return { method, headers: { authorization: `Bearer ${secret}` } };
}

function inQuery(session: string | null): string {
  return session === null ? '' : `?session=${encodeURIComponent(session)}`;
}

/** The playback session that a multivariant playlist or an MPD names; `null` where anybody may watch. */
export function sessionOf(text: string): string | null {
  // `{broadcast}/{session}/{track}/…`, and where the MPD is fetched again.
  const found = /<Location>[^<]*[?&](?:amp;)?session=([^<&]+)/.exec(text)?.[1] ?? /^[^/#\s]+\/([^/\s]+)\/[^/\s]+\/index\.m3u8/m.exec(text)?.[1];
  return found === undefined || found === '-' ? null : found;
}

const PROBLEM = 'urn:ghost-live:problem:';

/** The sentence for a person in a problem document, or one of our own. */
async function problem(response: Response): Promise<ApiError> {
  const given = response.headers.get('retry-after') ?? '';
  const retryAfterS = /^\d+$/.test(given) ? Number(given) : null;
  try {
    const { detail, title, type } = (await response.json()) as { detail?: unknown; title?: unknown; type?: unknown };
    const kind = typeof type === 'string' && type.startsWith(PROBLEM) ? type.slice(PROBLEM.length) : '';
    const words = [detail, title].find((text) => typeof text === 'string' && text !== '');
    if (typeof words === 'string') return new ApiError(response.status, words, kind, retryAfterS);
  } catch {
    // Not a problem document: a proxy's page, most likely.
  }
  return new ApiError(response.status, `The server answered with status ${response.status}.`, '', retryAfterS);
}
