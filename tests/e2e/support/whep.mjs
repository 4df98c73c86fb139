// A WHEP viewer in a page, without our player: the browser's own peer connection.
import { readDelay } from './clock.mjs';

/** Runs in the page: offers to `url`, and shows what comes in `window.video`. Gives what was answered. */
async function watch({ url, token }) {
  const began = performance.now();
  const peer = new RTCPeerConnection();
  const video = document.createElement('video');
  Object.assign(video, { autoplay: true, playsInline: true });
  document.body.append(video);
  Object.assign(window, { peer, video, painted: 0, firstFrameMs: null, state: 'new' });
  const next = () => {
    window.painted += 1;
    window.firstFrameMs ??= performance.now() - began;
    video.requestVideoFrameCallback(next);
  };
  video.requestVideoFrameCallback(next);
  const stream = new MediaStream();
  peer.ontrack = ({ track, receiver }) => {
    receiver.jitterBufferTarget = 0;
    stream.addTrack(track);
    video.srcObject = stream;
  };
  peer.onconnectionstatechange = () => { window.state = peer.connectionState; };
  for (const kind of ['video', 'audio']) peer.addTransceiver(kind, { direction: 'recvonly' });
  await peer.setLocalDescription();
  const headers = { 'content-type': 'application/sdp' };
  if (token) headers.authorization = `Bearer ${token}`;
  const response = await fetch(url, { method: 'POST', headers, body: peer.localDescription.sdp });
  const body = await response.text();
  const answer = { status: response.status, type: response.headers.get('content-type'), etag: response.headers.get('etag'), body };
  if (response.status !== 201) return answer;
  answer.location = new URL(response.headers.get('location'), url).href;
  await peer.setRemoteDescription({ type: 'answer', sdp: body });
  return answer;
}

/** Runs in the page: what of the peer connection's statistics tests look at. */
async function statistics() {
  const found = { state: window.state, firstFrameMs: window.firstFrameMs, painted: window.painted, height: window.video.videoHeight };
  for (const report of (await window.peer.getStats()).values()) {
    if (report.type === 'inbound-rtp') {
      found[report.kind] = { bytes: report.bytesReceived, packets: report.packetsReceived, lost: report.packetsLost, frames: report.framesDecoded, keyFrames: report.keyFramesDecoded, nacks: report.nackCount, plis: report.pliCount, energy: report.totalAudioEnergy };
    }
    if (report.type === 'candidate-pair' && report.nominated) found.rttMs = report.currentRoundTripTime * 1000;
  }
  return found;
}

/** A viewer in a page of its own. */
export async function whepViewer(browser) {
  const context = await browser.newContext();
  const page = await context.newPage();
  return {
    page,
    watch: (url, token) => page.evaluate(watch, { url, token }),
    stats: () => page.evaluate(statistics),
    delay: () => page.evaluate(`(${readDelay})(window.video)`),
    close: () => context.close(),
  };
}
