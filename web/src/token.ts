// The dialog that asks for an access token.

import { hasToken, keepToken } from "./contract";
import { find } from "./elements";

/** Ask for a token, and return once the user has given one. */
export function askForToken(): Promise<void> {
  const dialog = find<HTMLDialogElement>("ask");
  const input = find<HTMLInputElement>("token");
  if (hasToken()) find("ask-why").textContent = "The service does not know this token. Try another one.";
  input.value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      if (input.value) {
        keepToken(input.value.trim());
        resolve();
      } else {
        dialog.showModal(); // Escape closes it, and there is nothing to do without a token
      }
    };
  });
}
