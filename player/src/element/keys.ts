/** Which keys are the player's. Two are our own; media-chrome's controller knows what the others do. */

const OWN = ['l', 'i'];
const CONTROLLER = [' ', 'k', 'm', 'f', 'p', 'ArrowLeft', 'ArrowRight', 'ArrowUp', 'ArrowDown'];

/** The key of a press in lower case, or `null` when the press belongs to somebody else. */
export function keyOf(event: Pick<KeyboardEvent, 'key' | 'ctrlKey' | 'metaKey' | 'altKey'>): string | null {
  if (event.ctrlKey || event.metaKey || event.altKey) return null;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  return OWN.includes(key) || CONTROLLER.includes(key) ? key : null;
}
