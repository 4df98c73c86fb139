/** What every way of getting a broadcast into a video element has in common. */
import type { Signal } from '../stream/lifecycle.js';

export type TransportKind = 'webrtc' | 'll-hls' | 'hls-native' | 'dash';

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

/** What the statistics show of what comes in; `null` where it is not known. */
export interface Details {
  /** Codecs, of the picture and of the sound. */
  codec: string | null;
  /** What comes in, bits per second. */
  bitrate: number | null;
  /** What the network is measured to bear, bits per second. */
  bandwidth: number | null;
  /** What only a peer connection knows. */
  rtc: RtcDetails | null;
}

export interface RtcDetails {
  packets: number;
  packetsLost: number;
  /** The mean wait of the last frames in the jitter buffer, seconds. */
  jitterBufferS: number | null;
  /** Seconds. */
  rttS: number | null;
  /** The kinds of the selected candidates, and their protocol. */
  pair: string | null;
}

/** The delay, and how it is known. */
export interface Delay {
  delayS: number;
  /** Half the round trip and the jitter buffer's wait: no time stamp tells what comes before. */
  estimated: boolean;
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
  /** `null` before the first playlist, and where there is none. */
  timing(): Timing | null;
  details(): Details | null;
  /** Plays one rendition, or with `null` whichever the network bears. */
  select(rendition: Rendition | null): void;
  /** Tries to go on with the same broadcast. False: it must be loaded afresh. */
  resume(): Promise<boolean>;
  destroy(): void;
}

/** WebRTC has no playlist: it tells of itself what others read from theirs. */
export interface WebrtcTransport extends Transport {
  readonly kind: 'webrtc';
  /** Does the sound go on without the picture? The server pauses it for networks that bear no more. */
  readonly soundOnly: boolean;
  /** Can one of `renditions` be chosen? `null`: not known yet; an older server never says. */
  readonly choosable: boolean | null;
  /** From the broadcast's clock to the frame on screen. `serverMs`: what the server's clock says, milliseconds since 1970. */
  delay(serverMs: number | null): Delay | null;
  /** Ends the session, and leaves the last frame on screen. */
  leave(): void;
}
