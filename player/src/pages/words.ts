/** Numbers as the pages say them. */

const MINUTE = 60;
const HOUR = 60 * MINUTE;

/** `just now`, `12 min`, `3 h 05 min`. */
export function elapsed(since: string, nowMs: number): string {
  const s = Math.max(0, (nowMs - Date.parse(since)) / 1000);
  if (!Number.isFinite(s)) return '';
  if (s < MINUTE) return 'just now';
  if (s < HOUR) return `${Math.floor(s / MINUTE)} min`;
  return `${Math.floor(s / HOUR)} h ${String(Math.floor((s % HOUR) / MINUTE)).padStart(2, '0')} min`;
}

/** `live for 12 min`, `went live just now`. */
export function liveFor(since: string, nowMs: number): string {
  const words = elapsed(since, nowMs);
  return words === 'just now' ? 'Went live just now' : `Live for ${words}`;
}

/** `1 watching`, `1,204 watching`. */
export function watching(viewers: number): string {
  return `${viewers.toLocaleString('en')} watching`;
}

/** The best picture among tracks: `1080p60`; empty when there is none. */
export function bestQuality(tracks: { kind: string; height?: number | null; frame_rate?: number | null }[]): string {
  const best = tracks
    .filter(({ kind }) => kind === 'video')
    .map(({ height, frame_rate }) => ({ height: height ?? 0, fps: frame_rate ?? 0 }))
    .sort((a, b) => b.height - a.height || b.fps - a.fps)[0];
  if (!best?.height) return '';
  return `${best.height}p${best.fps > 31 ? Math.round(best.fps) : ''}`;
}

/** A time to come, as short as it can be understood: `14:05`, `4 Mar, 14:05`, `4 Mar 2031`. */
export function until(unixMs: number, nowMs: number): string {
  const [then, now] = [new Date(unixMs), new Date(nowMs)];
  const year = then.getFullYear() === now.getFullYear() ? {} : { year: 'numeric' as const };
  const time = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' } as const;
  if (then.toDateString() === now.toDateString()) return then.toLocaleTimeString('en', time);
  const day = then.toLocaleDateString('en-GB', { day: 'numeric', month: 'short', ...year });
  return 'year' in year ? day : `${day}, ${then.toLocaleTimeString('en', time)}`;
}
