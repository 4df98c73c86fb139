/**
 * LL-HLS by hls.js, over MediaSource or ManagedMediaSource.
 *
 * hls.js keeps one blocking playlist request open for video and one for audio, and reads EXT-X-PRELOAD-HINT without acting on
 * it: two long-held connections a tab, four for two tabs, of the six that HTTP/1.1 gives a host.
 */
import Hls, { type ErrorData, type Level, type RetryConfig } from 'hls.js';
import { recallBandwidth, rememberBandwidth } from './bandwidth.js';
import { carriedControllers } from './rounding.js';
import { uris } from './multivariant.js';
import type { Details, Rendition, Timing, Transport, TransportEvents } from './transport.js';

/** Server errors and lost connections are worth another try, refusals are not. */
function retries(maxNumRetry: number, retryDelayMs: number): RetryConfig {
  return {
    maxNumRetry,
    retryDelayMs,
    maxRetryDelayMs: 2000,
    shouldRetry: (config, count, timedOut, response) =>
      count < (config?.maxNumRetry ?? 0) && (timedOut || !response?.code || response.code >= 500),
  };
}

/** A media error is mended in place this often within `MEND_WINDOW_MS`; then the broadcast is loaded afresh. */
const MENDS = 2;
const MEND_WINDOW_MS = 20_000;

export class HlsTransport implements Transport {
  readonly kind = 'll-hls';
  readonly ready = Promise.resolve();
  readonly selfPaced = false;
  readonly #hls: Hls;
  readonly #video: HTMLVideoElement;
  readonly #url: string;
  readonly #events: TransportEvents;
  #renditions: Rendition[] = [];
  #mends: number[] = [];

  constructor(video: HTMLVideoElement, url: string, events: TransportEvents) {
    this.#video = video;
    this.#url = url;
    this.#events = events;
    const hls = new Hls({
      ...carriedControllers(),
      lowLatencyMode: true,
      // The delay is ours to hold (delay.ts): no rate changes and no rising target from hls.js.
      maxLiveSyncPlaybackRate: 1,
      liveSyncOnStallIncrease: 0,
      // The media is fragmented MP4 already: there is nothing to transmux in a worker.
      enableWorker: false,
      // Nothing of these is in our streams, and each costs work at every tick.
      enableInterstitialPlayback: false,
      enableDateRangeMetadataCues: false,
      enableEmsgMetadataCues: false,
      enableID3MetadataCues: false,
      liveDurationInfinity: true,
      backBufferLength: 30,
      maxBufferLength: 20,
      capLevelToPlayerSize: true,
      testBandwidth: false,
      abrEwmaDefaultEstimate: recallBandwidth(),
      abrEwmaDefaultEstimateMax: 20_000_000,
      manifestLoadPolicy: {
        default: { maxTimeToFirstByteMs: 10_000, maxLoadTimeMs: 15_000, timeoutRetry: retries(1, 0), errorRetry: retries(2, 500) },
      },
      playlistLoadPolicy: {
        default: { maxTimeToFirstByteMs: 15_000, maxLoadTimeMs: 20_000, timeoutRetry: retries(2, 0), errorRetry: retries(3, 300) },
      },
      fragLoadPolicy: {
        default: { maxTimeToFirstByteMs: 10_000, maxLoadTimeMs: 30_000, timeoutRetry: retries(2, 0), errorRetry: retries(3, 300) },
      },
    });
    this.#hls = hls;

    hls.on(Hls.Events.MANIFEST_PARSED, () => {
      this.#renditions = hls.levels.map(rendition);
      events.renditions();
    });
    hls.on(Hls.Events.LEVELS_UPDATED, () => {
      this.#renditions = hls.levels.map(rendition);
      events.renditions();
    });
    hls.on(Hls.Events.LEVEL_SWITCHED, () => events.renditions());
    hls.on(Hls.Events.FRAG_BUFFERED, () => rememberBandwidth(hls.bandwidthEstimate));
    hls.on(Hls.Events.ERROR, (_, data) => this.#failed(data));
    hls.attachMedia(video);
    hls.loadSource(url);
  }

  get renditions(): readonly Rendition[] {
    return this.#renditions;
  }

  get current(): Rendition | null {
    return this.#renditions[this.#hls.currentLevel] ?? null;
  }

  timing(): Timing | null {
    const details = this.#hls.latestLevelDetails;
    const targetS = this.#hls.targetLatency;
    if (!details || targetS === null) return null;
    // hls.js stops measuring once the playlist is complete.
    const distanceS = details.live ? this.#hls.latency : Math.max(0, details.edge - this.#video.currentTime);
    if (details.live && !distanceS) return null;
    return {
      live: details.live,
      distanceS,
      targetS,
      mediaUnixMs: this.#hls.playingDate?.getTime() ?? null,
      edgeAgeS: details.live ? details.age : null,
    };
  }

  details(): Details {
    const level = this.#hls.levels[this.#hls.currentLevel];
    return {
      codec: [level?.videoCodec, level?.audioCodec ?? this.#hls.audioTracks[this.#hls.audioTrack]?.audioCodec].filter(Boolean).join(', ') || null,
      bitrate: level?.bitrate ?? null,
      bandwidth: this.#hls.bandwidthEstimate || null,
      rtc: null,
    };
  }

  select(rendition: Rendition | null): void {
    // nextLevel keeps what is buffered on screen until the new rendition has its first key frame.
    this.#hls.nextLevel = rendition ? this.#renditions.indexOf(rendition) : -1;
  }

  async resume(): Promise<boolean> {
    const playing = this.#hls.levels[Math.max(0, this.#hls.currentLevel)]?.uri;
    const response = await fetch(this.#url, { cache: 'no-store' });
    if (refuses(response.status)) return false;
    if (!response.ok) throw new Error(`The multivariant playlist answered ${response.status}.`);
    const listed = uris(await response.text(), response.url);
    // The broadcast's id is in every address below the multivariant playlist.
    if (!playing || !listed.includes(playing)) return false;
    this.#hls.startLoad();
    return true;
  }

  destroy(): void {
    this.#hls.destroy();
  }

  #failed(data: ErrorData): void {
    if (refuses(data.response?.code)) {
      // Else every other rendition is tried before the error is fatal.
      this.#hls.stopLoad();
      this.#events.refused();
      return;
    }
    if (!data.fatal) return;
    if (data.type === Hls.ErrorTypes.NETWORK_ERROR) {
      // A playlist that cannot be parsed is as good as one that did not come: both are worth another look.
      this.#events.signal({ kind: 'network' });
      return;
    }
    if (data.details === Hls.ErrorDetails.MANIFEST_INCOMPATIBLE_CODECS_ERROR || data.details === Hls.ErrorDetails.BUFFER_INCOMPATIBLE_CODECS_ERROR) {
      this.#events.signal({ kind: 'media', message: 'This device cannot decode the stream’s video or audio.' });
      return;
    }
    const now = performance.now();
    this.#mends = this.#mends.filter((at) => now - at < MEND_WINDOW_MS);
    if (data.type === Hls.ErrorTypes.MEDIA_ERROR && this.#mends.length < MENDS) {
      this.#mends.push(now);
      this.#hls.recoverMediaError();
      return;
    }
    this.#events.signal({ kind: 'network' });
  }
}

function refuses(status: number | undefined): boolean {
  return status === 401 || status === 403;
}

function rendition(level: Level): Rendition {
  const path = new URL(level.uri, location.href).pathname.split('/');
  return {
    name: [path.at(-2), level.name].find(Boolean) ?? `${level.height}p`,
    height: level.height,
    fps: level.frameRate,
    bitrate: level.maxBitrate,
  };
}
