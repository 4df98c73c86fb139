/** Volume and mute, remembered between visits. Storage may be denied: then nothing is. */

const KEY = 'ghost-live.volume';

export interface Loudness {
  volume: number;
  muted: boolean;
}

export function recallLoudness(): Loudness {
  try {
    const kept = JSON.parse(localStorage.getItem(KEY) ?? '{}') as Partial<Loudness>;
    const volume = typeof kept.volume === 'number' ? Math.min(1, Math.max(0, kept.volume)) : 1;
    return { volume, muted: kept.muted === true };
  } catch {
    return { volume: 1, muted: false };
  }
}

export function rememberLoudness(loudness: Loudness): void {
  try {
    localStorage.setItem(KEY, JSON.stringify(loudness));
  } catch {
    // Nothing to do: the next visit is as loud as the first.
  }
}
