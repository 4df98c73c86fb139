/** The browser's own HLS, for devices with nothing else: iPhones before ManagedMediaSource. It paces itself. */
import type { Rendition, Timing, Transport, TransportEvents } from './transport.js';

/** WebKit's: the wall-clock stamp of media time zero, from EXT-X-PROGRAM-DATE-TIME. */
interface DatedVideo extends HTMLVideoElement {
  getStartDate?(): Date;
}

export class NativeTransport implements Transport {
  readonly kind = 'hls-native';
  readonly ready = Promise.resolve();
  readonly selfPaced = true;
  readonly renditions: readonly Rendition[] = [];
  readonly current = null;
  readonly #video: DatedVideo;
  readonly #listeners = new AbortController();

  static supported(video: HTMLVideoElement): boolean {
    return video.canPlayType('application/vnd.apple.mpegurl') !== '';
  }

  constructor(video: HTMLVideoElement, url: string, events: TransportEvents) {
    this.#video = video;
    const { signal } = this.#listeners;
    video.addEventListener(
      'error',
      () => {
        const decode = video.error?.code === MediaError.MEDIA_ERR_DECODE;
        events.signal(decode ? { kind: 'media', message: 'This device cannot decode the stream.' } : { kind: 'network' });
      },
      { signal },
    );
    video.src = url;
    video.load();
  }

  timing(): Timing | null {
    const { seekable, currentTime } = this.#video;
    if (!seekable.length) return null;
    const start = this.#video.getStartDate?.().getTime();
    return {
      live: this.#video.duration === Infinity,
      distanceS: Math.max(0, seekable.end(seekable.length - 1) - currentTime),
      targetS: 0,
      mediaUnixMs: start === undefined || Number.isNaN(start) ? null : start + currentTime * 1000,
      edgeAgeS: null,
    };
  }

  details(): null {
    return null;
  }

  select(): void {
    // The browser chooses, and lets nobody else.
  }

  resume(): Promise<boolean> {
    return Promise.resolve(false);
  }

  destroy(): void {
    this.#listeners.abort();
    this.#video.removeAttribute('src');
    this.#video.load();
  }
}
