/** Which way to play, for what was asked and what the browser has. */
import { NativeTransport } from './native.js';
import type { Transport, TransportEvents } from './transport.js';

export type Protocol = 'auto' | 'hls' | 'dash';

export function protocolOf(text: string | null): Protocol {
  return text === 'hls' || text === 'dash' ? text : 'auto';
}

/** Can a script feed this browser with media? iPhones could not before ManagedMediaSource. */
export function mediaSourcePossible(): boolean {
  const { ManagedMediaSource, MediaSource } = globalThis as { ManagedMediaSource?: typeof globalThis.MediaSource; MediaSource?: typeof globalThis.MediaSource };
  const source = ManagedMediaSource ?? MediaSource;
  return source?.isTypeSupported('video/mp4; codecs="avc1.42E01E,mp4a.40.2"') ?? false;
}

/** Fetches the engine that will be needed, while the directory is still being asked. */
export function prepare(protocol: Protocol): void {
  if (!mediaSourcePossible()) return;
  void (protocol === 'dash' ? import('./dash.js') : import('./hls.js')).catch(() => undefined);
}

/** `null`: this browser plays neither. */
export async function open(
  protocol: Protocol,
  video: HTMLVideoElement,
  urls: { hls: string; dash: string },
  events: TransportEvents,
): Promise<Transport | null> {
  // Media Source first: Chromium says that it plays HLS by itself, without low delay.
  if (mediaSourcePossible()) {
    if (protocol === 'dash') {
      const { DashTransport } = await import('./dash.js');
      return new DashTransport(video, urls.dash, events);
    }
    const { HlsTransport } = await import('./hls.js');
    return new HlsTransport(video, urls.hls, events);
  }
  if (NativeTransport.supported(video)) return new NativeTransport(video, urls.hls, events);
  return null;
}
