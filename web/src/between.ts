// What lies between two pictures: codes on the straight line between theirs, decoded, each with the stored image nearest
// to it.

import { search, searchAll, type SearchRequest } from "./contract";
import { find, make, showPng } from "./elements";
import { button } from "./results";

// Codes on the line, both ends included.
const STEPS = 9;

/**
 * Show the way from a query to a stored image.
 *
 * `more` is called with the key of a stored image that is clicked.
 */
export async function showStrip(
  query: SearchRequest,
  to: string,
  more: (key: string) => void,
  signal: AbortSignal,
): Promise<void> {
  const { gallery } = query;
  const codeOf = async (request: SearchRequest) => {
    const wanted = { ...request, limit: 1, filter: { labels: [] }, maxDistance: 0, includeCode: true };
    return (await search({ ...wanted, includeReconstruction: false }, signal)).code!.values;
  };
  const [first, last] = await Promise.all([codeOf(query), codeOf({ gallery, key: to, limit: 1, includeThumbnails: true })]);
  const shares = Array.from({ length: STEPS }, (_, step) => step / (STEPS - 1));
  const responses = await searchAll(
    shares.map((share) => ({
      gallery,
      code: { values: first.map((value, i) => value + (last[i]! - value) * share) },
      limit: 1,
      excludeKeys: share > 0 && share < 1 ? [query.key ?? to, to] : [],
      includeThumbnails: true,
      includeReconstruction: true,
    })),
    signal,
  );
  if (signal.aborted) return;
  const cells = responses.map(({ reconstructionPng, hits }, step) => {
    const percent = `${Math.round(shares[step]! * 100)} %`;
    const image = make("img", { alt: `Decoded at ${percent} of the way` });
    if (reconstructionPng) showPng(image, reconstructionPng);
    const cell = make("li", {}, image, make("span", { className: "note" }, percent));
    if (hits?.[0]) cell.append(button(hits[0], true, more));
    return cell;
  });
  find("strip").replaceChildren(...cells);
}
