/** The stream's name in a page's address: `/watch/{stream}`, `/embed/{stream}`, `/studio/{stream}`. */
export function streamOf(pathname: string): string | null {
  const name = /^\/(?:watch|embed|studio)\/([^/]+)\/?$/.exec(pathname)?.[1];
  if (name === undefined) return null;
  try {
    const decoded = decodeURIComponent(name);
    return /^[a-z0-9][a-z0-9_-]{0,63}$/.test(decoded) ? decoded : null;
  } catch {
    return null;
  }
}

/** The token in the fragment of a watch link: `#token=…`. */
export function tokenOf(hash: string): string | null {
  const token = new URLSearchParams(hash.replace(/^#/, '')).get('token')?.trim();
  return token === '' ? null : (token ?? null);
}
