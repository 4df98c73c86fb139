// What stands for the media server: a page that draws a clock and hums, and answers every WHEP offer with both.
/** @typedef {import('playwright-core').Page} Page */

/**
 * @param {import('playwright-core').Browser} browser
 * @returns {Promise<import('../../mock/server.js').Whep & { offers: string[], gone: string[], page: Page, say: (message: unknown) => Promise<void>, chosen: () => Promise<unknown[]>, picture: (sent: boolean) => Promise<void>, freeze: () => Promise<void>, hangUp: () => Promise<void>, refuse: import('../../mock/server.js').WhepRefusal | 'silence' | null, close: () => Promise<void> }>}
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
    /** @type {RTCDataChannel[]} */
    const channels = [];
    /** @type {unknown[]} */
    const chosen = [];
    const rungs = { said: '' };
    Object.assign(window, {
      peers,
      chosen,
      say: (/** @type {string} */ said) => {
        rungs.said = said;
        for (const channel of channels) if (channel.readyState === 'open') channel.send(said);
      },
      tracks,
      answer: async (/** @type {string} */ offer, /** @type {string} */ session) => {
        const peer = new RTCPeerConnection();
        peers.set(session, peer);
        peer.addEventListener('datachannel', ({ channel }) => {
          if (channel.label !== 'ghost-live') return;
          channels.push(channel);
          channel.addEventListener('message', (/** @type {MessageEvent<string>} */ { data }) => chosen.push(JSON.parse(data)));
          if (rungs.said) channel.send(rungs.said);
        });
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
    /** Says something on every data channel, those to come too. @param {unknown} message */
    async say(message) {
      await page.evaluate((said) => /** @type {{ say: (said: string) => void }} */ (/** @type {unknown} */ (window)).say(said), typeof message === 'string' ? message : JSON.stringify(message));
    },
    /** What viewers chose so far. @returns {Promise<unknown[]>} */
    chosen: () => page.evaluate(() => /** @type {{ chosen: unknown[] }} */ (/** @type {unknown} */ (window)).chosen),
    /** The sound goes on without the picture, or with it again. @param {boolean} sent */
    async picture(sent) {
      await page.evaluate((sent) => {
        const { peers, tracks } = /** @type {{ peers: Map<string, RTCPeerConnection>, tracks: MediaStreamTrack[] }} */ (/** @type {unknown} */ (window));
        for (const peer of peers.values()) {
          const sender = peer.getTransceivers().find(({ receiver }) => receiver.track.kind === 'video')?.sender;
          void sender?.replaceTrack(sent ? (tracks.find(({ kind }) => kind === 'video') ?? null) : null);
        }
      }, sent);
    },
    /** Every connection is closed in due form. */
    async hangUp() {
      await page.evaluate(() => /** @type {{ peers: Map<string, RTCPeerConnection> }} */ (/** @type {unknown} */ (window)).peers.forEach((peer) => peer.close()));
    },
    close: () => page.close(),
  };
  return self;
}
