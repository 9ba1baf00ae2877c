// The map of a gallery: its images as points coloured by label, with thumbnails when near; the query and its hits are
// marked on it.

import { base64Bytes } from "./base64";
import { getImages, getMap, ServiceError, type Gallery, type Hit } from "./contract";
import { find, make } from "./elements";
import { Plot, rgb } from "./plot";

// Points in view up to which thumbnails are shown.
const MAX_NEAR = 8000;
// Side of a thumbnail, and least distance between the middles of two, in CSS pixels.
const THUMBNAIL = 40;
const GAP = 46;
// Thumbnails that are fetched at once.
const BATCH = 100;
// Thumbnails that are kept.
const MAX_KEPT = 5000;
// Milliseconds between looks for a map that has not been made yet.
const LOOK_MS = 4000;
// Hits whose places tell the query's place.
const PLACING = 5;
// Labels that the legend names.
const MAX_LEGEND = 12;
// Ten colours for each scheme, with a contrast of at least 3:1 to the ground.
const LIGHT = ["#1f6fb4", "#c2570c", "#178055", "#c62a3a", "#7a52b8", "#8a5a3c", "#c43f96", "#66707a", "#857500", "#0a8290"];
const DARK = ["#6cb1ee", "#f29d57", "#5fcf9b", "#f37a80", "#b79df0", "#c9a184", "#f08cc9", "#aab4bd", "#d4c64f", "#57cbd8"];

interface MapContent {
  keys: string[];
  labels: string[];
  label_indexes: number[];
  x: number[];
  y: number[];
}

const number = new Intl.NumberFormat("en");
const dark = matchMedia("(prefers-color-scheme: dark)");
const plotElement = find("plot");
const plot = new Plot(plotElement, find<HTMLCanvasElement>("points"), {
  over: drawOver,
  rested: () => void loadThumbnails(),
  chosen: (index) => choose(content!.keys[index]!),
  pointed: point,
});

let loaded = ""; // name and version of the gallery whose map is shown
let content: MapContent | null = null;
let indexes = new Map<string, number>(); // positions of the keys
let colours: string[] = []; // of the labels
let choose: (key: string) => void = () => {};
let look = 0;
let latest: { key: string; hits: Hit[] } = { key: "", hits: [] }; // the query's key and hits
let marked: number[] = []; // points that are hits
let query: [number, number] | null = null; // its place
let queryIndex = -1; // its point, if it is a stored image
let pointed = -1;
let near: number[] = []; // points that are shown as thumbnails
const thumbnails = new Map<number, HTMLImageElement>();

/** Show the map of a gallery, or how to make one. `chosen` is called with the key of an image that is clicked. */
export async function showMap(gallery: Gallery, chosen: (key: string) => void): Promise<void> {
  clearTimeout(look);
  choose = chosen;
  const wanted = `${gallery.name} ${gallery.version}`;
  if (loaded === wanted) return;
  loaded = wanted;
  content = null;
  let parsed: MapContent | null = null;
  let problem = "";
  try {
    parsed = await read(await getMap(gallery.name));
  } catch (error) {
    if (loaded !== wanted) return; // another gallery has been chosen meanwhile
    loaded = "";
    look = window.setTimeout(() => {
      if (!find("map").hidden) void showMap(gallery, chosen);
    }, LOOK_MS);
    if (error instanceof ServiceError && error.isTemporary) return;
    const isMissing = error instanceof ServiceError && error.code === "not_found";
    problem = isMissing ? "No map of this gallery yet" : "The map of this gallery can't be read";
  }
  if (parsed && loaded !== wanted) return;
  find("no-map").hidden = parsed !== null;
  find("map-view").hidden = parsed === null;
  find("no-map-title").textContent = problem;
  find("map-command").textContent = `ingest map ${gallery.name}`;
  if (parsed) showContent(gallery, parsed);
}

/** Read a map's file. Throws if it is damaged. */
async function read(file: string): Promise<MapContent> {
  const plain = new Blob([base64Bytes(file)]).stream().pipeThrough(new DecompressionStream("gzip"));
  return (await new Response(plain).json()) as MapContent;
}

function showContent(gallery: Gallery, parsed: MapContent): void {
  content = parsed;
  indexes = new Map(parsed.keys.map((key, index) => [key, index]));
  thumbnails.clear();
  const count = parsed.keys.length;
  const total = Number(gallery.imageCount ?? 0);
  plotElement.setAttribute("aria-label", `Map of ${gallery.name}: ${number.format(count)} images`);
  plot.show({
    x: Uint16Array.from(parsed.x),
    y: Uint16Array.from(parsed.y),
    colours: Uint16Array.from(parsed.label_indexes),
  });
  showColours();
  point(-1);
  mark(latest.key, latest.hits);
  find("map-note").replaceChildren(
    ...(count === total
      ? []
      : [
          `The map has ${number.format(count)} images, and the gallery has ${number.format(total)}. `,
          make("code", {}, `ingest map ${gallery.name}`),
          " makes a new map.",
        ]),
  );
}

function showColours(): void {
  const labels = content?.labels ?? [];
  const fixed = dark.matches ? DARK : LIGHT;
  // the golden angle puts the hues of neighbouring labels far apart
  const spread = (index: number) => `hsl(${(index * 137.5) % 360} 55% ${dark.matches ? 68 : 38}%)`;
  colours = labels.map((_, index) => (labels.length > fixed.length ? spread(index) : fixed[index]!));
  const swatches = labels.slice(0, MAX_LEGEND).map((label, index) => {
    const swatch = make("span", { className: "swatch" });
    swatch.style.setProperty("background", colours[index]!);
    return make("li", {}, swatch, label || "no label");
  });
  const more = labels.length - MAX_LEGEND;
  find("legend").replaceChildren(...(labels.join("") ? swatches : []), ...(more > 0 ? [make("li", {}, `${number.format(more)} more`)] : []));
  const probe = make("span");
  plotElement.append(probe);
  plot.setPalette(
    colours.map((colour) => {
      probe.style.color = colour;
      return rgb(getComputedStyle(probe).color);
    }),
  );
  probe.remove();
}

dark.addEventListener("change", showColours);

/**
 * Mark a query and its hits.
 *
 * A query that is not a stored image is placed at the mean place of its nearest hits, weighted by 1/distance.
 */
export function mark(key: string, hits: Hit[]): void {
  latest = { key, hits };
  marked = [];
  query = null;
  queryIndex = -1;
  if (content && hits.length) {
    const { x, y } = content;
    const known = hits.filter((hit) => indexes.has(hit.key));
    marked = known.map((hit) => indexes.get(hit.key)!);
    queryIndex = indexes.get(key) ?? -1;
    if (queryIndex >= 0) query = [x[queryIndex]!, y[queryIndex]!];
    else if (known.length) {
      const weighted = known.slice(0, PLACING).map((hit) => [indexes.get(hit.key)!, 1 / Math.max(hit.distance ?? 0, 1e-3)] as const);
      const total = weighted.reduce((sum, [, weight]) => sum + weight, 0);
      const mean = (of: number[]) => weighted.reduce((sum, [index, weight]) => sum + of[index]! * weight, 0) / total;
      query = [mean(x), mean(y)];
    }
    if (query) plot.reveal(...query);
  }
  void loadThumbnails();
}

/** Say which image is at the pointer, or in the middle. */
function point(index: number): void {
  if (index !== pointed) plot.draw();
  pointed = index;
  const label = content?.labels[content.label_indexes[index] ?? -1];
  find("here").textContent = index < 0 || !content ? "Click an image to find more like it." : [label, content.keys[index]].filter((fact) => fact).join(", ");
}

function drawOver(context: CanvasRenderingContext2D): void {
  if (!content) return;
  const { x, y, label_indexes } = content;
  const style = getComputedStyle(plotElement);
  const ring = (left: number, top: number, radius: number, colour: string) => {
    for (const [width, stroke] of [[5, style.backgroundColor], [2, colour]] as const) {
      context.lineWidth = width;
      context.strokeStyle = stroke;
      context.beginPath();
      context.arc(left, top, radius, 0, 2 * Math.PI);
      context.stroke();
    }
  };
  for (const index of marked) ring(...plot.place(x[index]!, y[index]!), 6, style.color);
  const framed = new Set<number>();
  for (const index of near) {
    const image = thumbnails.get(index);
    if (!image?.complete || !image.naturalWidth) continue;
    const [left, top] = plot.place(x[index]!, y[index]!);
    const size = THUMBNAIL / Math.max(image.naturalWidth, image.naturalHeight);
    const [width, height] = [image.naturalWidth * size, image.naturalHeight * size];
    framed.add(index);
    const box = (frame: number, colour: string) => {
      context.fillStyle = colour;
      context.fillRect(left - width / 2 - frame, top - height / 2 - frame, width + 2 * frame, height + 2 * frame);
    };
    if (index === queryIndex) box(6, style.accentColor);
    else if (index === pointed || marked.includes(index)) box(5, style.color);
    box(3, style.backgroundColor);
    box(2, colours[label_indexes[index]!]!);
    context.imageSmoothingEnabled = size < 1;
    context.drawImage(image, left - width / 2, top - height / 2, width, height);
  }
  if (pointed >= 0 && !framed.has(pointed)) ring(...plot.place(x[pointed]!, y[pointed]!), 9, style.color);
  if (query && !framed.has(queryIndex)) {
    const [left, top] = plot.place(...query);
    ring(left, top, 13, style.accentColor);
    context.fillStyle = style.accentColor;
    context.beginPath();
    context.arc(left, top, 4, 0, 2 * Math.PI);
    context.fill();
  }
}

/** Choose the points to show as thumbnails, and fetch those that are missing. */
async function loadThumbnails(): Promise<void> {
  const of = content;
  if (!of) return;
  const inView = plot.inView(THUMBNAIL, MAX_NEAR);
  // the query and its hits come first, so that they are among the thumbnails
  const ranks = new Map([queryIndex, ...marked].map((index, rank) => [index, rank - marked.length - 1]));
  near = inView ? apart(inView.sort((a, b) => (ranks.get(a) ?? a) - (ranks.get(b) ?? b))) : [];
  const missing = near.filter((index) => !thumbnails.has(index));
  if (thumbnails.size + missing.length > MAX_KEPT) thumbnails.clear();
  const gallery = loaded.split(" ")[0]!;
  plot.draw();
  for (let begin = 0; begin < missing.length; begin += BATCH) {
    const images = await getImages(gallery, missing.slice(begin, begin + BATCH).map((index) => of.keys[index]!)).catch(() => []);
    if (of !== content) return;
    for (const { key, thumbnailPng } of images) {
      if (!thumbnailPng) continue;
      const image = make("img", { onload: () => plot.draw() });
      image.src = `data:image/png;base64,${thumbnailPng}`;
      thumbnails.set(indexes.get(key)!, image);
    }
  }
}

/**
 * Return those of some points whose thumbnails don't overlap: each comes before all others within a thumbnail's size.
 *
 * This depends on a point's surroundings alone, so a thumbnail stays when the map is moved.
 */
function apart(points: number[]): number[] {
  const { x, y } = content!;
  const places = points.map((index) => plot.place(x[index]!, y[index]!));
  const cells = new Map<string, number[]>();
  const cell = (left: number, top: number) => `${Math.floor(left / GAP)} ${Math.floor(top / GAP)}`;
  return points.filter((_, at) => {
    const [left, top] = places[at]!;
    let isFirst = true;
    for (const right of [-1, 0, 1]) {
      for (const down of [-1, 0, 1]) {
        for (const other of cells.get(cell(left + right * GAP, top + down * GAP)) ?? []) {
          const [otherLeft, otherTop] = places[other]!;
          if (Math.abs(otherLeft - left) < GAP && Math.abs(otherTop - top) < GAP) isFirst = false;
        }
      }
    }
    const own = cell(left, top);
    if (cells.has(own)) cells.get(own)!.push(at);
    else cells.set(own, [at]);
    return isFirst;
  });
}

find("zoom-in").onclick = () => zoom(2);
find("zoom-out").onclick = () => zoom(0.5);
find("whole").onclick = () => plot.whole();

/** Zoom around the query, if there is one, so that a mouse without dragging reaches every place. */
function zoom(factor: number): void {
  if (query) {
    plot.reveal(...query);
    plot.zoomBy(factor, ...plot.place(...query));
  } else {
    plot.zoomBy(factor);
  }
}
