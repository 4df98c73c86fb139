/** LL-DASH by dash.js: heavy, so this module is loaded when somebody asks for DASH and never before. */
/* eslint @typescript-eslint/no-unsafe-class-instance-assignment: off, @typescript-eslint/no-unsafe-enum-assignment: off -- dash.js declares its settings as a class and a const enum, and takes plain values */
import { MediaPlayer, type MediaPlayerClass, type Representation } from 'dashjs';
import type { Details, Rendition, Timing, Transport, TransportEvents } from './transport.js';

export class DashTransport implements Transport {
  readonly kind = 'dash';
  readonly selfPaced = false;
  readonly ready: Promise<void>;
  readonly #player: MediaPlayerClass;
  readonly #events: TransportEvents;
  #renditions: (Rendition & { id: string })[] = [];

  constructor(video: HTMLVideoElement, url: string, events: TransportEvents) {
    this.#events = events;
    const player = MediaPlayer().create();
    this.#player = player;
    player.updateSettings({
      debug: { logLevel: 0 },
      streaming: {
        // The delay is ours to hold (delay.ts).
        liveCatchup: { enabled: false },
        delay: { useSuggestedPresentationDelay: true },
        buffer: { bufferToKeep: 30, stallThreshold: 0.1 },
        retryAttempts: { MPD: 3, MediaSegment: 3, InitializationSegment: 3 },
        abr: { limitBitrateByPortal: true },
      },
    });
    player.addResponseInterceptor((response) => {
      if (response.status === 401 || response.status === 403) events.refused();
      return Promise.resolve(response);
    });
    const names = MediaPlayer.events;
    player.on(names.STREAM_INITIALIZED, this.#list);
    player.on(names.QUALITY_CHANGE_RENDERED, this.#changed);
    player.on(names.ERROR, this.#failed);
    // dash.js renews the manifest only once it has seen the element begin to play: a `play` before it listens is lost on it.
    this.ready = new Promise((resolve) => player.on(names.STREAM_INITIALIZED, () => resolve()));
    video.pause();
    player.initialize(video, url, false);
  }

  get renditions(): readonly Rendition[] {
    return this.#renditions;
  }

  get current(): Rendition | null {
    const id = this.#player.getCurrentRepresentationForType('video')?.id;
    return this.#renditions.find((rendition) => rendition.id === id) ?? null;
  }

  timing(): Timing | null {
    if (!this.#player.isReady() || !this.#player.isDynamic()) return null;
    const distanceS = this.#player.getCurrentLiveLatency();
    const targetS = this.#player.getTargetLiveDelay();
    if (!Number.isFinite(distanceS) || !(targetS > 0)) return null;
    const stamp = this.#player.timeAsUTC() * 1000;
    return { live: true, distanceS, targetS, mediaUnixMs: Number.isFinite(stamp) ? stamp : null, edgeAgeS: null };
  }

  details(): Details {
    const codecs = (['video', 'audio'] as const).map((type) => this.#player.getCurrentRepresentationForType(type)?.codecs);
    return {
      codec: codecs.filter(Boolean).join(', ') || null,
      bitrate: this.current?.bitrate ?? null,
      bandwidth: this.#player.getAverageThroughput('video') * 1000 || null,
      rtc: null,
    };
  }

  select(rendition: Rendition | null): void {
    this.#player.updateSettings({ streaming: { abr: { autoSwitchBitrate: { video: rendition === null } } } });
    const id = this.#renditions.find((known) => known.name === rendition?.name)?.id;
    if (id !== undefined) this.#player.setRepresentationForTypeById('video', id, true);
  }

  resume(): Promise<boolean> {
    return Promise.resolve(false);
  }

  destroy(): void {
    this.#player.destroy();
  }

  readonly #list = (): void => {
    this.#renditions = this.#player.getRepresentationsByType('video').map(rendition);
    this.#events.renditions();
  };

  readonly #changed = (): void => this.#events.renditions();

  readonly #failed = (event: unknown): void => {
    const code = (event as { error?: { code?: number } }).error?.code;
    const { CAPABILITY_MEDIASOURCE_ERROR_CODE, MEDIASOURCE_TYPE_UNSUPPORTED_CODE } = MediaPlayer.errors as unknown as Record<string, number>;
    const unplayable = code === CAPABILITY_MEDIASOURCE_ERROR_CODE || code === MEDIASOURCE_TYPE_UNSUPPORTED_CODE;
    this.#events.signal(
      unplayable ? { kind: 'media', message: 'This browser cannot play DASH.' } : { kind: 'network' },
    );
  };
}

function rendition(representation: Representation): Rendition & { id: string } {
  return {
    id: representation.id,
    name: representation.id,
    height: representation.height,
    fps: representation.frameRate,
    bitrate: representation.bandwidth,
  };
}
