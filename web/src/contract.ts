// The service's messages in JSON, as far as the page uses them, and how to call it. docs/http.md describes both.

export interface Gallery {
  name: string;
  version: string;
  imageCount?: string;
  encoder: string;
  codeSize: number;
  profile: string;
  sources?: string[];
  publishedAt?: string;
  precisionAt5?: number;
  queryCount?: string;
  duplicateCount?: string;
}

export interface Hit {
  key: string;
  distance?: number;
  label?: string;
  thumbnailPng?: string;
  distancePercentile?: number;
}

export interface SearchRequest {
  gallery?: string;
  image?: { encoded: string };
  code?: { values: number[] };
  key?: string;
  limit: number;
  filter?: { labels: string[] };
  maxDistance?: number;
  excludeKeys?: string[];
  asIs?: boolean;
  includeThumbnails: true;
  includeReconstruction?: boolean;
  includeCode?: boolean;
}

export interface SearchResponse {
  hits?: Hit[];
  gallery: string;
  encodeMs?: number;
  searchMs?: number;
  queryThumbnailPng?: string;
  queryPercentile?: number;
  prepared?: string;
  inputPng?: string;
  reconstructionPng?: string;
  code?: { values: number[] };
}

export interface StoredImage {
  key: string;
  label?: string;
  thumbnailPng?: string;
}

/** An error that the service has answered. */
export class ServiceError extends Error {
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }

  /** Whether the same call may succeed soon. */
  get isTemporary(): boolean {
    return ["unavailable", "resource_exhausted", "deadline_exceeded"].includes(this.code);
  }
}

const TOKEN = "token";

/** Keep an access token until this tab is closed. */
export function keepToken(token: string): void {
  sessionStorage.setItem(TOKEN, token);
}

export function hasToken(): boolean {
  return sessionStorage.getItem(TOKEN) !== null;
}

/**
 * Call an RPC.
 *
 * Throws a ServiceError with the code "unavailable" if the service does not answer, and the signal's AbortError.
 */
async function call<T>(method: string, request: object, signal?: AbortSignal): Promise<T> {
  const headers: Record<string, string> = { "content-type": "application/json" };
  const token = sessionStorage.getItem(TOKEN);
  if (token !== null) headers["authorization"] = `Bearer ${token}`;
  let response: Response;
  try {
    const body = JSON.stringify(request);
    response = await fetch(`encoder_service.v1.${method}`, { method: "POST", headers, body, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServiceError("unavailable", "The service does not answer.");
  }
  const answer = await response.json().catch(() => ({ code: "unavailable", message: `HTTP status ${response.status}` }));
  if (!response.ok) throw new ServiceError(answer.code, answer.message);
  return answer as T;
}

export async function listGalleries(): Promise<Gallery[]> {
  return (await call<{ galleries?: Gallery[] }>("GalleryService/ListGalleries", {})).galleries ?? [];
}

export function search(request: SearchRequest, signal: AbortSignal): Promise<SearchResponse> {
  return call("SearchService/Search", request, signal);
}

export async function searchAll(requests: SearchRequest[], signal: AbortSignal): Promise<SearchResponse[]> {
  const answer = await call<{ responses: SearchResponse[] }>("SearchService/BatchSearch", { requests }, signal);
  return answer.responses;
}

/** Return the map of a gallery: JSON that is compressed with gzip, in base64. */
export async function getMap(gallery: string): Promise<string> {
  return (await call<{ mapJsonGz: string }>("GalleryService/GetMap", { gallery })).mapJsonGz;
}

export async function getImages(gallery: string, keys: string[]): Promise<StoredImage[]> {
  return (await call<{ images?: StoredImage[] }>("GalleryService/GetImages", { gallery, keys })).images ?? [];
}
