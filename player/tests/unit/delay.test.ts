import { describe, expect, it } from 'vitest';
import { DelayController, defaultDelayConfig } from '../../src/playback/delay.js';

const TARGET_S = 1;
const TICK_S = 0.25;

/** A viewer in a model world: the live edge moves at one second a second, the playhead at the controller's rate. */
class Viewer {
  readonly controller = new DelayController();
  nowS = 0;
  distanceS: number;
  rates: number[] = [];
  jumps = 0;
  noise: () => number = () => 0;

  constructor(distanceS: number) {
    this.distanceS = distanceS;
  }

  play(seconds: number): this {
    for (let end = this.nowS + seconds; this.nowS < end; this.nowS += TICK_S) {
      const measuredS = this.distanceS + this.noise();
      const command = this.controller.update({ nowS: this.nowS, distanceS: measuredS, targetS: TARGET_S, bufferS: Math.max(0, this.distanceS - 0.35) });
      if (command.jumpS > 0) {
        this.jumps++;
        this.distanceS -= command.jumpS;
      }
      this.rates.push(command.rate);
      this.distanceS += (1 - command.rate) * TICK_S;
    }
    return this;
  }

  stall(seconds: number): this {
    this.controller.stalled(this.nowS);
    this.nowS += seconds;
    this.distanceS += seconds;
    return this;
  }
}

describe('the delay controller', () => {
  it('leaves playback alone at the target', () => {
    const viewer = new Viewer(TARGET_S).play(60);
    expect(new Set(viewer.rates)).toEqual(new Set([1]));
  });

  it('returns from behind without a jump, within its rates', () => {
    const viewer = new Viewer(TARGET_S + 2).play(45);
    expect(viewer.distanceS).toBeCloseTo(TARGET_S, 1);
    expect(viewer.jumps).toBe(0);
    expect(Math.max(...viewer.rates)).toBeLessThanOrEqual(defaultDelayConfig.hurryRate);
  });

  it('jumps over what passed while it loaded, once, and only inside the buffer', () => {
    const viewer = new Viewer(TARGET_S + 1.5);
    viewer.controller.joined(0);
    viewer.play(2);
    expect(viewer.jumps).toBe(1);
    expect(viewer.distanceS).toBeCloseTo(TARGET_S, 1);

    const dry = new DelayController();
    dry.joined(0);
    expect(dry.update({ nowS: 0.25, distanceS: 3, targetS: TARGET_S, bufferS: 1 }).jumpS).toBe(0);
  });

  it('falls back when it is too close to the edge', () => {
    const viewer = new Viewer(0.4).play(60);
    expect(viewer.distanceS).toBeCloseTo(TARGET_S, 1);
    expect(Math.min(...viewer.rates)).toBeGreaterThanOrEqual(defaultDelayConfig.minRate);
  });

  it('jumps once when it is far behind', () => {
    const viewer = new Viewer(30).play(10);
    expect(viewer.jumps).toBe(1);
    expect(viewer.distanceS).toBeCloseTo(TARGET_S, 1);
  });

  it('is back at the target some time after a stall', () => {
    const viewer = new Viewer(TARGET_S).play(10).stall(2);
    expect(viewer.distanceS).toBeGreaterThan(2.9);
    viewer.play(90);
    expect(viewer.distanceS).toBeCloseTo(TARGET_S, 1);
    expect(viewer.controller.marginS).toBe(0);
  });

  it('keeps more distance for a while after a stall', () => {
    const viewer = new Viewer(TARGET_S).play(10).stall(1).play(12);
    expect(viewer.controller.marginS).toBeCloseTo(defaultDelayConfig.stallStepS);
  });

  it('does not drift over an evening of stalls', () => {
    const viewer = new Viewer(TARGET_S);
    for (let stalls = 0; stalls < 30; stalls++) viewer.play(300).stall(1.5);
    viewer.play(300);
    expect(viewer.distanceS).toBeCloseTo(TARGET_S, 1);
  });

  it('waits longer to come closer when stalls repeat, and bounds what they add', () => {
    const viewer = new Viewer(TARGET_S);
    for (let stalls = 0; stalls < 20; stalls++) viewer.play(2).stall(0.5);
    expect(viewer.controller.marginS).toBe(defaultDelayConfig.maxMarginS);
    viewer.play(60);
    expect(viewer.controller.marginS).toBe(defaultDelayConfig.maxMarginS);
    viewer.play(200);
    expect(viewer.controller.marginS).toBe(0);
  });

  it('never speeds towards an empty buffer', () => {
    const controller = new DelayController();
    for (let nowS = 0; nowS < 5; nowS += TICK_S) {
      expect(controller.update({ nowS, distanceS: 3, targetS: TARGET_S, bufferS: 0.05 }).rate).toBe(1);
    }
  });

  it('does not flutter on a noisy measurement', () => {
    const viewer = new Viewer(TARGET_S);
    let step = 0;
    viewer.noise = () => [0.05, -0.05, 0.02, -0.02][step++ % 4] ?? 0;
    viewer.play(60);
    expect(viewer.rates.every((rate) => rate === 1)).toBe(true);
  });

  it('changes the rate seldom on its way back', () => {
    const viewer = new Viewer(TARGET_S + 2);
    let step = 0;
    viewer.noise = () => [0.05, -0.05, 0.02, -0.02][step++ % 4] ?? 0;
    viewer.play(60);
    expect(viewer.distanceS).toBeCloseTo(TARGET_S, 1);
    const changes = viewer.rates.filter((rate, i) => i > 0 && rate !== viewer.rates[i - 1]).length;
    expect(changes).toBeLessThanOrEqual(4);
  });

  it('follows a target that the server changes', () => {
    const controller = new DelayController();
    let distanceS = 1;
    for (let nowS = 0; nowS < 60; nowS += TICK_S) {
      distanceS += (1 - controller.update({ nowS, distanceS, targetS: 1.6, bufferS: 1 }).rate) * TICK_S;
    }
    expect(distanceS).toBeCloseTo(1.6, 1);
  });
});
