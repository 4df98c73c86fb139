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
}

/** An answer that was not 2xx, in the server's words. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
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

const TIMEOUT_MS = 10_000;

export class Api {
  /** @param origin where the edge is, without a trailing slash; empty for the page's own origin */
  constructor(readonly origin = '') {}

  async streams(signal?: AbortSignal): Promise<Stream[]> {
    const body = await this.#json<{ streams: Stream[] }>('/api/streams', signal ? { signal } : {});
    return body.streams;
  }

  stream(name: string, signal?: AbortSignal): Promise<Stream> {
    return this.#json<Stream>(`/api/streams/${encodeURIComponent(name)}`, signal ? { signal } : {});
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

  studio(name: string, secret: string, signal?: AbortSignal): Promise<StudioState> {
    return this.#json<StudioState>(`/api/studio/${encodeURIComponent(name)}`, {
      headers: { authorization: `Bearer ${secret}` },
      ...(signal ? { signal } : {}),
    });
  }

  rotateKey(name: string, secret: string): Promise<StudioState> {
    return this.#json<StudioState>(`/api/studio/${encodeURIComponent(name)}/rotate-key`, {
      method: 'POST',
      headers: { authorization: `Bearer ${secret}` },
    });
  }

  hlsUrl(name: string): string {
    return this.#url(`/live/${encodeURIComponent(name)}/index.m3u8`);
  }

  dashUrl(name: string): string {
    return this.#url(`/live/${encodeURIComponent(name)}/manifest.mpd`);
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
    if (!response.ok) throw new ApiError(response.status, await problem(response));
    return response;
  }
}

/** The sentence for a person in a problem document, or one of our own. */
async function problem(response: Response): Promise<string> {
  try {
    const body = (await response.json()) as { detail?: unknown; title?: unknown };
    for (const text of [body.detail, body.title]) if (typeof text === 'string' && text) return text;
  } catch {
    // Not a problem document: a proxy's page, most likely.
  }
  return `The server answered with status ${response.status}.`;
}
