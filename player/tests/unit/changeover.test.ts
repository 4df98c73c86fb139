import { describe, expect, it } from 'vitest';
import { Changeover } from '../../src/playback/changeover.js';

/** Both ways in a model world: what is open shows a picture when it can, and the changeover is asked four times a second. */
class World {
  readonly changeover: Changeover;
  nowS = 0;
  /** From when on WebRTC shows a picture, and LL-HLS, each so long after it is opened; `null` not at all. */
  webrtcS: number | null;
  engineS: number | null = 0.8;
  atLive = true;
  paused = false;
  attempts: number[] = [];
  swaps: string[] = [];
  /** Moments without a picture, once there was one. */
  black = 0;
  #opened: Record<'webrtc' | 'engine', number | null> = { webrtc: null, engine: null };

  constructor(webrtcS: number | null, allowed = true) {
    this.webrtcS = webrtcS;
    this.changeover = new Changeover(allowed);
    this.changeover.begin('first', 0);
    this.#look();
  }

  run(seconds: number): this {
    for (const endS = this.nowS + seconds; this.nowS < endS; this.nowS += 0.25) {
      for (const way of ['webrtc', 'engine'] as const) {
        const [openedS, readyS] = [this.#opened[way], way === 'webrtc' ? this.webrtcS : this.engineS];
        if (openedS !== null && readyS !== null && this.nowS - openedS >= readyS && !this.paused) this.changeover.progress(way, this.nowS);
        this.#look();
      }
      this.changeover.tick(this.nowS, this.paused, this.atLive && !this.paused);
      this.#look();
    }
    return this;
  }

  #look(): void {
    const { front, webrtc, engine } = this.changeover;
    for (const [way, open] of [['webrtc', webrtc], ['engine', engine]] as const) {
      if (open && this.#opened[way] === null) {
        this.#opened[way] = this.nowS;
        if (way === 'webrtc') this.attempts.push(this.nowS);
      } else if (!open) this.#opened[way] = null;
    }
    if (front && front !== this.swaps.at(-1)) this.swaps.push(front);
    // What is on screen must be open.
    if (front && !(front === 'webrtc' ? webrtc : engine)) this.black++;
  }
}

describe('the changeover', () => {
  it('plays by WebRTC alone where it connects', () => {
    const world = new World(0.5).run(60);
    expect(world.swaps).toEqual(['webrtc']);
    expect(world.changeover.engine).toBe(false);
    expect(world.attempts).toEqual([0]);
  });

  it('has the engine play within three seconds where nothing answers, and tries again after growing pauses', () => {
    const world = new World(null).run(3);
    expect(world.swaps).toEqual(['engine']);
    world.run(1500);
    const gaps = world.attempts.slice(1).map((atS, index) => atS - (world.attempts[index] ?? 0));
    expect(gaps.slice(0, 5).map((gap) => Math.round(gap - 8))).toEqual([30, 60, 120, 240, 300]);
    expect(world.swaps).toEqual(['engine']);
  });

  it('shows WebRTC when it comes late, without waiting for a pause', () => {
    const world = new World(4).run(10);
    expect(world.swaps).toEqual(['engine', 'webrtc']);
    expect(world.attempts).toEqual([0]);
    expect(world.black).toBe(0);
  });

  it('opens the engine at once when the edge refuses, and waits as long as it asks', () => {
    const world = new World(null).run(0.25);
    world.changeover.refused(world.nowS, 5);
    expect(world.changeover.engine).toBe(true);
    world.run(4);
    expect(world.attempts).toEqual([0]);
    world.run(3);
    expect(world.attempts).toHaveLength(2);
  });

  it('never asks again in a broadcast whose codecs this browser lacks, but does in the next', () => {
    const world = new World(null).run(0.25);
    world.changeover.refused(world.nowS, Infinity);
    world.run(2000);
    world.changeover.online(world.nowS);
    world.run(20);
    expect(world.attempts).toHaveLength(1);
    world.changeover.begin('first', world.nowS);
    expect(world.changeover.webrtc).toBe(false);
    world.changeover.begin('second', world.nowS);
    expect(world.changeover.webrtc).toBe(true);
  });

  it('keeps the last picture until the engine has one, and leaves the session at once, when the connection is gone', () => {
    const world = new World(0.5).run(10);
    world.webrtcS = null;
    world.changeover.lost(world.nowS);
    expect(world.changeover.over).toBe(true);
    expect(world.changeover.front).toBe('webrtc');
    expect(world.changeover.webrtc).toBe(true);
    world.run(2);
    expect(world.swaps).toEqual(['webrtc', 'engine']);
    expect(world.changeover.webrtc).toBe(false);
    expect(world.black).toBe(0);
  });

  it('opens the engine beside a silent picture, which may come back first', () => {
    const world = new World(0.5).run(10);
    world.webrtcS = null;
    world.run(1.75);
    expect(world.changeover.engine).toBe(true);
    expect(world.changeover.front).toBe('webrtc');
    world.webrtcS = 0.5;
    world.run(1);
    expect(world.changeover.engine).toBe(false);
    expect(world.swaps).toEqual(['webrtc']);
  });

  it('leaves a connection that stumbles too often', () => {
    const world = new World(0.5).run(10);
    world.engineS = 5;
    for (let time = 0; time < 3; time++) {
      world.webrtcS = null;
      world.run(2);
      if (time < 2) expect(world.changeover.over).toBe(false);
      world.webrtcS = 0.5;
      world.run(3);
    }
    world.run(4);
    expect(world.swaps).toEqual(['webrtc', 'engine']);
  });

  it('takes WebRTC back only when it is steady, at the live edge, and soon when the device is online again', () => {
    const world = new World(0.5).run(10);
    world.changeover.lost(world.nowS);
    world.webrtcS = null;
    world.run(5);
    world.webrtcS = 0.5;
    world.atLive = false;
    world.changeover.online(world.nowS);
    world.run(100);
    expect(world.attempts).toHaveLength(1);
    world.atLive = true;
    world.run(1.5);
    expect(world.swaps.at(-1)).toBe('engine');
    world.run(2);
    expect(world.swaps).toEqual(['webrtc', 'engine', 'webrtc']);
    expect(world.black).toBe(0);
  });

  it('calls an attempt off when the viewer goes back in time meanwhile', () => {
    const world = new World(null).run(5);
    expect(world.swaps).toEqual(['engine']);
    world.atLive = false;
    world.run(1);
    expect(world.changeover.webrtc).toBe(false);
    world.webrtcS = 0.5;
    world.atLive = true;
    world.run(10);
    expect(world.swaps).toEqual(['engine', 'webrtc']);
  });

  it('does not take a pause for a silence', () => {
    const world = new World(0.5).run(10);
    world.paused = true;
    world.run(120);
    world.paused = false;
    world.run(1);
    expect(world.changeover.engine).toBe(false);
  });

  it('changes over without a gap when WebRTC is no longer wanted, and back when it is', () => {
    const world = new World(0.5).run(10);
    world.changeover.allow(false, world.nowS);
    expect(world.changeover.front).toBe('webrtc');
    world.run(60);
    expect(world.swaps).toEqual(['webrtc', 'engine']);
    expect(world.changeover.webrtc).toBe(false);
    world.changeover.allow(true, world.nowS);
    world.run(3);
    expect(world.swaps).toEqual(['webrtc', 'engine', 'webrtc']);
    expect(world.black).toBe(0);
  });

  it('has nothing but the engine where WebRTC is not to be had', () => {
    const world = new World(0.5, false).run(400);
    expect(world.attempts).toEqual([]);
    expect(world.swaps).toEqual(['engine']);
  });

  it('has nothing open when nothing is to be played', () => {
    const world = new World(0.5).run(5);
    world.changeover.end();
    expect([world.changeover.webrtc, world.changeover.engine, world.changeover.front]).toEqual([false, false, null]);
  });
});
