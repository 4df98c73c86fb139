/**
 * WebRTC by WHEP (draft-ietf-wish-whep): an offer is posted, the answer has the server's media and all its candidates, and the session's
 * address is deleted on leaving. The server is ICE-lite: it learns of this side's candidates from their checks, so that none are sent.
 *
 * A session that fails is not mended: `changeover.ts` has LL-HLS take over and another session tried.
 */
import { ApiError, type WhepDoor } from '../stream/api.js';
import { iceServers } from './ice.js';
import { estimatedDelayS, read, unixMs, type RtcReading } from './rtc-stats.js';
import type { Delay, Details, WebrtcTransport } from './transport.js';

/** What a session has come to. */
export interface WhepEvents {
  /** The edge has begun one. `session`: the playback session that its address ends with. */
  begun(session: string): void;
  /** The edge gives none. `pauseS`: for how long not, where it says so; infinite for an offer that it will never answer. */
  refused(error: unknown, pauseS: number | null): void;
  /** A few times a second while the picture, or at least the sound, goes on. */
  progress(): void;
  /** The connection is gone, or was never made. */
  lost(): void;
}

const READ_MS = 250;
/** Disconnected for longer than this is gone, milliseconds: ICE mends shorter breaks by itself. */
const DISCONNECTED_MS = 3000;
/** A picture this old with sound still coming was paused by the server, milliseconds. */
const PICTURE_GONE_MS = 700;
/** A longer delay is a clock that is wrong, seconds. */
const MOST_DELAY_S = 20;
const CAPTURE_TIME = 'http://www.webrtc.org/experiments/rtp-hdrext/abs-capture-time';

/** In Chromium and the drafts, and in no types yet. */
interface TunableReceiver extends RTCRtpReceiver {
  playoutDelayHint?: number | null;
}
interface Extension {
  uri: string;
  direction: string;
}
interface TunableTransceiver extends RTCRtpTransceiver {
  getHeaderExtensionsToNegotiate?(): Extension[];
  setHeaderExtensionsToNegotiate?(extensions: Extension[]): void;
}
interface DatedSource extends RTCRtpSynchronizationSource {
  captureTimestamp?: number;
  senderCaptureTimeOffset?: number;
}

export class WhepTransport implements WebrtcTransport {
  readonly kind = 'webrtc';
  readonly selfPaced = true;
  readonly ready = Promise.resolve();
  readonly renditions = [];
  readonly current = null;
  readonly #video: HTMLVideoElement;
  readonly #door: WhepDoor;
  readonly #events: WhepEvents;
  readonly #peer: RTCPeerConnection;
  readonly #receivers: TunableReceiver[] = [];
  /** How the edge is told that this is over, once it has begun. */
  #leave: (() => void) | null = null;
  #left = false;
  #timer: ReturnType<typeof setInterval>;
  #reading = false;
  #disconnectedMs: number | null = null;
  #before: RtcReading | null = null;
  #now: RtcReading | null = null;
  #bitrate: number | null = null;
  #waitedS: number | null = null;
  #estimatedS: number | null = null;
  #framesMs = 0;
  #soundOnly = false;

  constructor(video: HTMLVideoElement, door: WhepDoor, events: WhepEvents) {
    this.#video = video;
    this.#door = door;
    this.#events = events;
    const peer = new RTCPeerConnection({ bundlePolicy: 'max-bundle' });
    this.#peer = peer;
    const stream = new MediaStream();
    for (const kind of ['audio', 'video'] as const) {
      const transceiver: TunableTransceiver = peer.addTransceiver(kind, { direction: 'recvonly' });
      prefer(transceiver, kind);
      date(transceiver);
      const receiver: TunableReceiver = transceiver.receiver;
      // As little as the network allows: the jitter buffer grows by itself where it must.
      if ('jitterBufferTarget' in receiver) receiver.jitterBufferTarget = 0;
      if ('playoutDelayHint' in receiver) receiver.playoutDelayHint = 0;
      this.#receivers.push(receiver);
      stream.addTrack(receiver.track);
    }
    video.srcObject = stream;
    peer.addEventListener('connectionstatechange', () => this.#connection());
    this.#timer = setInterval(() => void this.#read(), READ_MS);
    void this.#begin();
  }

  /** There is no playlist: what is on screen is what there is. */
  timing(): null {
    return null;
  }

  get soundOnly(): boolean {
    return this.#soundOnly;
  }

  delay(serverMs: number | null): Delay | null {
    const stampMs = this.#captureMs() ?? this.#now?.playoutUnixMs ?? null;
    if (stampMs !== null && serverMs !== null) {
      const delayS = (serverMs - stampMs) / 1000;
      // A timeline begins with the arrival of its first frame. Where that one was late, as of an encoder that starts, those after it seem too early:
      // what is less than the way from the server takes is not believed.
      if (delayS >= (this.#estimatedS ?? 0) && delayS < MOST_DELAY_S) return { delayS, estimated: false };
    }
    return this.#estimatedS === null ? null : { delayS: this.#estimatedS, estimated: true };
  }

  details(): Details {
    const now = this.#now;
    const rtc = now && { packets: now.packets, packetsLost: now.packetsLost, jitterBufferS: this.#waitedS, rttS: now.rttS, pair: now.pair };
    return { codec: now?.codec ?? null, bitrate: this.#bitrate, bandwidth: null, rtc };
  }

  select(): void {
    // The server chooses by what this viewer's network bears.
  }

  resume(): Promise<boolean> {
    return Promise.resolve(false);
  }

  leave(): void {
    this.#left = true;
    this.#leave?.();
    this.#leave = null;
  }

  destroy(): void {
    this.leave();
    clearInterval(this.#timer);
    this.#peer.close();
    this.#video.srcObject = null;
  }

  async #begin(): Promise<void> {
    const peer = this.#peer;
    try {
      const offer = await peer.createOffer();
      const sdp = stereo(offer.sdp ?? '');
      const begun = await this.#door(sdp);
      // Left while the edge thought about it: it must not wait for somebody who does not come.
      if (this.#left) {
        begun.leave();
        return;
      }
      this.#leave = () => begun.leave();
      this.#events.begun(begun.session);
      // Only now gathering begins, so that it knows the relays from the start.
      const servers = iceServers(begun.link);
      if (servers.length) peer.setConfiguration({ ...peer.getConfiguration(), iceServers: servers });
      await peer.setLocalDescription({ type: 'offer', sdp });
      await peer.setRemoteDescription({ type: 'answer', sdp: begun.answer });
      for (const { transport } of this.#receivers) transport?.addEventListener('statechange', () => this.#connection());
    } catch (error) {
      if (!this.#left) this.#events.refused(error, pauseOf(error));
    }
  }

  #over(): boolean {
    return this.#left;
  }

  #connection(): void {
    if (this.#left) return;
    const state = this.#peer.connectionState;
    // The server says goodbye on the DTLS connection; ICE would notice half a minute later.
    const closed = this.#receivers.some(({ transport }) => transport?.state === 'closed' || transport?.state === 'failed');
    if (state === 'failed' || state === 'closed' || closed) this.#events.lost();
    this.#disconnectedMs = state === 'disconnected' ? (this.#disconnectedMs ?? performance.now()) : null;
  }

  async #read(): Promise<void> {
    if (this.#reading || this.#left) return;
    const nowMs = performance.now();
    if (this.#disconnectedMs !== null && nowMs - this.#disconnectedMs > DISCONNECTED_MS) {
      this.#events.lost();
      return;
    }
    this.#reading = true;
    const report = await this.#peer.getStats().catch(() => null);
    this.#reading = false;
    if (this.#over() || !report) return;
    const [before, now] = [this.#now, read(report)];
    this.#now = now;
    const framesCame = now.framesDecoded > (before?.framesDecoded ?? 0);
    if (framesCame) this.#framesMs = nowMs;
    const sound = now.audioPackets > (before?.audioPackets ?? 0) && now.videoPackets === (before?.videoPackets ?? 0);
    this.#soundOnly = now.framesDecoded > 0 && (framesCame ? false : this.#soundOnly || (sound && nowMs - this.#framesMs > PICTURE_GONE_MS));
    // Rates by whole seconds: the jitter buffer empties in bursts.
    const spanMs = now.atMs - (this.#before?.atMs ?? 0);
    if (!this.#before || spanMs >= 1000) {
      if (this.#before) {
        this.#bitrate = ((now.bytes - this.#before.bytes) * 8000) / spanMs;
        const frames = now.jitterBufferFrames - this.#before.jitterBufferFrames;
        this.#waitedS = frames > 0 ? (now.jitterBufferS - this.#before.jitterBufferS) / frames : null;
      }
      this.#estimatedS = estimatedDelayS(this.#before, now) ?? this.#estimatedS;
      this.#before = now;
    }
    if ((framesCame && this.#shows()) || (this.#soundOnly && sound)) this.#events.progress();
  }

  /** Is there a picture in the element, whether or not anybody sees it? */
  #shows(): boolean {
    const { videoWidth, readyState, paused } = this.#video;
    return videoWidth > 0 && readyState >= 2 && !paused;
  }

  /** The capture time of the frame that came out of the jitter buffer last, on the sender's clock. */
  #captureMs(): number | null {
    for (const receiver of this.#receivers) {
      if (receiver.track.kind !== 'video' || typeof receiver.getSynchronizationSources !== 'function') continue;
      const source = receiver.getSynchronizationSources()[0] as DatedSource | undefined;
      if (typeof source?.captureTimestamp === 'number') return unixMs(source.captureTimestamp + (source.senderCaptureTimeOffset ?? 0));
    }
    return null;
  }
}

/** How long the edge wants to be left alone, seconds. */
function pauseOf(error: unknown): number | null {
  if (!(error instanceof ApiError)) return null;
  // No codec in common: the next offer would be the same.
  return error.status === 406 ? Infinity : error.retryAfterS;
}

/** H.264 and Opus are what there is to be had: a short offer. */
function prefer(transceiver: RTCRtpTransceiver, kind: 'audio' | 'video'): void {
  const wanted = kind === 'video' ? /^video\/(h264|rtx)$/i : /^audio\/opus$/i;
  const codecs = RTCRtpReceiver.getCapabilities(kind)?.codecs.filter(({ mimeType }) => wanted.test(mimeType)) ?? [];
  if (codecs.length && typeof transceiver.setCodecPreferences === 'function') transceiver.setCodecPreferences(codecs);
}

/** Asks for the capture time of each frame, which Chromium leaves out by itself. */
function date(transceiver: TunableTransceiver): void {
  const extensions = transceiver.getHeaderExtensionsToNegotiate?.();
  const capture = extensions?.find(({ uri }) => uri === CAPTURE_TIME);
  if (!extensions || !capture) return;
  capture.direction = 'sendrecv';
  try {
    transceiver.setHeaderExtensionsToNegotiate?.(extensions);
  } catch {
    // Then the delay is an estimate.
  }
}

/** Without this a browser takes Opus for mono. */
function stereo(sdp: string): string {
  const payload = /^a=rtpmap:(\d+) opus\//im.exec(sdp)?.[1];
  if (payload === undefined || /^a=fmtp:.*\bstereo=1/m.test(sdp)) return sdp;
  return sdp.replace(new RegExp(`^(a=fmtp:${payload} .*)$`, 'm'), '$1;stereo=1');
}
