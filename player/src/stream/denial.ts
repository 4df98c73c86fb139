/** Why somebody may not watch, as the edge's problems (RFC 9457) say it by their stable names. */
import { ApiError } from './api.js';

export type Denial =
  /** The stream needs a token, and there is none. */
  | 'needed'
  /** What was given is no good token. */
  | 'invalid'
  | 'expired'
  /** The token was taken back. */
  | 'revoked'
  /** The playback session was ended; the token is as good as before. */
  | 'ended'
  /** The token plays on as many devices as it is for. */
  | 'in-use'
  /** The token is for another stream, something else, or another network. */
  | 'elsewhere';

const DENIALS = new Map<string, Denial>([
  ['token-needed', 'needed'],
  ['token', 'invalid'],
  ['expired', 'expired'],
  ['revoked', 'revoked'],
  ['in-use', 'in-use'],
  ['forbidden', 'elsewhere'],
]);

/** `null` for an error that says nothing of whether one may. */
export function denialOf(error: unknown): Denial | null {
  return error instanceof ApiError ? (DENIALS.get(error.kind) ?? null) : null;
}
