// What stands for the media server: a page that draws a clock and hums, and answers every WHEP offer with both.
/** @typedef {import('playwright-core').Page} Page */

/**
 * @param {import('playwright-core').Browser} browser
 * @returns {Promise<import('../../mock/server.js').Whep & { offers: string[], gone: string[], page: Page, freeze: () => Promise<void>, hangUp: () => Promise<void>, refuse: import('../../mock/server.js').WhepRefusal | 'silence' | null, close: () => Promise<void> }>}
 */
export async function sender(browser) {
  const page = await browser.newPage();
  await page.evaluate(() => {
    const canvas = document.body.appendChild(document.createElement('canvas'));
    [canvas.width, canvas.height] = [640, 360];
    const context = /** @type {CanvasRenderingContext2D} */ (canvas.getContext('2d'));
    setInterval(() => {
      const hue = (performance.now() / 20) % 360;
      context.fillStyle = `hsl(${hue} 80% 55%)`;
      context.fillRect(0, 0, 640, 360);
      context.fillStyle = '#fff';
      context.font = '96px sans-serif';
      context.fillText((performance.now() / 1000).toFixed(2), 180, 210);
    }, 33);
    const picture = canvas.captureStream(30);
    const audio = new AudioContext();
    const tone = new OscillatorNode(audio, { frequency: 220 });
    const out = audio.createMediaStreamDestination();
    tone.connect(out);
    tone.start();
    const tracks = [...picture.getVideoTracks(), ...out.stream.getAudioTracks()];
    /** @type {Map<string, RTCPeerConnection>} */
    const peers = new Map();
    Object.assign(window, {
      peers,
      tracks,
      answer: async (/** @type {string} */ offer, /** @type {string} */ session) => {
        const peer = new RTCPeerConnection();
        peers.set(session, peer);
        await peer.setRemoteDescription({ type: 'offer', sdp: offer });
        for (const track of tracks) peer.addTrack(track.clone());
        for (const transceiver of peer.getTransceivers()) {
          const all = /** @type {RTCRtpTransceiver & { getHeaderExtensionsToNegotiate?: () => { uri: string, direction: string }[], setHeaderExtensionsToNegotiate?: (all: unknown) => void }} */ (transceiver);
          const extensions = all.getHeaderExtensionsToNegotiate?.();
          for (const extension of extensions ?? []) if (extension.uri.endsWith('abs-capture-time')) extension.direction = 'sendrecv';
          if (extensions) all.setHeaderExtensionsToNegotiate?.(extensions);
        }
        await peer.setLocalDescription(await peer.createAnswer());
        await new Promise((resolve) => {
          const done = () => peer.iceGatheringState === 'complete' && resolve(undefined);
          peer.addEventListener('icegatheringstatechange', done);
          done();
        });
        return peer.localDescription?.sdp;
      },
    });
  });
  const self = {
    page,
    /** @type {string[]} */
    offers: [],
    /** Sessions that were left. @type {string[]} */
    gone: [],
    /** @type {import('../../mock/server.js').WhepRefusal | 'silence' | null} */
    refuse: null,
    /** @param {string} offer @param {string} session @returns {Promise<string | import('../../mock/server.js').WhepRefusal>} */
    async answer(offer, session) {
      self.offers.push(offer);
      if (self.refuse === 'silence') return new Promise(() => undefined);
      if (self.refuse) return self.refuse;
      return page.evaluate(([offer, session]) => /** @type {{ answer: (offer: string, session: string) => Promise<string> }} */ (/** @type {unknown} */ (window)).answer(offer ?? '', session ?? ''), [offer, session]);
    },
    /** @param {string} session */
    left(session) {
      self.gone.push(session);
      void page.evaluate((session) => /** @type {{ peers: Map<string, RTCPeerConnection> }} */ (/** @type {unknown} */ (window)).peers.get(session)?.close(), session).catch(() => undefined);
    },
    /** Nothing is sent any more, and nobody says so. */
    async freeze() {
      await page.evaluate(() => /** @type {{ peers: Map<string, RTCPeerConnection> }} */ (/** @type {unknown} */ (window)).peers.forEach((peer) => peer.getSenders().forEach((sender) => void sender.replaceTrack(null))));
    },
    /** Every connection is closed in due form. */
    async hangUp() {
      await page.evaluate(() => /** @type {{ peers: Map<string, RTCPeerConnection> }} */ (/** @type {unknown} */ (window)).peers.forEach((peer) => peer.close()));
    },
    close: () => page.close(),
  };
  return self;
}
