/**
 * The server's clock, without trust in the device's: its wall clock may be minutes off, its monotonic clock is not.
 * Of several samples the one with the shortest round trip counts, for it bounds the error best (half the round trip).
 */

export interface ClockSample {
  /** Monotonic time at which the request left, milliseconds. */
  sentMs: number;
  /** Monotonic time at which the answer came, milliseconds. */
  receivedMs: number;
  /** What the server's clock said, milliseconds since 1970. */
  serverMs: number;
}

/** A sample older than this is replaced by any newer one: monotonic clocks drift too. */
const FRESH_MS = 10 * 60_000;

export class ServerClock {
  #offsetMs: number | null = null;
  #roundTripMs = Infinity;
  #takenMs = 0;

  add(sample: ClockSample): void {
    const roundTripMs = sample.receivedMs - sample.sentMs;
    if (roundTripMs < 0) return;
    const stale = sample.receivedMs - this.#takenMs > FRESH_MS;
    if (this.#offsetMs !== null && !stale && roundTripMs > this.#roundTripMs) return;
    this.#offsetMs = sample.serverMs + roundTripMs / 2 - sample.receivedMs;
    this.#roundTripMs = roundTripMs;
    this.#takenMs = sample.receivedMs;
  }

  /** Milliseconds since 1970 on the server at monotonic time `nowMs`; `null` before the first sample. */
  at(nowMs: number): number | null {
    return this.#offsetMs === null ? null : nowMs + this.#offsetMs;
  }
}
