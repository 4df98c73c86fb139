/** The statistics over the picture: one list for every transport, with what each of them knows. */
import type { Stats } from '../stream/session.js';
import { h, setText } from './dom.js';
import { bitrateLabel, transportLabel } from './words.js';

export type Row = [term: string, value: string];

export function rows(stats: Omit<Stats, 'state'>): Row[] {
  const { details, transport } = stats;
  const rtc = details?.rtc ?? null;
  const level = stats.levels.find(({ name }) => name === stats.level);
  const frames = stats.framesDecoded + stats.framesDropped;
  const size = stats.width ? `${stats.width}×${stats.height}` : '–';
  const all: (Row | null)[] = [
    ['Transport', transport ? transportLabel(transport) : '–'],
    ['Delay', stats.delayS === null ? '–' : `${stats.delayEstimated ? 'about ' : ''}${seconds(stats.delayS)}`],
    ['Picture', stats.fps === null ? size : `${size}, ${Math.round(stats.fps)} fps`],
    ['Codecs', details?.codec ?? '–'],
    ['Bit rate', rate(details?.bitrate ?? level?.bitrate ?? null)],
    stats.level === null && transport !== 'webrtc' ? null : ['Rendition', stats.level ?? '–'],
    ['Dropped', `${stats.framesDropped} of ${frames} frames`],
    ['Stalls', String(stats.stalls)],
  ];
  if (rtc) {
    const sent = rtc.packets + rtc.packetsLost;
    all.push(
      ['Lost', `${rtc.packetsLost} of ${sent} packets`],
      ['Jitter buffer', milliseconds(rtc.jitterBufferS)],
      ['Round trip', milliseconds(rtc.rttS)],
      ['Path', rtc.pair ?? '–'],
    );
  } else if (transport !== 'webrtc') {
    all.push(
      ['To live edge', `${seconds(stats.distanceS)} of ${seconds(stats.targetS)}`],
      ['Buffer', seconds(stats.bufferS)],
      ['Rate', `${stats.rate.toFixed(2)}×`],
      details?.bandwidth ? ['Network', rate(details.bandwidth)] : null,
    );
  }
  return all.filter((row) => row !== null);
}

function seconds(value: number | null): string {
  return value === null ? '–' : `${value.toFixed(2)} s`;
}

function milliseconds(valueS: number | null): string {
  return valueS === null ? '–' : `${Math.round(valueS * 1000)} ms`;
}

function rate(bps: number | null): string {
  return bps === null ? '–' : bitrateLabel(bps);
}

export class Panel {
  readonly element: HTMLElement;
  readonly #list: HTMLElement;
  #terms = '';

  constructor(element: HTMLElement) {
    this.element = element;
    this.#list = element.querySelector('dl') ?? element.appendChild(h('dl'));
  }

  get hidden(): boolean {
    return this.element.hidden !== false;
  }

  set hidden(hidden: boolean) {
    this.element.hidden = hidden;
  }

  show(rows: Row[]): void {
    const terms = rows.map(([term]) => term).join('|');
    if (terms !== this.#terms) {
      this.#terms = terms;
      this.#list.replaceChildren(...rows.map(([term]) => h('div', {}, h('dt', {}, term), h('dd'))));
    }
    for (const [index, value] of this.#list.querySelectorAll('dd').entries()) setText(value, rows[index]?.[1] ?? '');
  }
}
