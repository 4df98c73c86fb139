/** Copies text, on plain http:// too, where browsers withhold the clipboard interface. */
export async function copy(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement('textarea');
    area.value = text;
    area.readOnly = true;
    area.className = 'offscreen';
    document.body.append(area);
    area.select();
    // eslint-disable-next-line @typescript-eslint/no-deprecated -- the one way there is without a secure context
    const copied = document.execCommand('copy');
    area.remove();
    return copied;
  }
}
