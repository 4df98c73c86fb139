/**
 * What the player shows and does as a broadcast comes, stalls, breaks, ends and comes again.
 *
 * A state machine without timers, network or media: it is told what the directory and the playback engine said, and answers
 * with what to do. `session.ts` does it.
 */
import { backoffMs } from './backoff.js';
import type { Denial } from './denial.js';

export type Phase =
  /** Nothing known yet. */
  | 'loading'
  /** The stream exists and nobody is publishing. */
  | 'waiting'
  /** The broadcast's playlists are being loaded; no frame so far. */
  | 'connecting'
  | 'playing'
  /** Playback ran dry. */
  | 'buffering'
  /** The server or the network went away in mid-stream. */
  | 'reconnecting'
  | 'ended'
  /** No stream of this name. */
  | 'missing'
  /** The server never answered. */
  | 'unreachable'
  /** This viewer may not watch: {@link Lifecycle.denial} says why. Nothing is asked until somebody does something about it. */
  | 'denied'
  /** This device cannot play it, or the server refuses. */
  | 'failed';

/** What the directory said about the stream. */
export type Report =
  | { kind: 'live'; since: string | null }
  /** `drained`: what plays has no buffer that could go on. */
  | { kind: 'off'; since: string | null; drained?: boolean }
  | { kind: 'missing' }
  | { kind: 'denied'; denial: Denial }
  | { kind: 'refused'; message: string }
  | { kind: 'unreachable' };

/** What the playback engine said. */
export type Signal =
  | { kind: 'progress' }
  | { kind: 'starved' }
  | { kind: 'ended' }
  /** Playlists or media cannot be fetched. */
  | { kind: 'network' }
  /** Whoever watches may not, or may no longer. */
  | { kind: 'denied'; denial: Denial }
  /** The media cannot be played; `message` is for the viewer. */
  | { kind: 'media'; message: string };

export type Action =
  | 'none'
  /** Load the stream from its multivariant playlist, whatever was loaded before. */
  | 'load'
  /** Go on with the same broadcast where possible, else load. */
  | 'resume'
  /** Let go of the media. */
  | 'unload';

/** Media that does not move for this long although the playlist does is stuck, seconds. */
const STUCK_S = 8;
/** A picture that is dry this long while the directory says that the stream is off has ended, seconds. */
const DRY_S = 3;
/** A playlist that was not renewed for this long says that the encoder is away, seconds. */
const EDGE_STALE_S = 5;
/** A load without a frame by then is tried again, seconds. */
const CONNECT_S = 12;
/** The edge holds a cut broadcast open for 30 s; then it is worth looking afresh. */
const CUT_S = 45;

export class Lifecycle {
  #phase: Phase = 'loading';
  #message = '';
  #denial: Denial | null = null;
  #attempt = 0;
  #since: string | null = null;
  #sinceS = 0;
  #loads = 0;
  #ended: { since: string | null } | null = null;
  #edgeStale = false;
  /** The engine gave up on the network. What it had buffered may play on for a while. */
  #broken = false;

  get phase(): Phase {
    return this.#phase;
  }

  /** Why, in words, where the phase alone does not say it. */
  get message(): string {
    return this.#message;
  }

  /** Why this viewer may not watch, while they may not. */
  get denial(): Denial | null {
    return this.#phase === 'denied' ? this.#denial : null;
  }

  /** Playback is dry because nothing comes from the encoder, rather than from the network. */
  get encoderAway(): boolean {
    return this.#phase === 'buffering' && this.#edgeStale;
  }

  /** When the broadcast on screen began, as the directory says. */
  get since(): string | null {
    return this.#since;
  }

  report(report: Report, nowS: number): Action {
    const active = this.#active();
    switch (report.kind) {
      case 'live': {
        if (this.#phase === 'failed' || this.#phase === 'denied') return 'none';
        if (active && !this.#broken) {
          // The same name, another broadcast: the encoder came back after the grace period.
          if (report.since !== null && this.#since !== null && report.since !== this.#since) return this.#load(report.since, nowS);
          this.#since ??= report.since;
          return 'none';
        }
        // The directory may call a broadcast live a moment longer than its playlists do.
        if (this.#ended && report.since !== null && report.since === this.#ended.since) return 'none';
        if (this.#broken) {
          this.#attempt++;
          if (report.since === this.#since) return 'resume';
        }
        return this.#load(report.since, nowS);
      }
      case 'off':
        if (this.#phase === 'playing' || this.#phase === 'connecting') return 'none';
        if (this.#phase === 'buffering' && !this.#broken && !report.drained && nowS - this.#sinceS < DRY_S) return 'none';
        if (this.#phase === 'ended' || this.#phase === 'failed' || this.#phase === 'denied') return 'none';
        this.#enter(active ? 'ended' : 'waiting', nowS);
        this.#ended = active ? { since: this.#since } : this.#ended;
        return active ? 'unload' : 'none';
      case 'missing':
        if (this.#phase === 'playing') return 'none';
        this.#enter('missing', nowS);
        return active ? 'unload' : 'none';
      case 'denied':
        if (this.#phase === 'failed' || this.#phase === 'denied') return 'none';
        // Whoever is in may go on with a token that begins nothing new: whether they do, the engine hears from the edge.
        if (active && report.denial !== 'revoked') {
          if (!this.#broken) return 'none';
          this.#attempt++;
          return 'resume';
        }
        return this.#deny(report.denial, nowS);
      case 'refused':
        if (this.#phase === 'playing') return 'none';
        this.#enter('failed', nowS, report.message);
        return active ? 'unload' : 'none';
      case 'unreachable':
        if (this.#broken || this.#phase === 'unreachable') this.#attempt++;
        else if (!active && this.#phase !== 'ended' && this.#phase !== 'denied') this.#enter('unreachable', nowS);
        return 'none';
    }
  }

  signal(signal: Signal, nowS: number): Action {
    if (!this.#active()) return 'none';
    switch (signal.kind) {
      case 'progress':
        if (this.#phase !== 'playing') this.#enter('playing', nowS);
        this.#loads = 0;
        return 'none';
      case 'starved':
        if (this.#phase === 'playing') this.#enter(this.#broken ? 'reconnecting' : 'buffering', nowS);
        return 'none';
      case 'ended':
        this.#ended = { since: this.#since };
        this.#enter('ended', nowS);
        return 'none';
      case 'network':
        if (this.#broken) return 'none';
        this.#broken = true;
        this.#attempt = 0;
        // What is buffered plays on; only a dry picture shows that something is wrong.
        if (this.#phase !== 'playing') this.#enter('reconnecting', nowS);
        return 'none';
      case 'denied':
        return this.#deny(signal.denial, nowS);
      case 'media':
        this.#enter('failed', nowS, signal.message);
        return 'unload';
    }
  }

  /**
   * Called about once a second. Finds what no event tells: media that stopped moving.
   *
   * @param edgeAgeS seconds since the playlist last grew; `null` where the engine does not know
   */
  tick(nowS: number, edgeAgeS: number | null): Action {
    this.#edgeStale = edgeAgeS !== null && edgeAgeS > EDGE_STALE_S;
    const forS = nowS - this.#sinceS;
    // Each load in vain waits longer than the one before.
    const patience = Math.min(4, 1 + this.#loads / 2);
    if (this.#broken) return 'none';
    if (this.#phase === 'connecting' && forS > CONNECT_S * patience) return this.#load(this.#since, nowS);
    if (this.#phase === 'buffering' && forS > (this.#edgeStale ? CUT_S : STUCK_S * patience)) return this.#load(this.#since, nowS);
    return 'none';
  }

  /** The viewer asked to try again. */
  retry(nowS: number): Action {
    this.#ended = null;
    this.#loads = 0;
    this.#enter('loading', nowS);
    return 'unload';
  }

  /** A resumed engine is fetching again; should nothing come of it, the tick loads afresh. */
  resumed(nowS: number): void {
    this.#broken = false;
    if (this.#phase === 'reconnecting') this.#enter('buffering', nowS);
  }

  /** A resumed engine found another broadcast, or none: load afresh. */
  restarted(nowS: number): Action {
    return this.#load(this.#since, nowS);
  }

  /** How long to wait before asking the directory again, milliseconds; infinite where it is not asked. `random` is in [0, 1). */
  pollMs(nowS: number, random: number): number {
    const forS = nowS - this.#sinceS;
    if (this.#broken) return backoffMs(this.#attempt, 500, 3000, random);
    switch (this.#phase) {
      case 'loading':
      case 'connecting':
        return backoffMs(0, 3000, 3000, random);
      case 'playing':
        return backoffMs(0, 15_000, 15_000, random);
      case 'buffering':
        return backoffMs(0, 4000, 4000, random);
      case 'reconnecting':
      case 'unreachable':
        return backoffMs(this.#attempt, 1000, 10_000, random);
      case 'waiting':
      case 'ended':
        // Soon at first, for those who come on time; then a phone left on a table should rest.
        return backoffMs(0, forS < 120 ? 2500 : forS < 1800 ? 6000 : 15_000, 15_000, random);
      case 'denied':
        return Infinity;
      case 'missing':
      case 'failed':
        return backoffMs(0, 20_000, 20_000, random);
    }
  }

  #active(): boolean {
    return ['connecting', 'playing', 'buffering', 'reconnecting'].includes(this.#phase);
  }

  #load(since: string | null, nowS: number): Action {
    this.#since = since;
    this.#ended = null;
    this.#broken = false;
    this.#loads++;
    this.#enter('connecting', nowS);
    return 'load';
  }

  #deny(denial: Denial, nowS: number): Action {
    const active = this.#active();
    this.#denial = denial;
    this.#enter('denied', nowS);
    return active ? 'unload' : 'none';
  }

  #enter(phase: Phase, nowS: number, message = ''): void {
    if (phase !== this.#phase) {
      this.#phase = phase;
      this.#attempt = 0;
    }
    if (!this.#active()) this.#broken = false;
    this.#sinceS = nowS;
    this.#message = message;
  }
}
