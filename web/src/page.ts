// The search page: the state in the address bar, the query at hand, and one search at a time.

import { addressOf, readAddress, VIEWS, writeAddress, type State } from "./address";
import { base64, fromUrl, toUrl } from "./base64";
import { showStrip } from "./between";
import { listGalleries, search, searchAll, ServiceError, type Gallery, type Hit, type SearchRequest } from "./contract";
import { Drawing } from "./drawing";
import { find } from "./elements";
import { offerGalleries, showGalleries } from "./galleries";
import { mark, showMap } from "./map";
import { onPicture } from "./pictures";
import { showExamples, showResponse } from "./results";
import { askForToken } from "./token";

// Milliseconds between attempts to reach a service that does not answer, and between looks for a first gallery.
const RETRY_MS = 1500;
// Milliseconds between an answer and the next search while a stroke is being drawn.
const PAUSE_MS = 50;
// Images that are shown before the first search.
const EXAMPLES = 24;
// Hits from which each of two random images is chosen.
const CHOICE = 50;
// Largest file that the service accepts.
const MAX_FILE_BYTES = 10 * 1024 * 1024;

type Query = "none" | "key" | "drawing" | "file" | "shared";

let state: State = readAddress();
let galleries: Gallery[] = [];
let query: Query = queryOf(state);
let file: File | null = null;
let running: AbortController | null = null;
let isWaiting = false; // whether the drawing has changed since the running search began
let isNew = false; // whether the query gets a new entry in the browser's history
let retry = 0;
let found = ""; // what the status says of the hits, while it asks to choose one

const drawing = new Drawing((isEnd) => {
  setQuery("drawing");
  if (running && !isEnd) isWaiting = true;
  else void run();
});

function queryOf(state: State): Query {
  return state.key ? "key" : state.picture ? "shared" : "none";
}

/** Change the query. A drawing that goes on stays the same entry in the browser's history. */
function setQuery(kind: Query, key = ""): void {
  isNew ||= kind !== "drawing" || query !== "drawing";
  query = kind;
  state = { ...state, view: state.view === "map" ? "map" : "search", key, picture: "" };
  if (kind !== "drawing") drawing.clear();
  setPicking(false);
}

/** Show the state in the address bar, and let the links at the top keep it. */
function remember(): void {
  writeAddress(state, isNew);
  isNew = false;
  for (const view of VIEWS) find<HTMLAnchorElement>(`to-${view}`).href = addressOf({ ...state, view });
}

/** Load the galleries, and show what the address bar asks for. */
async function start(): Promise<void> {
  clearTimeout(retry);
  try {
    galleries = await listGalleries();
  } catch (error) {
    await failed(error, start);
    return;
  }
  showError("");
  await show();
}

async function show(): Promise<void> {
  const isEmpty = galleries.length === 0;
  state.gallery ||= galleries[0]?.name ?? "";
  const { view } = state;
  const isSearch = view === "search" || view === "map";
  find("empty").hidden = !isEmpty;
  find("search").hidden = isEmpty || !isSearch;
  find("map").hidden = view !== "map";
  find("between").hidden = isEmpty || view !== "between";
  find("galleries").hidden = isEmpty || view !== "galleries";
  for (const other of VIEWS) {
    const link = find(`to-${other}`);
    if (other === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
    if (other === view) document.title = view === "search" ? "Lookalike" : `${link.textContent} – Lookalike`;
  }
  if (isEmpty) {
    retry = window.setTimeout(() => void start(), RETRY_MS);
    return;
  }
  showGalleries(galleries);
  offerGalleries(galleries, state.gallery);
  showControls();
  remember();
  if (view === "map") showTheMap();
  if (isSearch) await run();
  if (view === "between") await showBetween();
}

function showTheMap(): void {
  const gallery = galleries.find(({ name }) => name === state.gallery);
  if (gallery) void showMap(gallery, more);
}

function showControls(): void {
  const limit = find<HTMLSelectElement>("limit");
  if (![...limit.options].some((option) => Number(option.value) === state.limit)) {
    limit.add(new Option(String(state.limit)));
  }
  limit.value = String(state.limit);
  find<HTMLInputElement>("labels").value = state.labels.join(", ");
  find<HTMLInputElement>("max").value = state.max ? String(state.max) : "";
  find<HTMLInputElement>("key").value = state.key;
}

/** Search for the query at hand. A search that is still running is abandoned, because its answer is out of date. */
async function run(): Promise<void> {
  clearTimeout(retry);
  running?.abort();
  isWaiting = false;
  const control = new AbortController();
  running = control;
  find("hits").setAttribute("aria-busy", "true");
  try {
    if (query === "none") {
      const hits = await examples(control.signal);
      if (control.signal.aborted) return;
      showExamples(hits, more);
      mark("", []);
    } else {
      const response = await search(await request(), control.signal);
      if (control.signal.aborted) return;
      showResponse(response, subject(), pickOrMore);
      if (isPicking()) setPicking(true);
      mark(query === "key" ? state.key : "", response.hits ?? []);
      if (response.inputPng) state.picture = toUrl(response.inputPng);
    }
    showError("");
    remember();
  } catch (error) {
    if (control.signal.aborted) return;
    await failed(error, run);
  } finally {
    if (running === control) {
      running = null;
      find("hits").removeAttribute("aria-busy");
      if (isWaiting) retry = window.setTimeout(() => void run(), PAUSE_MS);
    }
  }
}

async function request(): Promise<SearchRequest> {
  const { gallery, limit, labels, max } = state;
  const common = {
    gallery,
    limit,
    filter: { labels },
    maxDistance: max,
    includeThumbnails: true as const,
    includeReconstruction: true,
  };
  if (query === "key") return { ...common, key: state.key };
  if (query === "drawing") return { ...common, image: { encoded: drawing.png() } };
  if (query === "file" && file) return { ...common, image: { encoded: await base64(file) } };
  return { ...common, image: { encoded: fromUrl(state.picture) }, asIs: true };
}

/** Return a code in a random direction. */
function anyCode(): number[] {
  const size = galleries.find(({ name }) => name === state.gallery)?.codeSize ?? 0;
  return Array.from({ length: size }, () => Math.round(Math.random() * 200 - 100) / 100);
}

/** Return two images: one near to a code in a random direction, and one near to the opposite code. */
async function farApart(signal: AbortSignal): Promise<(Hit | undefined)[]> {
  const { gallery } = state;
  const code = anyCode();
  const common = { gallery, limit: CHOICE, includeThumbnails: true as const };
  const responses = await searchAll([
    { ...common, code: { values: code } },
    { ...common, code: { values: code.map((value) => -value) } },
  ], signal);
  return responses.map(({ hits = [] }) => hits[Math.floor(Math.random() * hits.length)]);
}

/** Return images from all over the gallery: those nearest to codes in random directions. */
async function examples(signal: AbortSignal): Promise<Hit[]> {
  const { gallery, labels } = state;
  const responses = await searchAll(
    Array.from({ length: EXAMPLES }, () => ({
      gallery,
      code: { values: anyCode() },
      limit: 1,
      filter: { labels },
      includeThumbnails: true,
    })),
    signal,
  );
  const hits = responses.flatMap((response) => response.hits ?? []);
  return [...new Map(hits.map((hit) => [hit.key, hit])).values()];
}

function subject(): string {
  if (query === "key") return state.key;
  if (query === "drawing") return "your drawing";
  if (query === "file" && file) return file.name || "your picture";
  return "this picture";
}

/** Search for the query at hand, from whatever view. */
function showQueryAtHand(): void {
  if (find("search").hidden) void show();
  else {
    showControls();
    void run();
  }
}

/** Search for more images like a stored one. */
function more(key: string): void {
  setQuery("key", key);
  showQueryAtHand();
  if (state.view === "search") find("title").focus();
}

/** Look between the query and a hit, if the user has asked for that; else search for more like the hit. */
function pickOrMore(key: string): void {
  if (isPicking()) lookBetween(key);
  else more(key);
}

function isPicking(): boolean {
  return find("pick").getAttribute("aria-pressed") === "true";
}

/** Ask the user for a hit to look between the query and it, or stop asking. */
function setPicking(pick: boolean): void {
  const status = find("status");
  if (pick) {
    found = status.textContent ?? "";
    status.textContent = "Choose an image: see what lies between the query and it.";
  } else if (isPicking()) {
    status.textContent = found;
  }
  find("pick").setAttribute("aria-pressed", String(pick));
}

function lookBetween(to: string): void {
  setPicking(false);
  state = { ...state, view: "between", to };
  isNew = true;
  void show();
  find("between-title").focus();
}

/** Show the way from the query to another image. Without a query, or without the other, show any two images. */
async function showBetween(): Promise<void> {
  running?.abort();
  const control = new AbortController();
  running = control;
  try {
    if (query === "none" || !state.to) {
      const [first, second] = await farApart(control.signal);
      if (query === "none") state = { ...state, key: first?.key ?? "" };
      state.to ||= second?.key ?? state.key;
      query = queryOf(state);
    }
    find<HTMLInputElement>("from").value = state.key;
    find<HTMLInputElement>("to").value = state.to;
    await showStrip(await request(), state.to, more, control.signal);
    if (control.signal.aborted) return;
    showError("");
    remember();
  } catch (error) {
    if (!control.signal.aborted) await failed(error, showBetween);
  }
}

async function failed(error: unknown, again: () => Promise<void>): Promise<void> {
  if (error instanceof ServiceError && error.code === "unauthenticated") {
    await askForToken();
    await again();
  } else if (error instanceof ServiceError && error.isTemporary) {
    showError(`${error.message.replace(/\.?$/, ".")} Trying again …`);
    retry = window.setTimeout(() => void again(), RETRY_MS);
  } else {
    const message = messageOf(error);
    showError(query === "file" && file ? `${file.name}: ${message.replace(/^image: /, "")}` : message);
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

function showError(message: string): void {
  const alert = find("alert");
  alert.hidden = !message;
  alert.textContent = message;
}

onPicture((chosen) => {
  if (chosen.size > MAX_FILE_BYTES) {
    showError(`${chosen.name}: expected at most 10 MiB, got ${(chosen.size / 2 ** 20).toFixed(1)}`);
    return;
  }
  file = chosen;
  setQuery("file");
  showQueryAtHand();
});

find("clear").onclick = () => {
  setQuery("none");
  showControls();
  void run();
};

find("by-key").onsubmit = (event) => {
  event.preventDefault();
  const key = find<HTMLInputElement>("key").value.trim();
  if (key) more(key);
};

find("pick").onclick = () => setPicking(!isPicking());

find("ends").onsubmit = (event) => {
  event.preventDefault();
  const from = find<HTMLInputElement>("from").value.trim();
  if (from && from !== state.key) {
    setQuery("key", from);
    state.view = "between";
  }
  lookBetween(find<HTMLInputElement>("to").value.trim());
};

find("others").onclick = () => {
  setQuery("none");
  lookBetween("");
};

find("controls").onsubmit = (event) => event.preventDefault();
find("controls").onchange = () => {
  const gallery = find<HTMLSelectElement>("gallery").value;
  const labels = find<HTMLInputElement>("labels").value.split(",").map((label) => label.trim());
  const max = find<HTMLInputElement>("max").valueAsNumber;
  if (gallery !== state.gallery) {
    find("known-labels").replaceChildren();
    if (query === "key") setQuery("none"); // the other gallery has other keys
  }
  state = {
    ...state,
    gallery,
    limit: Number(find<HTMLSelectElement>("limit").value),
    to: gallery === state.gallery ? state.to : "",
    labels: labels.filter((label) => label),
    max: max > 0 ? max : 0,
  };
  showControls();
  if (state.view === "map") showTheMap();
  void run();
};

for (const view of VIEWS) {
  // the address has no room for a photograph, so the page changes the view itself and keeps the query
  find(`to-${view}`).onclick = (event) => {
    if (event.ctrlKey || event.metaKey || event.shiftKey) return; // opens another tab or window
    event.preventDefault();
    isNew = true;
    state = { ...state, view };
    void start();
  };
}

find("skip").onclick = (event) => {
  event.preventDefault();
  find("main").focus();
};

// Back, Forward, a link of this page, or an address that somebody has pasted
window.addEventListener("popstate", () => {
  state = readAddress();
  query = queryOf(state);
  file = null;
  isNew = false;
  drawing.clear();
  setPicking(false);
  void start();
});

void start();
