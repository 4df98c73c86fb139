// Ports for servers that a test starts as processes of their own, and must name before they listen.
import { createServer } from 'node:net';

// A port that the system gives out by itself may be the other end of somebody's connection a moment later: these lie below those
// (net.ipv4.ip_local_port_range begins at 32768), and test files that run side by side, each a process, begin far from each other.
const [FIRST, FILES, PER_FILE] = [20_000, 100, 120];
let given = 0;

/** A TCP port of 127.0.0.1 that nobody listens on; another at each call. */
export async function freePort() {
  while (given < PER_FILE) {
    const port = FIRST + (process.pid % FILES) * PER_FILE + given++;
    const server = createServer();
    const free = await new Promise((resolve) => server.once('error', () => resolve(false)).listen(port, '127.0.0.1', () => resolve(true)));
    if (!free) continue;
    await new Promise((resolve) => server.close(resolve));
    return port;
  }
  throw new Error(`all ${PER_FILE} ports of this test file are given away`);
}
