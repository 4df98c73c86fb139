/** Tells the edge that somebody watches a public stream, and that anybody is gone: a random id a tab, nothing else. */
import type { Api } from './api.js';

export const BEACON_MS = 15_000;

const KEY = 'ghost-live.viewer';

/** A random id that lives as long as the tab does. */
export function viewerId(): string {
  try {
    const kept = sessionStorage.getItem(KEY);
    if (kept) return kept;
    const id = randomId();
    sessionStorage.setItem(KEY, id);
    return id;
  } catch {
    // Storage is denied to some embedded frames: then one id a page load.
    return (fallback ??= randomId());
  }
}

let fallback: string | undefined;

// crypto.randomUUID exists in secure contexts alone, and a home network's http:// is none.
function randomId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Counting viewers must never disturb them: a beacon that fails is dropped. */
export function sendBeacon(api: Api, stream: string): void {
  void api.beacon(stream, viewerId()).catch(() => undefined);
}

/** The page is being left, or plays something else. @param session the playback session that ends with it, where there is one */
export function sendLeft(api: Api, stream: string, session: string | null): void {
  api.leave(stream, viewerId(), session);
}
