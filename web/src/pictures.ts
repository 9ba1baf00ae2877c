// Pictures that are chosen, dropped or pasted.

import { find } from "./elements";

/** Call `chosen` for every picture that is chosen, dropped on the page, or pasted. */
export function onPicture(chosen: (file: File) => void): void {
  const input = find<HTMLInputElement>("file");
  input.addEventListener("change", () => {
    const file = input.files?.[0];
    if (file) chosen(file);
    input.value = ""; // so that the same file can be chosen again
  });
  const body = document.body;
  body.addEventListener("dragover", (event) => {
    event.preventDefault();
    body.classList.add("dropping");
  });
  body.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) body.classList.remove("dropping");
  });
  body.addEventListener("drop", (event) => {
    event.preventDefault();
    body.classList.remove("dropping");
    const file = event.dataTransfer?.files[0];
    if (file) chosen(file);
  });
  document.addEventListener("paste", (event) => {
    const file = event.clipboardData?.files[0];
    if (file) chosen(file);
  });
}
