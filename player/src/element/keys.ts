/** Which key does what. One table: the element obeys it and the documentation prints it. */

export type Command =
  | 'toggle-play'
  | 'toggle-mute'
  | 'toggle-fullscreen'
  | 'toggle-pip'
  | 'live'
  | 'back'
  | 'forward'
  | 'louder'
  | 'quieter'
  | 'toggle-stats';

const keys: Record<string, Command> = {
  ' ': 'toggle-play',
  k: 'toggle-play',
  m: 'toggle-mute',
  f: 'toggle-fullscreen',
  p: 'toggle-pip',
  l: 'live',
  ArrowLeft: 'back',
  ArrowRight: 'forward',
  ArrowUp: 'louder',
  ArrowDown: 'quieter',
  i: 'toggle-stats',
};

/** The command of a key press, or `null` when the press belongs to somebody else. */
export function commandOf(event: Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'metaKey' | 'altKey'>): Command | null {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return keys[key] ?? null;
}
