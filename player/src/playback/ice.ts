/** ICE servers from `Link` headers, as WHIP (RFC 9725 section 4.6) and WHEP give them. */

/**
 * `<turn:turn.example.org?transport=udp>; rel="ice-server"; username="user"; credential="secret"; credential-type="password"`, several of
 * them joined by commas. Links of other relations are left out.
 */
export function iceServers(link: string | null): RTCIceServer[] {
  const servers: RTCIceServer[] = [];
  for (const [, url = '', parameters = ''] of (link ?? '').matchAll(/<([^>]*)>((?:\s*;\s*[\w-]+\s*=\s*(?:"(?:[^"\\]|\\.)*"|[^\s";,]+))*)/g)) {
    const given = new Map<string, string>();
    for (const [, name = '', quoted, plain = ''] of parameters.matchAll(/;\s*([\w-]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s";,]+))/g)) {
      given.set(name.toLowerCase(), quoted?.replace(/\\(.)/g, '$1') ?? plain);
    }
    if (given.get('rel') !== 'ice-server' || !/^(stuns?|turns?):/.test(url)) continue;
    const [username, credential] = [given.get('username'), given.get('credential')];
    servers.push({ urls: url, ...(username === undefined ? {} : { username }), ...(credential === undefined ? {} : { credential }) });
  }
  return servers;
}
