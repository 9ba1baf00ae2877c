// The hits of a search, the query as the encoder sees it, and a sentence if nothing is like it.

import type { Hit, SearchResponse } from "./contract";
import { find, make, showPng } from "./elements";

// As in the service's limits: a query or its nearest hit above this percentile of the gallery is unlike the gallery.
const UNUSUAL_PERCENTILE = 99;
// A hit this near is the query itself.
const EXACT_DISTANCE = 1e-3;

const number = new Intl.NumberFormat("en");

function showHits(hits: Hit[], hasDistances: boolean, more: (key: string) => void): void {
  const pick = find("pick");
  pick.hidden = !hasDistances || !hits.length;
  if (pick.hidden) pick.setAttribute("aria-pressed", "false");
  find("hits").replaceChildren(...hits.map((hit) => make("li", {}, button(hit, hasDistances, more))));
  const known = find<HTMLDataListElement>("known-labels");
  const labels = new Set([...known.options].map((option) => option.value));
  for (const { label } of hits) if (label) labels.add(label);
  known.replaceChildren(...[...labels].sort().map((value) => make("option", { value })));
}

/** Return a button that shows a stored image. */
export function button(hit: Hit, hasDistance: boolean, more: (key: string) => void): HTMLButtonElement {
  const distance = hasDistance ? (hit.distance ?? 0).toFixed(2) : "";
  const image = make("img", { alt: "" });
  if (hit.thumbnailPng) showPng(image, hit.thumbnailPng);
  const label = make("span", { className: "label" }, hit.label || "–");
  const element = make("button", { type: "button", title: hit.key }, image, label);
  element.append(make("span", { className: "distance" }, distance));
  const facts = [hit.label, distance && `distance ${distance}`, hit.key].filter((fact) => fact);
  element.setAttribute("aria-label", `${facts.join(", ")}: find more like it`);
  element.onclick = () => more(hit.key);
  return element;
}

/**
 * Show what a search has found.
 *
 * `subject` names the query, as in "your drawing". `more` is called with the key of a hit that is clicked.
 */
export function showResponse(response: SearchResponse, subject: string, more: (key: string) => void): void {
  const hits = response.hits ?? [];
  showHits(hits, true, more);
  find("title").textContent = `Most like ${subject}`;
  const took = (response.encodeMs ?? 0) + (response.searchMs ?? 0);
  find("status").textContent = hits.length
    ? `${number.format(hits.length)} ${hits.length === 1 ? "image" : "images"}, nearest first, in ${took.toFixed(1)} ms`
    : "No image has these labels and this distance.";
  showQuery(response);
  const unlike = find("unlike");
  unlike.hidden = !isUnusual(response);
  unlike.textContent = unlike.hidden
    ? ""
    : "Nothing in this gallery is like it: 99 % of the gallery's own images look more like the rest. These are only the nearest.";
}

function showQuery(response?: SearchResponse): void {
  const input = response?.inputPng ?? response?.queryThumbnailPng;
  for (const [id, png] of [["seen-input", input], ["seen-back", response?.reconstructionPng]] as const) {
    const image = find(id).querySelector("img")!;
    image.hidden = !png;
    if (png) showPng(image, png);
  }
  const note = find("seen-note");
  note.hidden = !response?.prepared;
  note.textContent = `Prepared for the encoder: ${response?.prepared}.`;
}

function isUnusual(response: SearchResponse): boolean {
  const nearest = response.hits?.[0];
  if (nearest && (nearest.distance ?? 0) <= EXACT_DISTANCE) return false;
  return [response.queryPercentile, nearest?.distancePercentile].some(
    (percentile) => percentile !== undefined && percentile > UNUSUAL_PERCENTILE,
  );
}

/** Show some images of a gallery, for somebody who has not searched yet. */
export function showExamples(hits: Hit[], more: (key: string) => void): void {
  showHits(hits, false, more);
  showQuery();
  find("title").textContent = "Some images of this gallery";
  find("status").textContent = "Draw something, or choose an image to find more like it.";
  find("unlike").hidden = true;
}
