// The API key: asked for when the server wants one, kept for this tab.

import { byId } from "./page.dom.js";

const NAME = "alorakit.key";
let asking = null;

export const key = () => sessionStorage.getItem(NAME);

/** Ask for a key; false where none is given. Requests that are refused at the same time share one dialog. */
export function askForKey(message) {
  asking ??= new Promise((resolve) => open(message, resolve)).finally(() => {
    asking = null;
  });
  return asking;
}

function open(message, resolve) {
  const dialog = byId("key-dialog");
  const input = byId("key-input");
  byId("key-message").textContent = message;
  input.value = "";
  let given = false;
  byId("key-form").onsubmit = (event) => {
    event.preventDefault();
    const value = input.value.trim();
    given = /^[\x21-\x7e]+$/.test(value);
    byId("key-message").textContent = given ? "" : "A key has only letters, digits and signs of ASCII, and no spaces.";
    if (!given) return;
    sessionStorage.setItem(NAME, value);
    dialog.close();
  };
  byId("key-cancel").onclick = () => dialog.close();
  dialog.onclose = () => resolve(given);
  dialog.showModal();
  input.focus();
}
