import { beforeEach, describe, expect, it } from 'vitest';
import { Lifecycle } from '../../src/stream/lifecycle.js';

const FIRST = '2026-01-01T10:00:00Z';
const SECOND = '2026-01-01T11:00:00Z';
const live = (since = FIRST) => ({ kind: 'live', since }) as const;
const off = { kind: 'off', since: null } as const;

describe('the life of a viewer’s page', () => {
  let life: Lifecycle;
  beforeEach(() => {
    life = new Lifecycle();
  });

  function playing(): Lifecycle {
    life.report(live(), 0);
    life.signal({ kind: 'progress' }, 1);
    return life;
  }

  it('waits, and loads by itself when the stream goes live', () => {
    expect(life.report(off, 0)).toBe('none');
    expect(life.phase).toBe('waiting');
    expect(life.report(live(), 10)).toBe('load');
    expect(life.phase).toBe('connecting');
    life.signal({ kind: 'progress' }, 11);
    expect(life.phase).toBe('playing');
  });

  it('loads a broadcast once however often the directory says that it is live', () => {
    life.report(live(), 0);
    expect(life.report(live(), 3)).toBe('none');
  });

  it('ends with the playlist and does not load the ended broadcast again', () => {
    playing().signal({ kind: 'ended' }, 20);
    expect(life.phase).toBe('ended');
    expect(life.report(live(), 21)).toBe('none');
    expect(life.report(off, 22)).toBe('none');
    expect(life.phase).toBe('ended');
  });

  it('plays the next broadcast after an end', () => {
    playing().signal({ kind: 'ended' }, 20);
    expect(life.report(live(SECOND), 60)).toBe('load');
  });

  it('ends at once where nothing is left to play', () => {
    playing().signal({ kind: 'starved' }, 20);
    expect(life.report(off, 20.2)).toBe('none');
    expect(life.report({ ...off, drained: true }, 20.3)).toBe('unload');
    expect(life.phase).toBe('ended');
  });

  it('changes over when the broadcast was replaced after a cut', () => {
    expect(playing().report(live(SECOND), 60)).toBe('load');
    expect(life.since).toBe(SECOND);
  });

  it('resumes the same broadcast after the server came back', () => {
    playing().signal({ kind: 'network' }, 20);
    life.signal({ kind: 'progress' }, 20.5);
    expect(life.phase).toBe('playing');
    life.signal({ kind: 'starved' }, 21);
    expect(life.phase).toBe('reconnecting');
    expect(life.report({ kind: 'unreachable' }, 21)).toBe('none');
    expect(life.phase).toBe('reconnecting');
    expect(life.report(live(), 24)).toBe('resume');
    life.resumed(24);
    life.signal({ kind: 'progress' }, 25);
    expect(life.phase).toBe('playing');
    expect(life.report(live(), 26)).toBe('none');
  });

  it('resumes before the picture runs dry when the server is back at once', () => {
    playing().signal({ kind: 'network' }, 20);
    life.signal({ kind: 'progress' }, 20.2);
    expect(life.report(live(), 20.5)).toBe('resume');
    life.resumed(20.5);
    expect(life.phase).toBe('playing');
  });

  it('resumes once, and loads afresh when nothing comes of it', () => {
    playing().signal({ kind: 'network' }, 20);
    life.signal({ kind: 'starved' }, 21);
    expect(life.report(live(), 24)).toBe('resume');
    life.resumed(24);
    expect(life.report(live(), 26)).toBe('none');
    expect(life.tick(26, 0.2)).toBe('none');
    expect(life.tick(45, 0.2)).toBe('load');
  });

  it('loads afresh when another broadcast came back', () => {
    playing().signal({ kind: 'network' }, 20);
    expect(life.report(live(SECOND), 24)).toBe('load');
  });

  it('ends when the server came back without the broadcast', () => {
    playing().signal({ kind: 'network' }, 20);
    life.signal({ kind: 'starved' }, 21);
    expect(life.report(off, 24)).toBe('unload');
    expect(life.phase).toBe('ended');
  });

  it('keeps the picture when the directory fails while it plays', () => {
    expect(playing().report({ kind: 'unreachable' }, 20)).toBe('none');
    expect(life.phase).toBe('playing');
    expect(life.report(off, 21)).toBe('none');
    expect(life.phase).toBe('playing');
  });

  it('loads again when media stays stuck although the playlist grows', () => {
    playing().signal({ kind: 'starved' }, 10);
    expect(life.phase).toBe('buffering');
    expect(life.tick(15, 0.3)).toBe('none');
    expect(life.tick(30, 0.3)).toBe('load');
  });

  it('waits for an encoder that is away, and says so', () => {
    playing().signal({ kind: 'starved' }, 10);
    expect(life.tick(30, 20)).toBe('none');
    expect(life.encoderAway).toBe(true);
    life.signal({ kind: 'progress' }, 35);
    expect(life.phase).toBe('playing');
    expect(life.encoderAway).toBe(false);
  });

  it('tries a load without a frame again, each time with more patience', () => {
    life.report(live(), 0);
    const waits: number[] = [];
    let last = 0;
    for (let now = 1; now < 200; now++) {
      if (life.tick(now, null) !== 'load') continue;
      waits.push(now - last);
      last = now;
    }
    expect(waits.length).toBeGreaterThan(3);
    expect(waits).toEqual([...waits].sort((a, b) => a - b));
    expect(waits.at(-1)).toBeGreaterThan(waits[0] ?? Infinity);
  });

  it('says why it failed and starts over on request', () => {
    playing();
    expect(life.signal({ kind: 'media', message: 'No decoder.' }, 5)).toBe('unload');
    expect(life.phase).toBe('failed');
    expect(life.message).toBe('No decoder.');
    expect(life.report(live(), 6)).toBe('none');
    life.retry(7);
    expect(life.report(live(), 8)).toBe('load');
  });

  it('tells a stream that does not exist from one that is not live', () => {
    life.report({ kind: 'missing' }, 0);
    expect(life.phase).toBe('missing');
    expect(life.report(off, 5)).toBe('none');
    expect(life.phase).toBe('waiting');
  });

  it('asks more often when it matters, and never in step', () => {
    playing();
    const calm = life.pollMs(10, 0.5);
    life.signal({ kind: 'network' }, 20);
    expect(life.pollMs(20, 0.5)).toBeLessThan(calm / 10);
    expect(life.pollMs(20, 0)).not.toBe(life.pollMs(20, 0.9));
    for (let attempt = 0; attempt < 50; attempt++) life.report({ kind: 'unreachable' }, 21 + attempt);
    expect(life.pollMs(80, 0.99)).toBeLessThanOrEqual(5000);
  });

  describe('with a token', () => {
    const denied = (denial: 'expired' | 'revoked' | 'needed') => ({ kind: 'denied', denial }) as const;

    it('says why it is not let in, and asks nothing until somebody does something about it', () => {
      expect(life.report(denied('needed'), 0)).toBe('none');
      expect(life.phase).toBe('denied');
      expect(life.denial).toBe('needed');
      expect(life.pollMs(1, 0.5)).toBe(Infinity);
      for (const report of [live(), off, { kind: 'unreachable' }] as const) expect(life.report(report, 1)).toBe('none');
      expect(life.tick(100, 10)).toBe('none');
      expect(life.phase).toBe('denied');
      expect(life.retry(200)).toBe('unload');
      expect(life.denial).toBeNull();
      expect(life.report(live(), 201)).toBe('load');
    });

    it('goes on with a token that has run out, through an outage as well', () => {
      expect(playing().report(denied('expired'), 10)).toBe('none');
      life.signal({ kind: 'starved' }, 11);
      expect(life.report(denied('expired'), 12)).toBe('none');
      life.signal({ kind: 'network' }, 13);
      expect(life.report(denied('expired'), 14)).toBe('resume');
      expect(life.denial).toBeNull();
    });

    it('stops at once when the token was taken back, whoever says so', () => {
      expect(playing().report(denied('revoked'), 10)).toBe('unload');
      expect(life.denial).toBe('revoked');
      life = new Lifecycle();
      expect(playing().signal(denied('revoked'), 10)).toBe('unload');
      expect(life.phase).toBe('denied');
    });

    it('is not let in any more after an end', () => {
      playing().signal({ kind: 'ended' }, 20);
      expect(life.report(denied('expired'), 22)).toBe('none');
      expect(life.denial).toBe('expired');
    });
  });
});
