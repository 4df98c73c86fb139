/**
 * WebRTC by WHEP (draft-ietf-wish-whep): an offer is posted, the answer has the server's media and all its candidates, and the session's
 * address is deleted on leaving. The server is ICE-lite: it learns of this side's candidates from their checks, so that none are sent.
 *
 * A session that fails is not mended: `changeover.ts` has LL-HLS take over and another session tried.
 */
import { ApiError, type WhepDoor } from '../stream/api.js';
import { iceServers } from './ice.js';
import { CHANNEL, choose, parse, type Rungs } from './rungs.js';
import { estimatedDelayS, read, unixMs, type RtcReading } from './rtc-stats.js';
import type { Delay, Details, Rendition, WebrtcTransport } from './transport.js';

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
  /** What there is to choose from, or what is sent, changed; or it is known that nothing can be chosen. */
  renditions(): void;
}

const READ_MS = 250;
/** Disconnected for longer than this is gone, milliseconds: ICE mends shorter breaks by itself. */
const DISCONNECTED_MS = 3000;
/** A picture this old with sound still coming was paused by the server, milliseconds. */
const PICTURE_GONE_MS = 700;
/** A picture this old was paused, where the server says so, milliseconds: the last frames come after the word. */
const PICTURE_PAUSED_MS = 300;
/** A server that has not said its rungs by then, since the connection is made, has nothing to choose from, milliseconds. */
const SILENT_MS = 2000;
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
  readonly #video: HTMLVideoElement;
  readonly #door: WhepDoor;
  readonly #events: WhepEvents;
  readonly #peer: RTCPeerConnection;
  readonly #receivers: TunableReceiver[] = [];
  readonly #channel: RTCDataChannel;
  #rungs: Rungs | null = null;
  #silent = false;
  #wish: string | null = null;
  /** What the server was last told of the wish. */
  #told: string | null = null;
  #connectedMs: number | null = null;
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
    // Before the offer, so that it is in it.
    this.#channel = peer.createDataChannel(CHANNEL);
    this.#channel.addEventListener('open', () => this.#tell());
    this.#channel.addEventListener('message', ({ data }) => this.#heard(data));
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

  get renditions(): readonly Rendition[] {
    return this.#rungs?.rungs ?? [];
  }

  get current(): Rendition | null {
    return this.renditions.find(({ name }) => name === this.#rungs?.current) ?? null;
  }

  get choosable(): boolean | null {
    if (this.#rungs) return true;
    return this.#silent ? false : null;
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

  select(rendition: Rendition | null): void {
    this.#wish = rendition?.name ?? null;
    this.#tell();
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

  #tell(): void {
    if (this.#wish === this.#told || this.#channel.readyState !== 'open') return;
    this.#channel.send(choose(this.#wish));
    this.#told = this.#wish;
  }

  #heard(data: unknown): void {
    const rungs = parse(data);
    if (!rungs || this.#left) return;
    this.#rungs = rungs;
    this.#events.renditions();
  }

  /** Was there time enough for the server to say its rungs? */
  #listen(nowMs: number): void {
    if (this.#rungs || this.#silent || this.#peer.connectionState !== 'connected') return;
    this.#connectedMs ??= nowMs;
    if (nowMs - this.#connectedMs < SILENT_MS) return;
    this.#silent = true;
    this.#events.renditions();
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
    this.#listen(nowMs);
    const sound = this.#sounds(before, now);
    this.#soundOnly = !framesCame && (this.#soundOnly || (sound && nowMs - this.#framesMs > (this.#rungs ? PICTURE_PAUSED_MS : PICTURE_GONE_MS)));
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

  /** Does the sound go on while the server sends no picture? It says so; of one that does not, what comes in is taken for its word. */
  #sounds(before: RtcReading | null, now: RtcReading): boolean {
    if (now.audioPackets <= (before?.audioPackets ?? 0)) return false;
    if (this.#rungs) return this.#rungs.paused;
    return now.framesDecoded > 0 && now.videoPackets === (before?.videoPackets ?? 0);
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
