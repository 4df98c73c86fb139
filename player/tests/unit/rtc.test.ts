import { describe, expect, it } from 'vitest';
import { iceServers } from '../../src/playback/ice.js';
import { estimatedDelayS, read, unixMs } from '../../src/playback/rtc-stats.js';
import { choose, parse } from '../../src/playback/rungs.js';
import { rows } from '../../src/element/statistics.js';

describe('ICE servers', () => {
  it('are read from Link headers, joined or quoted as they come', () => {
    const link =
      '<stun:stun.example.org>; rel="ice-server", <turn:turn.example.org?transport=udp>; rel="ice-server"; username="1700:a,b"; credential="s;e\\"cret"; credential-type="password", ' +
      '</style.css>; rel=preload, <https://example.org>; rel="ice-server"';
    expect(iceServers(link)).toEqual([
      { urls: 'stun:stun.example.org' },
      { urls: 'turn:turn.example.org?transport=udp', username: '1700:a,b', credential: 's;e"cret' },
    ]);
    expect(iceServers(null)).toEqual([]);
  });
});

const report = (more: Record<string, unknown> = {}): [string, unknown][] => [
  ['V', { type: 'inbound-rtp', kind: 'video', timestamp: 1000, framesDecoded: 30, framesDropped: 1, packetsReceived: 100, packetsLost: 2, bytesReceived: 90_000, jitterBufferDelay: 1.5, jitterBufferEmittedCount: 30, codecId: 'C', ...more }],
  ['A', { type: 'inbound-rtp', kind: 'audio', packetsReceived: 50, packetsLost: 0, bytesReceived: 10_000, codecId: 'D' }],
  ['C', { type: 'codec', mimeType: 'video/H264', sdpFmtpLine: 'packetization-mode=1;profile-level-id=42e01f' }],
  ['D', { type: 'codec', mimeType: 'audio/opus' }],
  ['T', { type: 'transport', selectedCandidatePairId: 'P' }],
  ['P', { type: 'candidate-pair', localCandidateId: 'L', remoteCandidateId: 'R', currentRoundTripTime: 0.04 }],
  ['L', { type: 'local-candidate', candidateType: 'prflx', protocol: 'udp' }],
  ['R', { type: 'remote-candidate', candidateType: 'host', protocol: 'udp' }],
];

describe('statistics of a connection', () => {
  it('are read from what browsers say', () => {
    const reading = read(report());
    expect(reading).toMatchObject({ codec: 'H264 42e01f, opus', bytes: 100_000, packets: 150, packetsLost: 2, rttS: 0.04, pair: 'prflx to host, udp', playoutUnixMs: null });
  });

  it('know nothing before the first packet, and say so', () => {
    expect(read([])).toMatchObject({ codec: null, rttS: null, pair: null, framesDecoded: 0 });
  });

  it('take a clock from 1900 or from 1970', () => {
    const now = Date.UTC(2026, 10, 23);
    expect(unixMs(now + 2_208_988_800_000)).toBe(now);
    expect(unixMs(now)).toBe(now);
    expect(read(report({ estimatedPlayoutTimestamp: now + 2_208_988_800_000 })).playoutUnixMs).toBe(now);
  });

  it('estimate the delay from half the round trip and the wait of the latest frames', () => {
    const before = read(report());
    const now = read(report({ jitterBufferDelay: 2.1, jitterBufferEmittedCount: 60 }));
    expect(estimatedDelayS(before, now)).toBeCloseTo(0.02 + 0.02);
    expect(estimatedDelayS(now, now)).toBeNull();
  });
});

describe('the rungs that a server says', () => {
  it('are read best first, with the frame rate of their names', () => {
    const said = { rungs: [{ name: 'v-720p60', height: 720, bps: 3e6, more: 1 }, { name: 'v-source', height: 480, bps: 1e6 }], current: 'v-source', choice: null, paused: false, more: {} };
    expect(parse(JSON.stringify(said))).toEqual({
      rungs: [{ name: 'v-720p60', height: 720, fps: 60, bitrate: 3e6 }, { name: 'v-source', height: 480, fps: 0, bitrate: 1e6 }],
      current: 'v-source',
      choice: null,
      paused: false,
    });
    expect(choose('v-720p60')).toBe('{"choose":"v-720p60"}');
    expect(choose(null)).toBe('{"choose":null}');
  });

  it('are passed over where they cannot be read, or are too many or too long', () => {
    const many = Array.from({ length: 33 }, (_, n) => ({ name: `v-${n}` }));
    for (const bad of [new ArrayBuffer(2), '', '{', 'null', '3', '{"rungs":{}}', JSON.stringify({ rungs: [], more: 'x'.repeat(4096) }), JSON.stringify({ rungs: many })]) expect(parse(bad)).toBeNull();
    expect(parse('{"rungs":[null,{"name":7},{"name":"v-1","height":-2,"bps":"x"}],"current":7,"paused":1}')).toEqual({ rungs: [{ name: 'v-1', height: 0, fps: 0, bitrate: 0 }], current: null, choice: null, paused: false });
  });
});

describe('the panel', () => {
  const stats = {
    transport: 'webrtc' as const,
    delayS: 0.213,
    delayEstimated: true,
    targetS: null,
    distanceS: null,
    bufferS: 0,
    rate: 1,
    level: null,
    levels: [],
    stalls: 0,
    framesDecoded: 900,
    framesDropped: 3,
    width: 1280,
    height: 720,
    fps: 29.9,
    details: { codec: 'H264 42e01f, opus', bitrate: 2_150_000, bandwidth: null, rtc: { packets: 990, packetsLost: 10, jitterBufferS: 0.021, rttS: 0.034, pair: 'prflx to host, udp' } },
  };

  it('says of WebRTC what a peer connection knows, and where a number is an estimate', () => {
    const shown = new Map(rows(stats));
    expect(shown.get('Delay')).toBe('about 0.21 s');
    expect(shown.get('Picture')).toBe('1280×720, 30 fps');
    expect(shown.get('Lost')).toBe('10 of 1000 packets');
    expect(shown.get('Jitter buffer')).toBe('21 ms');
    expect(shown.has('Buffer')).toBe(false);
  });

  it('says of LL-HLS what its playlists and its buffer know', () => {
    const shown = new Map(rows({ ...stats, transport: 'll-hls', delayEstimated: false, distanceS: 1.2, targetS: 1, bufferS: 0.9, details: { codec: 'avc1.64001f, mp4a.40.2', bitrate: 3e6, bandwidth: 2e7, rtc: null } }));
    expect(shown.get('Transport')).toBe('LL-HLS');
    expect(shown.get('To live edge')).toBe('1.20 s of 1.00 s');
    expect(shown.get('Network')).toBe('20.0 Mbit/s');
    expect(shown.has('Round trip')).toBe(false);
  });
});
