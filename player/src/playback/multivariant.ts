/** The addresses of the media playlists in a multivariant playlist. */
export function uris(multivariant: string, base: string): string[] {
  return multivariant
    .split(/\r?\n/)
    .filter((line) => line && !line.startsWith('#'))
    .map((line) => new URL(line, base).href);
}
