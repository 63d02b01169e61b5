// The page is built of elements and text alone, never of markup in strings.

type Child = Node | string | null | false;

export function el<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Record<string, string | number | boolean> = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === false) continue;
    node.setAttribute(name, value === true ? "" : String(value));
  }
  for (const child of children) if (child !== null && child !== false) node.append(child);
  return node;
}

export function byId<T extends HTMLElement = HTMLElement>(id: string): T {
  const node = document.getElementById(id);
  if (node === null) throw new Error(`no element #${id}`);
  return node as T;
}

/** Writes only what changed: a screen reader hears of every write inside a live region. */
export function say(node: Element, text: string): void {
  if (node.textContent !== text) node.textContent = text;
}

/** The classes s0 to s5 give an element the colour of a version. */
export function colour(index: number): string {
  return `s${index % 6}`;
}

/** Rebuilds the children only when what they show has changed, so that focus and selection stay where they are. */
export function rebuilder(node: Element): (key: unknown, make: () => Node[]) => void {
  let last: string | null = null;
  return (key, make) => {
    const text = JSON.stringify(key);
    if (text === last) return;
    last = text;
    node.replaceChildren(...make());
  };
}
