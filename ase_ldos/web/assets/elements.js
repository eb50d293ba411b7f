// Small helpers for making elements; no framework, no HTML from strings.

let counter = 0;

/** A number that no other element of the page has, for ids. */
export function uniqueId(prefix) {
  counter += 1;
  return `${prefix}-${counter}`;
}

/** Make an element; properties that start with "on" are listeners, the others attributes (null: left out). */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(name, String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** A labelled field: the label's text, and an input or select. */
export function labelled(text, input) {
  input.id = input.id || uniqueId("field");
  return element("label", { class: "field", for: input.id }, element("span", {}, text), input);
}

export function choice(options, properties = {}) {
  return element(
    "select",
    properties,
    ...options.map(([value, text, extra]) => element("option", { value, ...(extra || {}) }, text)),
  );
}

export function number(value, properties = {}) {
  return element("input", { type: "number", value, step: "any", ...properties });
}

export function range(low, high, value, properties = {}) {
  return element("input", { type: "range", min: low, max: high, step: (high - low) / 200, value, ...properties });
}

export function button(text, onclick, properties = {}) {
  return element("button", { type: "button", onclick, ...properties }, text);
}

/** A table with a caption; rows are lists of texts, the first of each a header; numbers are right-aligned. */
export function table(caption, header, rows) {
  const cell = (tag, value, scope) => element(tag, { scope, class: typeof value === "number" ? "number" : null }, show(value));
  return element(
    "table",
    {},
    element("caption", {}, caption),
    element("thead", {}, element("tr", {}, ...header.map((text, i) => element("th", { scope: "col", class: i ? "number" : null }, text)))),
    element(
      "tbody",
      {},
      ...rows.map((row) => element("tr", {}, ...row.map((value, i) => (i ? cell("td", value) : cell("th", value, "row"))))),
    ),
  );
}

/** A number as people read it: a real minus sign and a sensible number of digits. */
export function show(value, digits = 5) {
  if (typeof value !== "number") return value;
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-5 || size >= 1e6) ? value.toExponential(2) : value.toFixed(size >= 1000 ? 3 : digits);
  return text.replaceAll("-", "−");
}

export function cssColor(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Hand a text, or a data URL, to the user as a file. */
export function saveAs(name, content, type = "text/plain") {
  const isUrl = content.startsWith("data:");
  const address = isUrl ? content : URL.createObjectURL(new Blob([content], { type }));
  const link = element("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  if (!isUrl) setTimeout(() => URL.revokeObjectURL(address), 10000);
}
