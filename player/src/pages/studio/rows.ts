/** A list that is renewed every few seconds: what is still there stays the same element, with the focus that it may have. */
export class Rows<T> {
  readonly #list: HTMLElement;
  readonly #id: (item: T) => string;
  readonly #make: (item: T) => { row: HTMLElement; update(item: T): void };
  readonly #rows = new Map<string, { row: HTMLElement; update(item: T): void }>();

  constructor(list: HTMLElement, id: (item: T) => string, make: (item: T) => { row: HTMLElement; update(item: T): void }) {
    this.#list = list;
    this.#id = id;
    this.#make = make;
  }

  show(items: T[]): void {
    const kept = new Set(items.map(this.#id));
    for (const [id, { row }] of this.#rows) {
      if (kept.has(id)) continue;
      row.remove();
      this.#rows.delete(id);
    }
    items.forEach((item, index) => {
      const id = this.#id(item);
      let known = this.#rows.get(id);
      if (!known) this.#rows.set(id, (known = this.#make(item)));
      known.update(item);
      if (this.#list.children[index] !== known.row) this.#list.insertBefore(known.row, this.#list.children[index] ?? null);
    });
  }
}
