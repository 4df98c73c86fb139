/** What `RTCPeerConnection.getStats` says, read into one picture of a session that receives one video and one audio track. */

export interface RtcReading {
  /** Of the reading, milliseconds. */
  atMs: number;
  framesDecoded: number;
  framesDropped: number;
  videoPackets: number;
  audioPackets: number;
  bytes: number;
  packetsLost: number;
  packets: number;
  /** `H264 42e01f, opus`. */
  codec: string | null;
  /** Seconds that all frames together waited in the jitter buffer, and how many those were. */
  jitterBufferS: number;
  jitterBufferFrames: number;
  /** Round trip of the selected pair, seconds; `null` when not known. */
  rttS: number | null;
  /** The selected pair: `host to prflx, udp`. */
  pair: string | null;
  /** The sender's clock on the frame that is played, milliseconds since 1970; `null` without a sender report. */
  playoutUnixMs: number | null;
}

/** What the standard has and the DOM's types do not, or not all of it. */
type Entry = Record<string, string | number | boolean | undefined>;

/** From 1900, where NTP counts from, to 1970, milliseconds. */
const NTP_EPOCH_MS = 2_208_988_800_000;

/** Milliseconds since 1970 of a time stamp that browsers give since 1900 or since 1970. */
export function unixMs(stampMs: number): number {
  return stampMs > NTP_EPOCH_MS + 1e12 ? stampMs - NTP_EPOCH_MS : stampMs;
}

export function read(report: Iterable<[string, unknown]>): RtcReading {
  const entries = new Map([...report] as [string, Entry][]);
  const all = [...entries.values()];
  const inbound = (kind: string) => all.find((entry) => entry.type === 'inbound-rtp' && entry.kind === kind) ?? {};
  const [video, audio] = [inbound('video'), inbound('audio')];
  const transport = all.find((entry) => entry.type === 'transport');
  const pair = entries.get(String(transport?.selectedCandidatePairId)) ?? all.find((entry) => entry.type === 'candidate-pair' && entry.nominated && entry.state === 'succeeded');
  const [local, remote] = [entries.get(String(pair?.localCandidateId)), entries.get(String(pair?.remoteCandidateId))];
  const playout = video.estimatedPlayoutTimestamp;
  return {
    atMs: number(video.timestamp),
    framesDecoded: number(video.framesDecoded),
    framesDropped: number(video.framesDropped),
    videoPackets: number(video.packetsReceived),
    audioPackets: number(audio.packetsReceived),
    bytes: number(video.bytesReceived) + number(audio.bytesReceived),
    packetsLost: number(video.packetsLost) + number(audio.packetsLost),
    packets: number(video.packetsReceived) + number(audio.packetsReceived),
    codec: [video, audio].map((stream) => codec(entries.get(String(stream.codecId)))).filter(Boolean).join(', ') || null,
    jitterBufferS: number(video.jitterBufferDelay),
    jitterBufferFrames: number(video.jitterBufferEmittedCount),
    rttS: typeof pair?.currentRoundTripTime === 'number' ? pair.currentRoundTripTime : null,
    pair: local && remote ? `${local.candidateType} to ${remote.candidateType}, ${protocol(local)}` : null,
    playoutUnixMs: typeof playout === 'number' && playout > 0 ? unixMs(playout) : null,
  };
}

function codec(entry: Entry | undefined): string {
  const name = String(entry?.mimeType ?? '').split('/')[1] ?? '';
  const profile = /profile-level-id=(\w+)/.exec(String(entry?.sdpFmtpLine ?? ''))?.[1];
  return profile ? `${name} ${profile}` : name;
}

function protocol(local: Entry): string {
  return local.relayProtocol === undefined ? String(local.protocol) : `${local.protocol} by ${local.relayProtocol} relay`;
}

function number(value: string | number | boolean | undefined): number {
  return typeof value === 'number' ? value : 0;
}

/** From the sender's packets to the picture, where no time stamp says it: half the round trip and the wait in the jitter buffer, seconds. */
export function estimatedDelayS(before: RtcReading | null, now: RtcReading): number | null {
  const frames = now.jitterBufferFrames - (before?.jitterBufferFrames ?? 0);
  if (now.rttS === null || frames <= 0) return null;
  return now.rttS / 2 + (now.jitterBufferS - (before?.jitterBufferS ?? 0)) / frames;
}
