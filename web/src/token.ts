// The dialog that asks for an access token.

import { hasToken, keepToken } from "./contract";
import { find } from "./elements";

// The characters that the service allows in a token. A browser refuses to send others.
const TOKEN = /^[\x21-\x7e]+$/;

/** Ask for a token, and return once the user has given one. */
export function askForToken(): Promise<void> {
  const dialog = find<HTMLDialogElement>("ask");
  const input = find<HTMLInputElement>("token");
  if (hasToken()) find("ask-why").textContent = "The service does not know this token. Try another one.";
  input.value = "";
  if (!dialog.open) dialog.showModal();
  return new Promise((resolve) => {
    dialog.onclose = () => {
      const token = input.value.trim();
      if (TOKEN.test(token)) {
        keepToken(token);
        resolve();
        return;
      }
      if (token) find("ask-why").textContent = "A token has no spaces and no characters such as “ and –.";
      dialog.showModal(); // Escape closes it too, and there is nothing to do without a token
    };
  });
}
