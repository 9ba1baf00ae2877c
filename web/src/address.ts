// The page's state and its form in the address bar. It is behind the #, so that no query reaches a server's log.

export const VIEWS = ["search", "map", "between", "galleries"] as const;
export type View = (typeof VIEWS)[number];

export interface State {
  view: View;
  gallery: string;
  /** The key of a stored image, if that is the query. */
  key: string;
  /** The query image as the encoder saw it, a PNG in base64url, if an image is the query. */
  picture: string;
  limit: number;
  labels: string[];
  /** Maximum distance of a hit; 0 for no bound. */
  max: number;
  /** The key of the image to look at the way to from the query. */
  to: string;
}

export const DEFAULT_LIMIT = 24;
// Longest picture, in characters, that goes into an address. Programs cut longer addresses when they are shared.
const MAX_PICTURE = 6000;

export function readAddress(): State {
  const parts = new URLSearchParams(location.hash.slice(1));
  const limit = Number(parts.get("limit"));
  const max = Number(parts.get("max"));
  return {
    view: VIEWS.find((view) => view === parts.get("view")) ?? "search",
    gallery: parts.get("gallery") ?? "",
    key: parts.get("key") ?? "",
    picture: parts.get("picture") ?? entryPicture(),
    limit: Number.isInteger(limit) && limit >= 1 && limit <= 1000 ? limit : DEFAULT_LIMIT,
    labels: parts.getAll("label"),
    max: Number.isFinite(max) && max > 0 ? max : 0,
    to: parts.get("to") ?? "",
  };
}

export function addressOf(state: State): string {
  const parts = new URLSearchParams();
  if (state.view !== "search") parts.set("view", state.view);
  if (state.gallery) parts.set("gallery", state.gallery);
  if (state.key) parts.set("key", state.key);
  else if (state.picture && state.picture.length <= MAX_PICTURE) parts.set("picture", state.picture);
  if (state.limit !== DEFAULT_LIMIT) parts.set("limit", String(state.limit));
  for (const label of state.labels) parts.append("label", label);
  if (state.max) parts.set("max", String(state.max));
  if (state.view === "between" && state.to) parts.set("to", state.to);
  return "#" + parts.toString().replaceAll("%2F", "/");
}

/** Show a state in the address bar, as a new entry of the browser's history or in place of the present one. */
export function writeAddress(state: State, isNew: boolean): void {
  const address = addressOf(state);
  const picture = state.key ? "" : state.picture;
  if (address === (location.hash || "#") && picture === entryPicture()) return;
  if (isNew) history.pushState({ picture }, "", address);
  else history.replaceState({ picture }, "", address);
}

/** Return the picture of the present entry of the browser's history, which may be too long for the address. */
function entryPicture(): string {
  return (history.state as { picture?: string } | null)?.picture ?? "";
}
