/** What every way of getting a broadcast into a video element has in common. */
import type { Signal } from '../stream/lifecycle.js';

export type TransportKind = 'll-hls' | 'hls-native' | 'dash';

export interface Rendition {
  /** The track's name (`v-720p30`); unique in a broadcast. */
  name: string;
  /** Pixels; 0 when the playlist does not say. */
  height: number;
  /** Frames a second; 0 when the playlist does not say. */
  fps: number;
  /** Bits per second. */
  bitrate: number;
}

/** Where the playhead is. */
export interface Timing {
  /** False once the playlist has said that it is complete. */
  live: boolean;
  /** From the playhead to the live edge, seconds. */
  distanceS: number;
  /** The distance the server asks for, seconds. */
  targetS: number;
  /** Wall-clock stamp of the frame on screen, milliseconds since 1970; `null` when the playlist has none. */
  mediaUnixMs: number | null;
  /** Seconds since the playlist last grew; `null` when not known. */
  edgeAgeS: number | null;
}

export interface TransportEvents {
  signal(signal: Signal): void;
  /** The edge refuses what the engine asks for (401, 403): whoever watches may no longer, most likely. */
  refused(): void;
  /** The list of renditions, or the one that plays, changed. */
  renditions(): void;
}

export interface Transport {
  readonly kind: TransportKind;
  readonly renditions: readonly Rendition[];
  /** The rendition on screen, or `null` when not known. */
  readonly current: Rendition | null;
  /** Does the browser itself hold the delay? Then the playback rate is left alone. */
  readonly selfPaced: boolean;
  /** Settles when the video element may be told to play. */
  readonly ready: Promise<void>;
  /** `null` before the first playlist. */
  timing(): Timing | null;
  /** Plays one rendition, or with `null` whichever the network bears. */
  select(rendition: Rendition | null): void;
  /** Tries to go on with the same broadcast. False: it must be loaded afresh. */
  resume(): Promise<boolean>;
  destroy(): void;
}
