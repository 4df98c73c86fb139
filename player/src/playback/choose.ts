/** Which way to play, for what was asked and what the browser has. */
import { NativeTransport } from './native.js';
import type { Transport, TransportEvents } from './transport.js';

/** `auto`: WebRTC where it can be had, LL-HLS where it cannot. */
export type Protocol = 'auto' | 'webrtc' | 'hls' | 'dash';

export function protocolOf(text: string | null): Protocol {
  return text === 'webrtc' || text === 'hls' || text === 'dash' ? text : 'auto';
}

/** Can this browser play our WebRTC at all? */
export function webrtcPossible(): boolean {
  const { RTCPeerConnection, RTCRtpReceiver } = globalThis as { RTCPeerConnection?: unknown; RTCRtpReceiver?: typeof globalThis.RTCRtpReceiver };
  if (typeof RTCPeerConnection !== 'function' || typeof RTCRtpReceiver?.getCapabilities !== 'function') return false;
  return RTCRtpReceiver.getCapabilities('video')?.codecs.some(({ mimeType }) => mimeType.toLowerCase() === 'video/h264') ?? false;
}

/** Can a script feed this browser with media? iPhones could not before ManagedMediaSource. */
export function mediaSourcePossible(): boolean {
  const { ManagedMediaSource, MediaSource } = globalThis as { ManagedMediaSource?: typeof globalThis.MediaSource; MediaSource?: typeof globalThis.MediaSource };
  const source = ManagedMediaSource ?? MediaSource;
  return source?.isTypeSupported('video/mp4; codecs="avc1.42E01E,mp4a.40.2"') ?? false;
}

/** Fetches what will be needed, while the directory is still being asked. */
export function prepare(protocol: Protocol): void {
  if ((protocol === 'auto' || protocol === 'webrtc') && webrtcPossible()) void import('./whep.js').catch(() => undefined);
  if (!mediaSourcePossible()) return;
  void (protocol === 'dash' ? import('./dash.js') : import('./hls.js')).catch(() => undefined);
}

/** LL-HLS, or DASH where it is asked for. `null`: this browser plays neither. */
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
