// Tokens: made by the command line and by the API, taken from a real encoder.
import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { publishClock } from './support/clock.mjs';
import { run } from './support/edge-checks.mjs';
import { BINARY, SHORT_LADDER, startServer, until } from './support/server.mjs';

describe('a publisher with a token', () => {
  let server;

  before(async () => { server = await startServer({ config: `${SHORT_LADDER}[streams.main]\n[streams.other]\n` }); });
  after(async () => { await server?.stop(); });

  const cli = async (...args) => {
    const { code, stdout, stderr } = await run(BINARY, ['token', ...args, '--config', `${server.folder}/ghost-live.toml`, '--data', server.folder]);
    assert.equal(code, 0, stderr);
    return stdout.trim();
  };
  const live = async (stream) => (await server.json(`/api/streams/${stream}`)).live;
  const address = (key) => `rtmps://127.0.0.1:${server.ports.rtmps}/live/${key}`;
  const refused = async (key, why) => {
    const encoder = publishClock(address(key));
    try {
      await until('the encoder is refused', () => encoder.encoder.exitCode, 10);
    } finally {
      await encoder.kill();
    }
    await until(`the log says: ${why}`, () => why.test(server.output()), 5);
  };
  const plays = async (key, stream) => {
    const encoder = publishClock(address(key), { fps: 15 });
    try {
      await until(`${stream} is live`, () => live(stream), 30);
    } finally {
      await encoder.stop();
    }
    await until(`${stream} is over`, async () => !(await live(stream)));
  };

  test('gets in by one of the command line, which its manager can also mint by the API', async () => {
    await plays(await cli('mint', '--stream', 'main', '--act', 'publish', '--subject', 'studio north'), 'main');

    const manager = await cli('mint', '--stream', 'o*', '--act', 'manage', '--for', '1h');
    const response = await fetch(`${server.url}/api/tokens`, {
      method: 'POST',
      headers: { authorization: `Bearer ${manager}`, 'content-type': 'application/json' },
      body: JSON.stringify({ stream: 'o*', act: 'publish', sub: 'anna' }),
    });
    assert.equal(response.status, 200);
    const { token } = await response.json();
    // One for several streams needs the stream in the address.
    await plays(`other?key=${token}`, 'other');
    await refused(token, /the token is for another stream/);
    await refused(`main?key=${token}`, /the token is for another stream/);
  });

  test('is refused with one that is void, for something else, or of a key that was taken out of use', async () => {
    await refused(await cli('mint', '--stream', 'main', '--act', 'publish', '--for', '0s'), /the token has expired/);
    await refused(await cli('mint', '--stream', 'main', '--act', 'watch'), /does not allow to publish/);
    await refused(await cli('mint', '--stream', 'main', '--act', 'publish', '--ip', '192.0.2.0/24'), /cannot be used from this address/);
    const good = await cli('mint', '--stream', 'main', '--act', 'publish');
    await refused(`${good.slice(0, -4)}AAAA`, /signature is wrong/);
    const key = async () => (await server.json('/.well-known/jwks.json')).keys.map(({ kid }) => kid).join();
    const before = await key();
    await cli('rotate', '--overlap', '0s');
    await until('the server has taken the new key up', async () => (await key()) !== before, 5);
    await refused(good, /a key that is not known here/);
    await plays(await cli('mint', '--stream', 'main', '--act', 'publish'), 'main');
    // None of them is in the log.
    assert.ok(!server.output().includes(good.split('.')[1]), 'a token is in the log');
    assert.equal((await server.json('/.well-known/jwks.json')).keys.length, 1);
  });

  // What the product promises: a running publisher is out so soon after what ends it.
  const BOUND_MS = 2000;
  /** Publishes with the token to stream `main`, does `act` once it is live, and gives when encoder and broadcast were both over. */
  const untilOver = async (token, act) => {
    const encoder = publishClock(address(token), { fps: 15 });
    try {
      await until('main is live', () => live('main'), 30);
      await act();
      const over = [() => encoder.encoder.exitCode !== null, async () => !(await live('main'))];
      return Math.max(...await Promise.all(over.map(async (check) => {
        await until('encoder and broadcast are over', check, 40);
        return Date.now();
      })));
    } finally {
      await encoder.kill();
    }
  };

  test('is cut off within two seconds when its token is revoked, and does not come back', async () => {
    const manager = await cli('mint', '--stream', 'main', '--act', 'manage');
    const token = await cli('mint', '--stream', 'main', '--act', 'publish');
    const { iss, jti } = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
    let began;
    const ended = await untilOver(token, async () => {
      began = Date.now();
      const response = await fetch(`${server.url}/api/revocations`, {
        method: 'POST',
        headers: { authorization: `Bearer ${manager}` },
        body: JSON.stringify({ what: { token: { iss, jti } }, streams: 'main' }),
      });
      assert.equal(response.status, 200, await response.text());
    });
    assert.ok(ended - began < BOUND_MS, `${ended - began} ms`);
    await refused(token, /the token has been revoked/);
  });

  test('is cut off within two seconds when sess_exp passes', async () => {
    const token = await cli('mint', '--stream', 'main', '--act', 'publish', '--session', '15s');
    const { sess_exp } = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
    const late = await untilOver(token, async () => assert.ok(Date.now() < sess_exp * 1000, 'it was live before')) - sess_exp * 1000;
    assert.ok(late >= 0 && late < BOUND_MS, `${late} ms after sess_exp`);
    await refused(token, /the token has expired/);
  });
});
