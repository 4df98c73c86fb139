/** The last measured bandwidth, so that the next visit begins with a rendition the network bears. */

const KEY = 'ghost-live.bandwidth';
const FIRST_GUESS_BPS = 3_000_000;

let keptBps = 0;

/** Bits per second. */
export function recallBandwidth(): number {
  try {
    const bps = Number(localStorage.getItem(KEY));
    return bps > 100_000 ? bps : FIRST_GUESS_BPS;
  } catch {
    return FIRST_GUESS_BPS;
  }
}

export function rememberBandwidth(bps: number): void {
  if (!(bps > 0) || Math.abs(bps - keptBps) < keptBps * 0.2) return;
  keptBps = bps;
  try {
    localStorage.setItem(KEY, String(Math.round(bps)));
  } catch {
    // Storage denied: the first guess serves next time as well.
  }
}
