/** What the player says. One place for every sentence a viewer can meet. */
import type { Phase } from '../stream/lifecycle.js';
import type { Rendition } from '../playback/transport.js';

export interface Notice {
  title: string;
  text: string;
  /** The label of the button that tries again, where trying again can help. */
  retry?: string;
}

/** The card in place of the picture, or `null` when the picture speaks for itself. */
export function notice(phase: Phase, message: string): Notice | null {
  switch (phase) {
    case 'waiting':
      return { title: 'Not live yet', text: 'This page starts playing by itself when the stream begins.' };
    case 'ended':
      return { title: 'The stream has ended', text: 'Thanks for watching. If it comes back, it plays here by itself.' };
    case 'missing':
      return { title: 'There is no such stream', text: 'Check the address. If the stream is new, it will appear here.', retry: 'Look again' };
    case 'unreachable':
      return { title: 'The server does not answer', text: 'Trying again by itself. Is this device online?', retry: 'Try now' };
    case 'failed':
      return { title: 'This cannot be played', text: message || 'Something went wrong.', retry: 'Try again' };
    case 'loading':
    case 'connecting':
    case 'playing':
    case 'buffering':
    case 'reconnecting':
      return null;
  }
}

/** The small line under the spinner. */
export function progress(phase: Phase, encoderAway: boolean): string {
  if (phase === 'reconnecting') return 'Connection lost. Reconnecting…';
  if (phase === 'buffering') return encoderAway ? 'The streamer’s connection was cut. Waiting for it…' : '';
  return '';
}

/** `1080p60`, `720p`; a broadcast's untouched source says so. */
export function renditionLabel({ name, height, fps }: Rendition): string {
  const size = height ? `${height}p${fps > 31 ? Math.round(fps) : ''}` : name;
  return name === 'v-source' ? `${size} source` : size;
}

/** A bit rate in words: `2.5 Mbit/s`. */
export function bitrateLabel(bps: number): string {
  return bps >= 1e6 ? `${(bps / 1e6).toFixed(1)} Mbit/s` : `${Math.round(bps / 1000)} kbit/s`;
}

/** A delay as people say it: `1.8 s`; `2 min` when the viewer went back far. */
export function delayLabel(delayS: number): string {
  if (delayS < 0) return '0.0 s';
  if (delayS < 60) return `${delayS.toFixed(1)} s`;
  return `${Math.round(delayS / 60)} min`;
}
