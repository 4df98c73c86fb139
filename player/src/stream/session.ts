/**
 * One viewer's session with one stream: asks the directory, opens the transport, holds the delay, recovers.
 * It decides nothing by itself: `lifecycle.ts` says what to do and `delay.ts` how fast to play. It shows nothing either.
 */
import { open, prepare, type Protocol } from '../playback/choose.js';
import { ServerClock } from '../playback/clock.js';
import { DelayController } from '../playback/delay.js';
import type { Rendition, Timing, Transport, TransportKind } from '../playback/transport.js';
import { ApiError, type Api, type Stream } from './api.js';
import { BEACON_MS, sendBeacon, sendLeft } from './beacon.js';
import { denialOf, type Denial } from './denial.js';
import { Lifecycle, type Action, type Phase, type Report, type Signal } from './lifecycle.js';

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
  state: Phase;
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
/** A playhead that rests this long without an event is dry as well. */
const SILENT_STALL_S = 1.5;

export class Session {
  readonly #api: Api;
  readonly #name: string;
  readonly #video: HTMLVideoElement;
  readonly #events: SessionEvents;
  readonly #lifecycle = new Lifecycle();
  readonly #clock = new ServerClock();
  readonly #closed = new AbortController();
  #protocol: Protocol;
  #delay: DelayController;
  #transport: Transport | null = null;
  /** The playback session, where one is needed: it goes on from engine to engine, and after an outage. */
  #playback: string | null = null;
  /** One after the other: two at once would take the room of two devices. */
  #entering: Promise<Signal | null> = Promise.resolve(null);
  #examining = false;
  #opening = 0;
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

  constructor(
    api: Api,
    name: string,
    video: HTMLVideoElement,
    events: SessionEvents,
    options: { protocol: Protocol; quality: string; targetDelayS: number | null },
  ) {
    this.#api = api;
    this.#name = name;
    this.#video = video;
    this.#events = events;
    this.#protocol = options.protocol;
    this.#wish = options.quality;
    this.#targetOverrideS = options.targetDelayS;
    this.#delay = new DelayController();

    const { signal } = this.#closed;
    const on = (type: string, listener: () => void) => video.addEventListener(type, listener, { signal });
    on('playing', () => this.#progress());
    on('timeupdate', () => this.#progress());
    on('waiting', () => this.#dry());
    on('ended', () => this.#signal({ kind: 'ended' }));
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
      if (video.error && video.getAttribute('src')?.startsWith('blob:')) this.#lostDecoder();
    });
    document.addEventListener('visibilitychange', () => document.hidden || this.#delay.resync(), { signal });
    window.addEventListener('online', () => this.phase === 'denied' || this.#pollSoon(0), { signal });
    window.addEventListener('pagehide', () => this.#leave(), { signal });
    // The browser kept the page, as it was, and shows it again: its playback session is over.
    window.addEventListener('pageshow', (event) => event.persisted && this.#api.hasToken && this.retry(), { signal });

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

  get renditions(): readonly Rendition[] {
    return this.#transport?.renditions ?? [];
  }

  get current(): Rendition | null {
    return this.#transport?.current ?? null;
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
    return {
      transport: this.#transport?.kind ?? null,
      delayS: mediaMs !== null && serverMs !== null ? (serverMs - mediaMs) / 1000 : (timing?.distanceS ?? null),
      targetS: timing ? this.#targetS(timing.targetS) + this.#delay.marginS : null,
      distanceS: timing?.distanceS ?? null,
      bufferS: bufferAhead(this.#video),
      rate: this.#video.playbackRate,
      level: this.current?.name ?? null,
      levels: this.renditions.map((rendition) => ({ ...rendition })),
      stalls: this.#stalls,
      framesDecoded: quality.totalVideoFrames,
      framesDropped: quality.droppedVideoFrames,
      state: this.phase,
    };
  }

  /** Plays a rendition by name (`v-720p30`) or height (`720p`), or `auto`. An unknown name is automatic until it appears. */
  setQuality(name: string): void {
    this.#wish = name;
    this.#transport?.select(this.#wished());
    this.#events.renditions();
  }

  setProtocol(protocol: Protocol): void {
    if (protocol === this.#protocol) return;
    this.#protocol = protocol;
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
    const watched = this.#transport !== null || this.#playback !== null;
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
    this.#do(this.#lifecycle.report(report, nowS()));
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
    // A playback session is counted by what it asks for.
    if (this.phase === 'playing' && !this.#video.paused && this.#playback === null) sendBeacon(this.#api, this.#name);
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
      const denial = denialOf(error);
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
    const opening = this.#opening;
    const failed = await this.#goesOn(this.#playback);
    this.#examining = false;
    if (opening !== this.#opening || this.#closed.signal.aborted) return;
    const again = failed?.kind === 'denied' && this.#playback !== null && (failed.denial === 'expired' || failed.denial === 'invalid');
    // A session that has run its time may be followed by another.
    this.#signal(failed === null || again ? { kind: 'network' } : failed);
  }

  // --- the transport

  #do(action: Action): void {
    if (action === 'load') void this.#load();
    else if (action === 'unload') this.#unload();
    else if (action === 'resume') void this.#resume();
  }

  async #load(): Promise<void> {
    if (this.#transport) this.#events.replacing();
    this.#unload();
    const opening = this.#opening;
    const mine = () => opening === this.#opening;
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
        if (signal.kind === 'network' && this.#transport?.kind === 'hls-native') void this.#examine();
        else this.#signal(signal);
      },
      refused: () => {
        if (mine()) void this.#examine();
      },
      renditions: () => {
        if (!mine()) return;
        if (!ready && this.renditions.length) {
          ready = true;
          const wished = this.#wished();
          if (wished) this.#transport?.select(wished);
        }
        this.#events.renditions();
      },
    };
    let transport: Transport | null;
    try {
      transport = await open(this.#protocol, this.#video, urls, events);
    } catch {
      // The chunk with the engine did not come.
      this.#signal({ kind: 'network' });
      return;
    }
    if (opening !== this.#opening || this.#closed.signal.aborted) return transport?.destroy();
    if (!transport) {
      this.#signal({ kind: 'media', message: 'This browser can play neither HLS nor DASH.' });
      return;
    }
    this.#transport = transport;
    this.#following = true;
    this.#delay.resync();
    this.#events.renditions();
    await transport.ready;
    if (opening !== this.#opening) return;
    this.#loadedS = nowS();
    await this.play();
    if (opening === this.#opening && this.#playback === null) sendBeacon(this.#api, this.#name);
  }

  #unload(): void {
    this.#opening++;
    this.#transport?.destroy();
    this.#transport = null;
    this.#video.playbackRate = 1;
    this.#events.renditions();
  }

  async #resume(): Promise<void> {
    const transport = this.#transport;
    if (!transport) return void this.#load();
    try {
      const resumed = await transport.resume();
      if (transport !== this.#transport) return;
      if (resumed) this.#lifecycle.resumed(nowS());
      else this.#do(this.#lifecycle.restarted(nowS()));
    } catch {
      // Still away: the next poll comes back here.
    }
    this.#events.change();
  }

  #wished(): Rendition | null {
    const wish = this.#wish;
    return this.renditions.find(({ name, height }) => name === wish || `${height}p` === wish) ?? null;
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

  #progress(): void {
    const { currentTime, readyState, paused } = this.#video;
    if (currentTime !== this.#lastTime) {
      this.#lastTime = currentTime;
      this.#movedS = nowS();
    }
    if (!paused && readyState >= 3 && currentTime > 0) this.#signal({ kind: 'progress' });
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
    const action = this.#lifecycle.tick(now, timing?.edgeAgeS ?? null);
    if (action !== 'none') {
      this.#do(action);
      this.#events.change();
      return;
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

function bufferAhead(video: HTMLVideoElement): number {
  const { buffered, currentTime } = video;
  for (let range = 0; range < buffered.length; range++) {
    if (buffered.start(range) <= currentTime + 0.1 && buffered.end(range) > currentTime) return buffered.end(range) - currentTime;
  }
  return 0;
}
