/**
 * Capped exponential backoff with jitter, so that ten thousand viewers of a restarted server do not come back in step.
 *
 * @param attempt 0 for the first retry
 * @param random a number in [0, 1)
 * @returns milliseconds to wait: between half of and the whole exponential step
 */
export function backoffMs(attempt: number, baseMs: number, capMs: number, random: number): number {
  const stepMs = Math.min(capMs, baseMs * 2 ** Math.min(attempt, 16));
  return Math.round(stepMs * (0.5 + random / 2));
}
