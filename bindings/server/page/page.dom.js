// Finding and making elements, and numbers in words. Text is set as text only: nothing on this page parses HTML.

export const byId = (id) => document.getElementById(id);

/** An element with properties (or attributes, for names that are no property) and children. */
export function make(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

export const button = (text, onclick, className = "quiet") =>
  make("button", { type: "button", className, textContent: text, onclick });

export const number = (value) => Math.round(value).toLocaleString("en-US");

/** Milliseconds in words: "0.42 ms", "8.3 ms", "412 ms", "3.1 s". */
export function milliseconds(value) {
  if (value >= 1000) return `${(value / 1000).toFixed(value < 10000 ? 2 : 1)} s`;
  return `${value >= 100 ? Math.round(value) : value.toPrecision(2)} ms`;
}

/** A bar that is `share` (0 to 1) of its row. */
export function bar(share, className) {
  const node = make("span", { className: `bar ${className}`, ariaHidden: "true" });
  node.style.setProperty("--share", String(Math.min(1, Math.max(0, share))));
  return node;
}

/** Say something to screen readers, in the region for answers or in the one for checks. */
export function announce(text, region = "status") {
  byId(region).textContent = text;
}

/** Why something failed, when to try again, and a button that does. */
export function problem(error, again) {
  const node = make("div", { className: "problem" }, make("p", { role: "alert", textContent: error.message }));
  if (error.retryAfter) node.append(countdown(error.retryAfter));
  if (again) node.append(button("Try again", again));
  return node;
}

function countdown(seconds) {
  const end = Date.now() + 1000 * seconds;
  const node = make("p", { className: "countdown" });
  const show = () => {
    const left = Math.ceil((end - Date.now()) / 1000);
    node.textContent = left > 0 ? `Try again in ${left} s.` : "You can try again now.";
    return left;
  };
  const timer = setInterval(() => {
    if (!node.isConnected || show() <= 0) clearInterval(timer);
  }, 1000);
  show();
  return node;
}
