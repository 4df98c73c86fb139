/** What the player says. One place for every sentence a viewer can meet. */
import type { Denial } from '../stream/denial.js';
import type { Phase } from '../stream/lifecycle.js';
import type { Rendition, TransportKind } from '../playback/transport.js';

export interface Notice {
  title: string;
  text: string;
  /** The label of the button that tries again, where trying again can help. */
  retry?: string;
}

/** The card in place of the picture, or `null` when the picture speaks for itself. */
export function notice(phase: Phase, message: string, denial: Denial | null): Notice | null {
  switch (phase) {
    case 'waiting':
      return { title: 'Not live yet', text: 'This page starts playing by itself when the stream begins.' };
    case 'ended':
      return { title: 'The stream has ended', text: 'Thanks for watching. If it comes back, it plays here by itself.' };
    case 'missing':
      return { title: 'There is no such stream', text: 'Check the address. If the stream is new, it will appear here.', retry: 'Look again' };
    case 'unreachable':
      return { title: 'The server does not answer', text: 'Trying again by itself. Is this device online?', retry: 'Try now' };
    case 'denied':
      return denied(denial ?? 'needed');
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

function denied(denial: Denial): Notice {
  switch (denial) {
    case 'needed':
      return { title: 'You need a link to watch this', text: 'The streamer gives it out. Open that link, whole, as you got it.', retry: 'Try again' };
    case 'invalid':
      return { title: 'This link does not work', text: 'It may have been cut off. Open it again, whole, or ask the streamer for a new one.', retry: 'Try again' };
    case 'expired':
      return { title: 'This link has expired', text: 'Ask the streamer for a new one.', retry: 'Try again' };
    case 'revoked':
      return { title: 'This link is no longer valid', text: 'The streamer has taken it back. Ask for a new one.', retry: 'Try again' };
    case 'ended':
      return { title: 'You were asked to leave', text: 'The streamer has ended this playback. Your link is still valid.', retry: 'Watch again' };
    case 'in-use':
      return { title: 'This link is in use elsewhere', text: 'It plays on as many devices as it is for. Stop one of them, then try again here.', retry: 'Try again' };
    case 'elsewhere':
      return { title: 'This link is not for here', text: 'It is for another stream, or for another network. Ask the streamer for one that is for this.', retry: 'Try again' };
  }
}

/** The small line under the spinner. */
export function progress(phase: Phase, encoderAway: boolean, soundOnly: boolean): string {
  if (phase === 'playing' && soundOnly) return 'Your network is too slow for the picture. The sound goes on.';
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

/** What people call a transport. */
export function transportLabel(kind: TransportKind): string {
  return { webrtc: 'WebRTC', 'll-hls': 'LL-HLS', 'hls-native': 'HLS', dash: 'DASH' }[kind];
}

/** A delay as people say it: `1.8 s`; `2 min` when the viewer went back far. */
export function delayLabel(delayS: number): string {
  if (delayS < 0) return '0.0 s';
  if (delayS < 60) return `${delayS.toFixed(1)} s`;
  return `${Math.round(delayS / 60)} min`;
}
