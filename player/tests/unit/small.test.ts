import { describe, expect, it } from 'vitest';
import { keyOf } from '../../src/element/keys.js';
import { bitrateLabel, delayLabel, notice, renditionLabel } from '../../src/element/words.js';
import { streamOf, tokenOf } from '../../src/pages/address.js';
import { bestQuality, elapsed } from '../../src/pages/words.js';
import { ServerClock } from '../../src/playback/clock.js';
import { uris } from '../../src/playback/multivariant.js';
import { ApiError, sessionOf } from '../../src/stream/api.js';
import { backoffMs } from '../../src/stream/backoff.js';
import { denialOf } from '../../src/stream/denial.js';

describe('the server clock', () => {
  it('is unknown before a sample', () => expect(new ServerClock().at(0)).toBeNull());

  it('takes the middle of the round trip', () => {
    const clock = new ServerClock();
    clock.add({ sentMs: 1000, receivedMs: 1100, serverMs: 500_000 });
    expect(clock.at(1050)).toBe(500_000);
    expect(clock.at(2050)).toBe(501_000);
  });

  it('keeps the sample with the shortest round trip while it is fresh', () => {
    const clock = new ServerClock();
    clock.add({ sentMs: 0, receivedMs: 20, serverMs: 1_000_010 });
    clock.add({ sentMs: 100, receivedMs: 900, serverMs: 1_000_999 });
    expect(clock.at(20)).toBe(1_000_020);
    clock.add({ sentMs: 1_000_000, receivedMs: 1_000_800, serverMs: 2_000_500 });
    expect(clock.at(1_000_400)).toBe(2_000_500);
  });
});

describe('backoff', () => {
  it('doubles up to its cap and spreads over half of the step', () => {
    expect(backoffMs(0, 1000, 8000, 0)).toBe(500);
    expect(backoffMs(0, 1000, 8000, 1)).toBe(1000);
    expect(backoffMs(2, 1000, 8000, 1)).toBe(4000);
    expect(backoffMs(1000, 1000, 8000, 1)).toBe(8000);
  });
});

describe('the stream in the address', () => {
  it('is read from every page that has one', () => {
    expect(streamOf('/watch/demo')).toBe('demo');
    expect(streamOf('/embed/a_b-1/')).toBe('a_b-1');
    expect(streamOf('/studio/demo')).toBe('demo');
  });

  it('is refused when no stream can be called so', () => {
    for (const path of ['/watch/', '/watch/-x', '/watch/A', '/watch/%00', '/watch/%zz', '/watch/a/b', `/watch/${'a'.repeat(65)}`, '/']) {
      expect(streamOf(path), path).toBeNull();
    }
  });
});

describe('words', () => {
  it('name renditions as people do', () => {
    expect(renditionLabel({ name: 'v-720p30', height: 720, fps: 30, bitrate: 1 })).toBe('720p');
    expect(renditionLabel({ name: 'v-source', height: 1080, fps: 59.94, bitrate: 1 })).toBe('1080p60 source');
    expect(renditionLabel({ name: 'v-x', height: 0, fps: 0, bitrate: 1 })).toBe('v-x');
    expect(bitrateLabel(2_500_000)).toBe('2.5 Mbit/s');
    expect(bitrateLabel(96_000)).toBe('96 kbit/s');
  });

  it('say delays and times', () => {
    expect(delayLabel(1.84)).toBe('1.8 s');
    expect(delayLabel(-0.2)).toBe('0.0 s');
    expect(delayLabel(125)).toBe('2 min');
    const now = Date.parse('2026-01-01T13:05:30Z');
    expect(elapsed('2026-01-01T13:05:00Z', now)).toBe('just now');
    expect(elapsed('2026-01-01T12:53:00Z', now)).toBe('12 min');
    expect(elapsed('2026-01-01T10:00:00Z', now)).toBe('3 h 05 min');
    expect(elapsed('nonsense', now)).toBe('');
  });

  it('find the best picture', () => {
    expect(bestQuality([{ kind: 'audio' }, { kind: 'video', height: 720, frame_rate: 30 }, { kind: 'video', height: 1080, frame_rate: 60 }])).toBe('1080p60');
    expect(bestQuality([])).toBe('');
  });
});

describe('keys', () => {
  const press = (key: string, modifiers = {}) => keyOf({ key, ctrlKey: false, metaKey: false, altKey: false, ...modifiers });

  it('are found in either case', () => {
    expect(press('k')).toBe('k');
    expect(press('M')).toBe('m');
    expect(press('ArrowLeft')).toBe('ArrowLeft');
  });

  it('leave the browser’s own shortcuts alone', () => {
    expect(press('l', { ctrlKey: true })).toBeNull();
    expect(press('f', { metaKey: true })).toBeNull();
    expect(press('x')).toBeNull();
  });
});

describe('the multivariant playlist', () => {
  it('gives the addresses of its media playlists', () => {
    const text = '#EXTM3U\r\n#EXT-X-STREAM-INF:BANDWIDTH=1\r\nabc/-/v-source/index.m3u8\r\n\r\n#EXT-X-STREAM-INF:BANDWIDTH=2\nabc/-/v-360p30/index.m3u8\n';
    expect(uris(text, 'http://edge.test/live/demo/index.m3u8')).toEqual([
      'http://edge.test/live/demo/abc/-/v-source/index.m3u8',
      'http://edge.test/live/demo/abc/-/v-360p30/index.m3u8',
    ]);
  });
});

describe('a watch link', () => {
  it('has its token in the fragment', () => {
    expect(tokenOf('#token=a.b-_c.d')).toBe('a.b-_c.d');
    expect(tokenOf('#other=1&token=a.b.c')).toBe('a.b.c');
    for (const hash of ['', '#', '#token=', '#token=%20', '#a.b.c']) expect(tokenOf(hash)).toBeNull();
  });

  it('gives a session that the playlists name', () => {
    const hls = (session: string) => `#EXTM3U\n#EXT-X-MEDIA:TYPE=AUDIO,URI="abc/${session}/a-aac-128k/index.m3u8"\n#EXT-X-STREAM-INF:BANDWIDTH=1\nabc/${session}/v-source/index.m3u8\n`;
    expect(sessionOf(hls('AZ_9-'))).toBe('AZ_9-');
    expect(sessionOf(hls('-'))).toBeNull();
    expect(sessionOf('<MPD>\n<Location>manifest.mpd?session=AZ_9-</Location>\n<SegmentTemplate media="abc/AZ_9-/v-source/$Number$.m4s"/>')).toBe('AZ_9-');
    expect(sessionOf('<MPD><SegmentTemplate media="abc/-/v-source/$Number$.m4s"/></MPD>')).toBeNull();
    expect(sessionOf('')).toBeNull();
  });

  it('is refused by names that stay, and each has its words', () => {
    const denial = (kind: string) => denialOf(new ApiError(401, 'some sentence', kind));
    expect(denial('token-needed')).toBe('needed');
    expect(denial('expired')).toBe('expired');
    expect(denial('revoked')).toBe('revoked');
    expect(denial('in-use')).toBe('in-use');
    expect(denial('forbidden')).toBe('elsewhere');
    expect(denial('token')).toBe('invalid');
    expect(denial('not-live')).toBeNull();
    expect(denial('toString')).toBeNull();
    expect(denialOf(new Error('no answer'))).toBeNull();
    const all = ['needed', 'invalid', 'expired', 'revoked', 'ended', 'in-use', 'elsewhere'] as const;
    const titles = all.map((why) => notice('denied', '', why)?.title);
    expect(new Set(titles).size).toBe(all.length);
  });
});
