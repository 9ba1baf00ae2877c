// Find and make elements of the page.

export function find<T extends HTMLElement = HTMLElement>(id: string): T {
  return document.getElementById(id) as T;
}

export function make<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  properties: Partial<HTMLElementTagNameMap[K]> = {},
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

/** Show a PNG in base64. Small pictures are enlarged with sharp pixels. */
export function showPng(image: HTMLImageElement, png: string): void {
  image.onload = () => image.classList.toggle("pixels", image.naturalWidth <= 32);
  image.src = `data:image/png;base64,${png}`;
}
