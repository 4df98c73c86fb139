/**
 * One viewer's session with one stream: asks the directory, opens the transport, holds the delay, recovers.
 * It decides nothing by itself: `lifecycle.ts` says what to do and `delay.ts` how fast to play. It shows nothing either.
 */
import { Changeover, type Way } from '../playback/changeover.js';
import { open, prepare, webrtcPossible, type Protocol } from '../playback/choose.js';
import { ServerClock } from '../playback/clock.js';
import { DelayController } from '../playback/delay.js';
import type { Details, Rendition, Timing, Transport, TransportKind, WebrtcTransport } from '../playback/transport.js';
import { ApiError, type Api, type Stream } from './api.js';
import { BEACON_MS, sendBeacon, sendLeft } from './beacon.js';
import { denialOf, type Denial } from './denial.js';
import { Lifecycle, type Action, type Phase, type Report, type Signal } from './lifecycle.js';

/** Two video elements in one place: one is seen and heard, the other makes itself ready to be. */
export interface Screen {
  /** The one that is seen, heard and controlled. */
  readonly front: HTMLVideoElement;
  /** The one beneath it, without sound. */
  readonly back: HTMLVideoElement;
  /** They change places. What comes to the front is as loud as what was there. */
  swap(): void;
}

export interface SessionEvents {
  /** The phase, its message, or what the directory says changed. */
  change(): void;
  /** The list of renditions, the chosen one or the one on screen changed. */
  renditions(): void;
  /** A transport is about to be replaced: the last chance to keep the frame on screen. */
  replacing(): void;
  /** May this be played with sound? The browser said no; it plays muted. */
  autoMuted(): void;
  /** The browser wants a gesture before it plays anything. */
  blocked(): void;
}

export interface Stats {
  transport: TransportKind | null;
  /** From the broadcast's clock to the frame on screen, seconds; `null` when not known. */
  delayS: number | null;
  /** Is `delayS` an estimate of a part of it, since no time stamp tells the whole? */
  delayEstimated: boolean;
  /** The delay the controller steers to, from playhead to live edge, seconds; `null` when not known. */
  targetS: number | null;
  /** From the playhead to the live edge, seconds; `null` when not known. */
  distanceS: number | null;
  /** Media buffered ahead, seconds. */
  bufferS: number;
  rate: number;
  /** Name of the rendition on screen. */
  level: string | null;
  levels: Rendition[];
  stalls: number;
  framesDecoded: number;
  framesDropped: number;
  /** Of the picture, pixels; 0 without one. */
  width: number;
  height: number;
  /** Frames a second that were decoded lately; `null` when not known. */
  fps: number | null;
  /** What comes in, as far as the transport knows it. */
  details: Details | null;
  state: Phase;
}

/** One way of playing, in one of the two elements. */
interface Lane<T extends Transport = Transport> {
  readonly way: Way;
  readonly video: HTMLVideoElement;
  transport: T | null;
}

const TICK_MS = 250;
/** A pause longer than this ends in a jump to live: the playlist's window has moved on. */
const LONG_PAUSE_S = 20;
/** Running dry this soon after a seek is the seek's doing. */
const SEEK_GRACE_S = 2;
/** A playhead that rests this close to the end of a complete playlist has reached it. */
const END_S = 1;
/**
 * WebKit with GStreamer (WebKitGTK, WPE) flushes its pipeline for a change of the rate, reports the pipeline's own pause, and now and then
 * stays there. A pause this soon after a change, seconds, is not the viewer's there, unless it was asked of the player.
 */
const STEER_S = 1;
const PAUSES_BY_ITSELF = /Linux.*AppleWebKit/.test(navigator.userAgent) && !navigator.userAgent.includes('Chrom');
/** A playhead that rests this long with media ahead of it is woken. */
const WAKE_S = 2;
/** WebRTC has no buffer: a picture that rests this long is dry, seconds. */
const WEBRTC_STALL_S = 1;
/** What leaves the screen is heard for so long yet, milliseconds. */
const FADE_MS = 200;
/** A playhead that rests this long without an event is dry as well. */
const SILENT_STALL_S = 1.5;

export class Session {
  readonly #api: Api;
  readonly #name: string;
  readonly #screen: Screen;
  readonly #events: SessionEvents;
  readonly #lifecycle = new Lifecycle();
  readonly #clock = new ServerClock();
  readonly #closed = new AbortController();
  #protocol: Protocol;
  #delay: DelayController;
  #changeover: Changeover;
  #lanes: { webrtc: Lane<WebrtcTransport> | null; engine: Lane | null } = { webrtc: null, engine: null };
  /** It has left the screen, and fades. */
  #fading: { lane: Lane; timer: ReturnType<typeof setTimeout> } | null = null;
  /** The playback session, where one is needed: it goes on from engine to engine, and after an outage. */
  #playback: string | null = null;
  /** One after the other: two at once would take the room of two devices. */
  #entering: Promise<Signal | null> = Promise.resolve(null);
  #examining = false;
  /** What may be chosen over WebRTC in this broadcast: nothing, of an older server; `null` before that is known. */
  #rungs: readonly Rendition[] | null = null;
  #wish: string;
  #stream: Stream | null = null;
  #pollTimer: ReturnType<typeof setTimeout> | undefined;
  #polling = false;
  #following = true;
  #stalls = 0;
  #pausedS: number | null = null;
  #loadedS = -Infinity;
  #seekedS = -Infinity;
  #steeredS = -Infinity;
  /** Was the pause asked for, and nothing since? */
  #pauseAsked = false;
  #lastTime = 0;
  #movedS = 0;
  #targetOverrideS: number | null;
  #fps: { atMs: number; frames: number; perS: number | null } = { atMs: 0, frames: 0, perS: null };
  /** Was WebRTC ended because the page was hidden for good, as it seemed? */
  #hung = false;

  constructor(
    api: Api,
    name: string,
    screen: Screen,
    events: SessionEvents,
    options: { protocol: Protocol; quality: string; targetDelayS: number | null },
  ) {
    this.#api = api;
    this.#name = name;
    this.#screen = screen;
    this.#events = events;
    this.#protocol = options.protocol;
    this.#wish = options.quality;
    this.#targetOverrideS = options.targetDelayS;
    this.#delay = new DelayController();
    this.#changeover = new Changeover(this.#webrtcWanted);

    const { signal } = this.#closed;
    const videos = [screen.front, screen.back];
    for (const video of videos) {
      for (const type of ['playing', 'timeupdate']) video.addEventListener(type, () => this.#progress(video), { signal });
    }
    // What happens beneath the picture is nobody's wish.
    const on = (type: string, listener: () => void) => {
      for (const video of videos) video.addEventListener(type, () => video === screen.front && listener(), { signal });
    };
    on('waiting', () => this.#front?.way === 'engine' && this.#dry());
    // The tracks of a lost connection end; whether the broadcast has, the directory knows.
    on('ended', () => this.#front?.way === 'engine' && this.#signal({ kind: 'ended' }));
    on('seeking', () => {
      this.#seekedS = nowS();
      this.#delay.resync();
    });
    on('pause', () => {
      if (this.#transport && this.phase !== 'ended' && this.#steering() && !this.#pauseAsked) void this.play();
      else this.#pausedS = nowS();
    });
    on('play', () => this.#steering() || this.#resumed());
    on('error', () => {
      if (screen.front.error && screen.front.getAttribute('src')?.startsWith('blob:')) this.#lostDecoder();
    });
    document.addEventListener(
      'visibilitychange',
      () => {
        if (document.hidden) return;
        this.#delay.resync();
        this.#movedS = nowS();
      },
      { signal },
    );
    window.addEventListener(
      'online',
      () => {
        this.#changeover.online(nowS());
        if (this.phase !== 'denied') this.#pollSoon(0);
      },
      { signal },
    );
    window.addEventListener(
      'pagehide',
      () => {
        this.#hung = this.#lanes.webrtc !== null;
        if (this.#hung) this.#unload();
        this.#leave();
      },
      { signal },
    );
    // The browser kept the page, as it was, and shows it again: its playback session is over.
    window.addEventListener('pageshow', (event) => event.persisted && (this.#api.hasToken || this.#hung) && this.retry(), { signal });

    const tick = setInterval(() => this.#tick(), TICK_MS);
    const beacon = setInterval(() => this.#beacon(), BEACON_MS);
    signal.addEventListener('abort', () => {
      clearInterval(tick);
      clearInterval(beacon);
      clearTimeout(this.#pollTimer);
    });
    prepare(this.#protocol);
    void this.#poll();
    void this.#readClock();
  }

  get phase(): Phase {
    return this.#lifecycle.phase;
  }

  get message(): string {
    return this.#lifecycle.message;
  }

  /** Why this viewer may not watch, while they may not. */
  get denial(): Denial | null {
    return this.#lifecycle.denial;
  }

  get encoderAway(): boolean {
    return this.#lifecycle.encoderAway;
  }

  /** What the directory last said. */
  get stream(): Stream | null {
    return this.#stream;
  }

  get protocol(): Protocol {
    return this.#protocol;
  }

  /** What a viewer may choose from. A server that lets nobody choose over WebRTC has its renditions played by LL-HLS. */
  get renditions(): readonly Rendition[] {
    if (this.#front?.way !== 'webrtc' || this.#whep?.choosable) return this.#transport?.renditions ?? [];
    if (this.#protocol !== 'auto') return [];
    const pictures = (this.#stream?.tracks ?? []).filter(({ kind }) => kind === 'video');
    return pictures.map(({ name, height, frame_rate, bandwidth }) => ({ name, height: height ?? 0, fps: frame_rate ?? 0, bitrate: bandwidth ?? 0 }));
  }

  get current(): Rendition | null {
    if (this.#front?.way !== 'webrtc' || this.#whep?.choosable) return this.#transport?.current ?? null;
    const { videoHeight } = this.#video;
    // A source and a rung of one height look the same from here.
    return this.renditions.find(({ height }) => height === videoHeight) ?? null;
  }

  /** Has the server left the picture out, for a network that bears the sound alone? */
  get soundOnly(): boolean {
    return this.#front?.way === 'webrtc' && this.#whep?.soundOnly === true;
  }

  /** The name of the rendition that was asked for, or `auto`. */
  get quality(): string {
    return this.#wish;
  }

  /** Is playback held at the live edge, rather than where the viewer put it? */
  get following(): boolean {
    return this.#following;
  }

  get stats(): Stats {
    const timing = this.#timing();
    const quality = this.#video.getVideoPlaybackQuality();
    const serverMs = this.#clock.at(performance.now());
    const mediaMs = timing?.mediaUnixMs ?? null;
    const webrtc = this.#front?.way === 'webrtc' ? (this.#whep?.delay(serverMs) ?? null) : null;
    const known = mediaMs !== null && serverMs !== null;
    return {
      transport: this.#transport?.kind ?? null,
      delayS: webrtc?.delayS ?? (known ? (serverMs - mediaMs) / 1000 : (timing?.distanceS ?? null)),
      delayEstimated: webrtc?.estimated ?? (timing !== null && !known),
      targetS: timing ? this.#targetS(timing.targetS) + this.#delay.marginS : null,
      distanceS: timing?.distanceS ?? null,
      bufferS: bufferAhead(this.#video),
      rate: this.#video.playbackRate,
      level: this.current?.name ?? null,
      levels: this.renditions.map((rendition) => ({ ...rendition })),
      stalls: this.#stalls,
      framesDecoded: quality.totalVideoFrames,
      framesDropped: quality.droppedVideoFrames,
      width: this.#video.videoWidth,
      height: this.#video.videoHeight,
      fps: this.#fps.perS,
      details: this.#transport?.details() ?? null,
      state: this.phase,
    };
  }

  /** Plays a rendition by name (`v-720p30`) or height (`720p`), or `auto`. An unknown name is automatic until it appears. */
  setQuality(name: string): void {
    this.#wish = name;
    this.#changeover.allow(this.#webrtcWanted, nowS());
    this.#arrange();
    this.#select(this.#lanes.engine);
    this.#select(this.#lanes.webrtc);
    this.#events.renditions();
  }

  setProtocol(protocol: Protocol): void {
    if (protocol === this.#protocol) return;
    const engine = [this.#protocol, protocol].every((one) => one === 'auto' || one === 'hls');
    this.#protocol = protocol;
    if (engine) {
      // One changes over to the other without a gap.
      this.#changeover.allow(this.#webrtcWanted, nowS());
      this.#arrange();
      this.#events.renditions();
      return;
    }
    this.#unload();
    this.#changeover = new Changeover(this.#webrtcWanted);
    prepare(protocol);
    this.retry();
  }

  jumpToLive(): void {
    this.#following = true;
    const timing = this.#timing();
    if (timing) this.#jump(timing.distanceS - this.#targetS(timing.targetS) - this.#delay.marginS);
    void this.play();
  }

  /** Moves the playhead, seconds; towards live at most. */
  seekBy(deltaS: number): void {
    const timing = this.#timing();
    if (!timing) return;
    const { seekable, currentTime } = this.#video;
    const startS = seekable.length ? seekable.start(0) : 0;
    const latestS = currentTime + timing.distanceS - this.#targetS(timing.targetS);
    const wantedS = Math.max(startS, currentTime + deltaS);
    this.#following = wantedS >= latestS - 0.5;
    this.#video.playbackRate = 1;
    this.#video.currentTime = Math.min(wantedS, latestS);
    this.#events.change();
  }

  async play(): Promise<void> {
    const video = this.#video;
    this.#pauseAsked = false;
    if (this.#lanes.engine && this.#lanes.webrtc) void this.#screen.back.play().catch(() => undefined);
    try {
      await video.play();
    } catch (error) {
      if (!(error instanceof DOMException) || error.name !== 'NotAllowedError') return;
      if (video.muted) {
        this.#events.blocked();
        return;
      }
      video.muted = true;
      this.#events.autoMuted();
      await video.play().catch((second: unknown) => {
        if (second instanceof DOMException && second.name === 'NotAllowedError') this.#events.blocked();
      });
    }
  }

  pause(): void {
    this.#pauseAsked = true;
    this.#video.pause();
  }

  retry(): void {
    this.#do(this.#lifecycle.retry(nowS()));
    this.#events.change();
    this.#pollSoon(0);
  }

  close(): void {
    this.#closed.abort();
    this.#leave();
    this.#unload();
  }

  /** Makes room for another device, or for this one after a reload. */
  #leave(): void {
    const watched = this.#transport !== null || this.#playback !== null || this.#hung;
    // What is still asked for would begin it anew.
    if (this.#playback !== null) this.#unload();
    if (watched) sendLeft(this.#api, this.#name, this.#playback);
    this.#playback = null;
  }

  // --- the directory

  async #poll(): Promise<void> {
    if (this.#polling || this.#closed.signal.aborted) return;
    this.#polling = true;
    const report = await this.#ask();
    this.#polling = false;
    // eslint-disable-next-line @typescript-eslint/no-unnecessary-condition -- aborted while the answer was awaited
    if (this.#closed.signal.aborted) return;
    const drained = this.#front?.way === 'webrtc';
    this.#do(this.#lifecycle.report(report.kind === 'off' ? { ...report, drained } : report, nowS()));
    this.#events.change();
    this.#pollSoon(this.#lifecycle.pollMs(nowS(), Math.random()));
  }

  #pollSoon(ms: number): void {
    clearTimeout(this.#pollTimer);
    if (Number.isFinite(ms)) this.#pollTimer = setTimeout(() => void this.#poll(), ms);
  }

  async #ask(by: 'token' | 'nothing' = 'token'): Promise<Report> {
    try {
      this.#stream = await this.#api.stream(this.#name, by, this.#closed.signal);
      return { kind: this.#stream.live ? 'live' : 'off', since: this.#stream.since };
    } catch (error) {
      if (error instanceof ApiError && error.status === 404) return { kind: 'missing' };
      const denial = denialOf(error);
      if (denial) {
        // Where anybody may watch, a token that is no good any more is none that is needed.
        const open = by === 'token' && this.#api.hasToken ? await this.#ask('nothing') : null;
        return open?.kind === 'live' || open?.kind === 'off' ? open : { kind: 'denied', denial };
      }
      if (error instanceof ApiError && error.status < 500 && error.status !== 429) return { kind: 'refused', message: error.message };
      return { kind: 'unreachable' };
    }
  }

  async #readClock(): Promise<void> {
    // The first request pays for the connection; the best of three is kept.
    for (let sample = 0; !this.#closed.signal.aborted; sample++) {
      const sentMs = performance.now();
      try {
        const serverMs = await this.#api.time(this.#closed.signal);
        this.#clock.add({ sentMs, receivedMs: performance.now(), serverMs });
      } catch {
        // Without a clock the distance to the live edge is shown instead.
      }
      await new Promise((resolve) => setTimeout(resolve, sample < 3 ? 700 : 120_000));
    }
  }

  #beacon(): void {
    // A playback session is counted by what it asks for, and a WebRTC session by itself.
    if (this.phase === 'playing' && !this.#video.paused && this.#playback === null && this.#front?.way !== 'webrtc') sendBeacon(this.#api, this.#name);
  }

  // --- the playback session

  /** Comes in with the token: goes on with the playback session there is, or begins one. `null`, or why nothing can be played. */
  async #admitted(): Promise<Signal | null> {
    const protocol = this.#protocol === 'dash' ? 'dash' : 'hls';
    // Not given up with the page: what has begun has to be known, to be ended.
    const enter = (by: 'token' | 'nothing') => this.#api.enter(this.#name, protocol, by);
    if (this.#closed.signal.aborted) return null;
    try {
      if (this.#playback !== null) {
        const failed = await this.#goesOn(this.#playback);
        // It has run its time, or the keys that sign sessions have changed: the token may begin another.
        if (failed?.kind !== 'denied' || (failed.denial !== 'expired' && failed.denial !== 'invalid')) return failed;
        this.#playback = null;
      }
      this.#playback = await enter('token');
      return null;
    } catch (error) {
      const denial = denialOf(error);
      if (!denial) return { kind: 'network' };
      if (denial === 'in-use') return { kind: 'denied', denial };
      // As above: where anybody may watch, none is needed.
      return enter('nothing').then(
        () => null,
        () => ({ kind: 'denied', denial }),
      );
    }
  }

  /** Asks whether a playback session (or, without one, anybody) may go on. `null`, or what is wrong. */
  async #goesOn(session: string | null): Promise<Signal | null> {
    const { signal } = this.#closed;
    try {
      await this.#api.enter(this.#name, this.#protocol === 'dash' ? 'dash' : 'hls', session === null ? 'nothing' : { session }, signal);
      return null;
    } catch (error) {
      // What names no session at all is none either.
      const denial = denialOf(error) ?? (session !== null && error instanceof ApiError && error.status === 400 ? 'invalid' : null);
      if (!denial) return { kind: 'network' };
      if (denial !== 'revoked' || session === null) return { kind: 'denied', denial };
      // Was it the session alone, or the token with it?
      const refusal = await this.#api.stream(this.#name, 'token', signal).then(() => null, denialOf);
      if (refusal === null) this.#playback = null;
      return { kind: 'denied', denial: refusal ?? 'ended' };
    }
  }

  /** The edge refuses something of what the engine asks for. */
  async #examine(): Promise<void> {
    if (this.#examining) return;
    this.#examining = true;
    const { engine } = this.#lanes;
    const failed = await this.#goesOn(this.#playback);
    this.#examining = false;
    if (engine !== this.#lanes.engine || this.#closed.signal.aborted) return;
    const again = failed?.kind === 'denied' && this.#playback !== null && (failed.denial === 'expired' || failed.denial === 'invalid');
    // A session that has run its time may be followed by another.
    this.#signal(failed === null || again ? { kind: 'network' } : failed);
  }

  // --- the transport

  #do(action: Action): void {
    if (action === 'load') this.#load();
    else if (action === 'unload') this.#unload();
    else if (action === 'resume') void this.#resume();
  }

  /** Plays the broadcast from the beginning, whatever was played before. */
  #load(): void {
    if (this.#transport) this.#events.replacing();
    this.#unload();
    this.#following = true;
    this.#delay.resync();
    if (this.#protocol === 'webrtc' && !this.#webrtcWanted) {
      this.#signal({ kind: 'media', message: 'This browser cannot play WebRTC with H.264.' });
      return;
    }
    // What is asked for alone is tried as often as it is loaded.
    if (this.#protocol === 'webrtc') this.#changeover = new Changeover(true);
    this.#rungs = null;
    this.#changeover.allow(this.#webrtcWanted, nowS());
    this.#changeover.begin(this.#lifecycle.since, nowS());
    this.#arrange();
  }

  #unload(): void {
    this.#changeover.end();
    this.#close('webrtc');
    this.#close('engine');
    this.#faded();
    this.#screen.front.playbackRate = 1;
    this.#events.renditions();
  }

  async #resume(): Promise<void> {
    const lane = this.#lanes.engine;
    if (!lane?.transport) {
      this.#load();
      return;
    }
    try {
      const resumed = await lane.transport.resume();
      if (lane !== this.#lanes.engine) return;
      if (resumed) this.#lifecycle.resumed(nowS());
      else this.#do(this.#lifecycle.restarted(nowS()));
    } catch {
      // Still away: the next poll comes back here.
    }
    this.#events.change();
  }

  // --- the two ways

  get #video(): HTMLVideoElement {
    return this.#screen.front;
  }

  /** What is on screen, or will be when nothing else is. */
  get #front(): Lane | null {
    const { webrtc, engine } = this.#lanes;
    return [webrtc, engine].find((lane) => lane?.video === this.#screen.front) ?? null;
  }

  get #transport(): Transport | null {
    return this.#front?.transport ?? null;
  }

  get #whep(): WebrtcTransport | null {
    return this.#lanes.webrtc?.transport ?? null;
  }

  /** Is WebRTC asked for, can this browser play it, and the server send by it what the viewer chose? */
  get #webrtcWanted(): boolean {
    return (this.#protocol === 'webrtc' || (this.#protocol === 'auto' && !this.#elsewhere)) && webrtcPossible();
  }

  /** Did the viewer choose a rendition that LL-HLS has, and WebRTC has not, or lets nobody choose? */
  get #elsewhere(): boolean {
    if (this.#wish === 'auto' || this.#rungs === null || this.#rungs.some(wished(this.#wish))) return false;
    return (this.#stream?.tracks ?? []).some(({ name, height }) => wished(this.#wish)({ name, height: height ?? 0 }));
  }

  /** Did the viewer pause it? A pause from before the load was not theirs. */
  get #held(): boolean {
    return this.#front !== null && this.#video.paused && this.#pausedS !== null && this.#pausedS >= this.#loadedS;
  }

  /** Makes so what the changeover says. */
  #arrange(): void {
    const { webrtc, front, over } = this.#changeover;
    const engine = this.#changeover.engine && this.#protocol !== 'webrtc';
    const wanted = front && this.#lanes[front];
    if (wanted?.video === this.#screen.back) this.#swap();
    if (over) this.#whep?.leave();
    if (!webrtc) this.#close('webrtc');
    if (!engine) this.#close('engine');
    if (webrtc && !this.#lanes.webrtc) void this.#openWebrtc();
    if (engine && !this.#lanes.engine) void this.#openEngine();
  }

  #swap(): void {
    this.#faded();
    this.#video.playbackRate = 1;
    this.#screen.swap();
    this.#following = true;
    this.#pausedS = null;
    this.#movedS = nowS();
    this.#fps = { atMs: 0, frames: 0, perS: null };
    this.#delay.joined(nowS());
    // With sound the browser may stop what it let play without.
    void this.play();
    this.#events.renditions();
    this.#events.change();
  }

  /** A way of its own, in the element that the other leaves free. */
  #lane(way: Way): Lane<never> {
    this.#faded();
    const other = way === 'webrtc' ? this.#lanes.engine : this.#lanes.webrtc;
    const { front, back } = this.#screen;
    return { way, video: other?.video === front ? back : front, transport: null };
  }

  #close(way: Way): void {
    const lane = this.#lanes[way];
    if (!lane) return;
    if (way === 'webrtc') this.#whep?.leave();
    // Its viewer goes on by WebRTC, and is counted there.
    else if (this.#changeover.front === 'webrtc' && this.#playback === null) sendLeft(this.#api, this.#name, null);
    this.#lanes[way] = null;
    if (lane.video === this.#screen.front) {
      lane.transport?.destroy();
      return;
    }
    this.#faded();
    this.#fading = { lane, timer: setTimeout(() => this.#faded(), FADE_MS) };
  }

  /** What fades is gone. */
  #faded(): void {
    if (!this.#fading) return;
    clearTimeout(this.#fading.timer);
    this.#fading.lane.transport?.destroy();
    this.#fading.lane.video.playbackRate = 1;
    this.#fading = null;
  }

  async #openWebrtc(): Promise<void> {
    const lane: Lane<WebrtcTransport> = this.#lane('webrtc');
    this.#lanes.webrtc = lane;
    const mine = () => this.#lanes.webrtc === lane && !this.#closed.signal.aborted;
    const only = this.#protocol === 'webrtc';
    const failed = (act: () => void) => {
      if (!mine()) return;
      act();
      if (only) this.#signal({ kind: 'network' });
      this.#arrange();
    };
    let whep: typeof import('../playback/whep.js');
    try {
      whep = await import('../playback/whep.js');
    } catch {
      failed(() => this.#changeover.lost(nowS()));
      return;
    }
    if (!mine()) return;
    lane.transport = new whep.WhepTransport(lane.video, (offer) => this.#api.whep(this.#name, offer, this.#playback), {
      begun: (session) => {
        // It is the same device that goes on by LL-HLS.
        if (mine() && this.#api.hasToken) this.#playback = session;
      },
      refused: (error, pauseS) => {
        const denial = denialOf(error);
        // Elsewhere the engine asks as well, and says what is wrong.
        if (only && denial && mine()) this.#signal({ kind: 'denied', denial });
        else failed(() => this.#changeover.refused(nowS(), pauseS));
      },
      progress: () => {
        // Sound alone is no reason to leave a picture.
        if (mine() && !this.#held && !(lane.transport?.soundOnly && this.#front !== lane)) this.#shows(lane);
      },
      renditions: () => {
        if (mine()) this.#chosenFrom(lane);
      },
      lost: () => failed(() => this.#changeover.lost(nowS())),
    });
    this.#events.renditions();
    await this.#begin(lane);
  }

  async #openEngine(): Promise<void> {
    const lane: Lane = this.#lane('engine');
    this.#lanes.engine = lane;
    const mine = () => this.#lanes.engine === lane && !this.#closed.signal.aborted;
    if (this.#api.hasToken) {
      const failed = await (this.#entering = this.#entering.then(() => this.#admitted()));
      if (this.#closed.signal.aborted) {
        this.#leave();
        return;
      }
      if (!mine()) return;
      if (failed) {
        this.#signal(failed);
        return;
      }
    }
    const urls = { hls: this.#api.hlsUrl(this.#name, this.#playback), dash: this.#api.dashUrl(this.#name, this.#playback) };
    let ready = false;
    const events = {
      // The browser's own HLS gives no status.
      signal: (signal: Signal) => {
        if (!mine()) return;
        if (signal.kind === 'network' && lane.transport?.kind === 'hls-native') void this.#examine();
        else this.#signal(signal);
      },
      refused: () => {
        if (mine()) void this.#examine();
      },
      renditions: () => {
        if (!mine()) return;
        if (!ready && lane.transport?.renditions.length) {
          ready = true;
          if (lane.transport.renditions.some(wished(this.#wish))) this.#select(lane);
        }
        this.#events.renditions();
      },
    };
    let transport: Transport | null;
    try {
      transport = await open(this.#protocol, lane.video, urls, events);
    } catch {
      // The chunk with the engine did not come.
      if (mine()) this.#signal({ kind: 'network' });
      return;
    }
    if (!mine()) {
      transport?.destroy();
      return;
    }
    if (!transport) {
      this.#signal({ kind: 'media', message: 'This browser can play neither HLS nor DASH.' });
      return;
    }
    lane.transport = transport;
    this.#events.renditions();
    await transport.ready;
    if (mine()) await this.#begin(lane);
  }

  /** Tells an element to play. */
  async #begin(lane: Lane): Promise<void> {
    if (lane.video === this.#screen.front) {
      this.#loadedS = nowS();
      await this.play();
    } else {
      lane.video.muted = true;
      await lane.video.play().catch(() => undefined);
    }
    if (lane.way === 'engine' && this.#lanes.engine === lane && this.#playback === null) sendBeacon(this.#api, this.#name);
  }

  /** It shows a picture, or goes on to. */
  #shows(lane: Lane): void {
    this.#changeover.progress(lane.way, nowS());
    this.#arrange();
    if (this.#front !== lane || this.#lanes[lane.way] !== lane) return;
    if (lane.way === 'webrtc') this.#movedS = nowS();
    this.#signal({ kind: 'progress' });
  }

  /** Has a lane play what the viewer wishes. */
  #select(lane: Lane | null): void {
    lane?.transport?.select(lane.transport.renditions.find(wished(this.#wish)) ?? null);
  }

  /** WebRTC has said what there is to choose from, or that there is nothing. */
  #chosenFrom(lane: Lane<WebrtcTransport>): void {
    this.#rungs = lane.transport?.renditions ?? [];
    this.#select(lane);
    this.#changeover.allow(this.#webrtcWanted, nowS());
    this.#arrange();
    this.#events.renditions();
    this.#events.change();
  }

  #signal(signal: Signal): void {
    const before = this.phase;
    if (before === 'connecting' && signal.kind === 'progress') this.#delay.joined(nowS());
    this.#do(this.#lifecycle.signal(signal, nowS()));
    if (this.phase === before) return;
    this.#events.change();
    // What the directory says matters now.
    if (this.phase !== 'playing') this.#pollSoon(this.#lifecycle.pollMs(nowS(), Math.random()));
  }

  // --- the playhead

  #progress(video: HTMLVideoElement): void {
    const lane = this.#lanes.engine;
    // WebRTC tells by itself: its element's clock runs without a picture as well.
    if (lane?.video !== video) return;
    const { currentTime, readyState, paused, seeking } = video;
    const front = video === this.#video;
    if (front && currentTime !== this.#lastTime) {
      this.#lastTime = currentTime;
      this.#movedS = nowS();
    }
    if (paused || readyState < 3 || currentTime <= 0) return;
    // Beneath another picture only a picture counts.
    if (front || (!seeking && !this.#held && video.videoWidth > 0 && video.getVideoPlaybackQuality().totalVideoFrames > 0)) this.#shows(lane);
  }

  #dry(): void {
    if (this.#video.paused || this.#video.ended || this.phase !== 'playing') return;
    const now = nowS();
    if (!this.#video.seeking && now - this.#seekedS > SEEK_GRACE_S) {
      this.#stalls++;
      this.#delay.stalled(now);
    }
    this.#signal({ kind: 'starved' });
  }

  #resumed(): void {
    // A pause from before the load was not the viewer's.
    const pausedS = this.#pausedS === null || this.#pausedS < this.#loadedS ? 0 : nowS() - this.#pausedS;
    this.#pausedS = null;
    this.#movedS = nowS();
    this.#delay.resync();
    // WebRTC goes on where the broadcast is.
    if (this.#front?.way === 'webrtc') return;
    if (pausedS > LONG_PAUSE_S) this.jumpToLive();
    else if (pausedS > 1) this.#following = false;
  }

  /** The decoder gave up and the engine did not notice. */
  #lostDecoder(): void {
    if (this.#transport?.kind === 'll-hls') return; // hls.js recovers from it by itself
    this.#signal({ kind: 'network' });
  }

  #tick(): void {
    const now = nowS();
    const video = this.#video;
    const timing = this.#timing();
    this.#countFrames();
    const action = this.#lifecycle.tick(now, timing?.edgeAgeS ?? null);
    if (action !== 'none') {
      this.#do(action);
      this.#events.change();
      return;
    }
    // A page that nobody sees is called once a second at most, and would take that for silence.
    this.#changeover.tick(now, this.#held || document.hidden, this.phase === 'playing' && this.#following && !video.paused && !document.hidden);
    this.#arrange();
    if (this.#front?.way === 'webrtc' && this.phase === 'playing' && !video.paused && !document.hidden && now - this.#movedS > WEBRTC_STALL_S) {
      this.#dry();
      // Is it the end?
      this.#pollSoon(0);
    }
    if (video.paused || !timing || !this.#transport || this.#transport.selfPaced) return;
    // Dry with media at hand: the decoder waits for something that is not coming. A small seek wakes it.
    if (this.phase === 'buffering' && bufferAhead(video) > 0.5 && now - Math.max(this.#movedS, this.#seekedS) > WAKE_S) {
      video.currentTime += 0.05;
    }
    // Tracks end a little apart; the end of the shorter one is the end, whatever the engine still waits for.
    if (!timing.live && this.phase !== 'ended' && video.currentTime === this.#lastTime && now - this.#movedS > 0.7 && timing.distanceS < END_S) {
      return this.#signal({ kind: 'ended' });
    }
    if (this.phase === 'playing' && video.currentTime === this.#lastTime && now - this.#movedS > SILENT_STALL_S) this.#dry();
    if (this.phase !== 'playing' || !this.#following || video.seeking || !timing.live) {
      this.#steer(1);
      return;
    }
    const command = this.#delay.update({
      nowS: now,
      distanceS: timing.distanceS,
      targetS: this.#targetS(timing.targetS),
      bufferS: bufferAhead(video),
    });
    if (command.jumpS > 0) {
      this.#steeredS = now;
      this.#jump(command.jumpS);
    } else {
      this.#steer(command.rate);
    }
  }

  #countFrames(): void {
    const atMs = performance.now();
    const spanMs = atMs - this.#fps.atMs;
    if (spanMs < 1000) return;
    const frames = this.#video.getVideoPlaybackQuality().totalVideoFrames;
    const came = frames - this.#fps.frames;
    this.#fps = { atMs, frames, perS: this.#fps.atMs > 0 && came >= 0 ? (came * 1000) / spanMs : null };
  }

  #timing(): Timing | null {
    const timing = this.#transport?.timing() ?? null;
    // DASH's live edge is the wall clock itself, and our reading of the server's is better than one time stamp in a manifest.
    const serverMs = this.#clock.at(performance.now());
    if (this.#transport?.kind !== 'dash' || timing?.mediaUnixMs == null || serverMs === null) return timing;
    return { ...timing, distanceS: (serverMs - timing.mediaUnixMs) / 1000 };
  }

  #targetS(askedS: number): number {
    // A viewer may ask for more delay, never for less than the server says is safe.
    return Math.max(askedS, this.#targetOverrideS ?? 0);
  }

  #steering(): boolean {
    return PAUSES_BY_ITSELF && nowS() - this.#steeredS < STEER_S;
  }

  #steer(rate: number): void {
    if (this.#video.playbackRate === rate) return;
    this.#steeredS = nowS();
    this.#video.playbackRate = rate;
  }

  #jump(forwardS: number): void {
    this.#video.playbackRate = 1;
    if (forwardS > 0.2) this.#video.currentTime += forwardS;
  }
}

function nowS(): number {
  return performance.now() / 1000;
}

/** Is it the rendition of this name (`v-720p30`) or height (`720p`)? */
function wished(wish: string): (rendition: { name: string; height: number }) => boolean {
  return ({ name, height }) => name === wish || `${height}p` === wish;
}

function bufferAhead(video: HTMLVideoElement): number {
  const { buffered, currentTime } = video;
  for (let range = 0; range < buffered.length; range++) {
    if (buffered.start(range) <= currentTime + 0.1 && buffered.end(range) > currentTime) return buffered.end(range) - currentTime;
  }
  return 0;
}
