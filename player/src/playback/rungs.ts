/**
 * The data channel of a WebRTC session: the server says which rungs it has for this viewer and which one it sends, and the viewer chooses.
 *
 * Server to player, at opening and at each change:
 * `{"rungs": [{"name": "v-720p30", "height": 720, "bps": 2500000}, …], "current": "v-720p30", "choice": null, "paused": false}`, best first.
 * Player to server: `{"choose": "v-480p30"}`, or `{"choose": null}` for whichever the network bears.
 *
 * A server that does not know the channel says nothing on it. What cannot be read is passed over, so that a newer server may say more.
 */
import type { Rendition } from './transport.js';

export const CHANNEL = 'ghost-live';
/** A longer message is not read, characters. */
const MOST_CHARACTERS = 4096;
/** No ladder has more rungs. */
const MOST_RUNGS = 32;

/** What the server last said. */
export interface Rungs {
  /** Best first. */
  rungs: readonly Rendition[];
  /** The name of the rung that is sent; `null` before the first and while it is `paused`. */
  current: string | null;
  /** The name of the rung that the viewer chose; `null`: the server chooses. */
  choice: string | null;
  /** Does the network carry no picture, so that only the sound is sent? */
  paused: boolean;
}

/** Reads one message; `null` when it is none. */
export function parse(data: unknown): Rungs | null {
  if (typeof data !== 'string' || data.length > MOST_CHARACTERS) return null;
  let said: unknown;
  try {
    said = JSON.parse(data);
  } catch {
    return null;
  }
  if (typeof said !== 'object' || said === null) return null;
  const { rungs, current, choice, paused } = said as Record<string, unknown>;
  if (!Array.isArray(rungs) || rungs.length > MOST_RUNGS) return null;
  return { rungs: rungs.flatMap(rung), current: name(current), choice: name(choice), paused: paused === true };
}

export function choose(rung: string | null): string {
  return JSON.stringify({ choose: rung });
}

function rung(said: unknown): Rendition[] {
  if (typeof said !== 'object' || said === null) return [];
  const { name, height, bps } = said as Record<string, unknown>;
  if (typeof name !== 'string' || name === '') return [];
  // Names of the ladder end with the frame rate: `v-720p30`.
  return [{ name, height: natural(height), fps: Number(/p(\d+)$/.exec(name)?.[1] ?? 0), bitrate: natural(bps) }];
}

function name(said: unknown): string | null {
  return typeof said === 'string' && said !== '' ? said : null;
}

function natural(said: unknown): number {
  return typeof said === 'number' && Number.isFinite(said) && said > 0 ? Math.round(said) : 0;
}
