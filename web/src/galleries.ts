// The list of galleries.

import { addressOf, readAddress } from "./address";
import type { Gallery } from "./contract";
import { find, make } from "./elements";

const number = new Intl.NumberFormat("en");
const percent = new Intl.NumberFormat("en", { style: "percent", minimumFractionDigits: 1 });
const date = new Intl.DateTimeFormat("en", { dateStyle: "medium", timeStyle: "short" });

export function showGalleries(galleries: Gallery[]): void {
  find("rows").replaceChildren(...galleries.map(row));
}

function row(gallery: Gallery): HTMLTableRowElement {
  const state = { ...readAddress(), view: "search" as const, gallery: gallery.name, key: "", picture: "", labels: [] };
  const link = make("a", { href: addressOf(state) }, gallery.name);
  const cells: [string, Node | string][] = [
    ["Images", number.format(Number(gallery.imageCount ?? 0))],
    ["Encoder", gallery.encoder],
    ["Profile", gallery.profile],
    ["Version", gallery.version],
    ["Last loaded", gallery.publishedAt ? date.format(new Date(gallery.publishedAt)) : "unknown"],
    ["Precision", precision(gallery)],
    ["Duplicates", gallery.duplicateCount === undefined ? "–" : number.format(Number(gallery.duplicateCount))],
    ["Sources", (gallery.sources ?? []).join(", ") || "–"],
  ];
  const name = make("th", { scope: "row" }, link);
  return make("tr", {}, name, ...cells.map(([title, content]) => {
    const cell = make("td", {}, content);
    cell.dataset["title"] = title;
    return cell;
  }));
}

function precision({ precisionAt5, queryCount }: Gallery): string {
  if (precisionAt5 === undefined) return "–";
  const queries = Number(queryCount);
  return `${percent.format(precisionAt5)}, ${number.format(queries)} ${queries === 1 ? "query" : "queries"}`;
}

/** Offer the galleries in the search's controls. */
export function offerGalleries(galleries: Gallery[], chosen: string): void {
  const select = find<HTMLSelectElement>("gallery");
  select.replaceChildren(...galleries.map(({ name }) => make("option", { value: name, selected: name === chosen }, name)));
}
