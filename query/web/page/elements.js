// Making and changing elements.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element; text becomes text nodes, never HTML. */
export function element(name, attributes = {}, ...children) {
  return filled(document.createElement(name), attributes, children);
}

/** Make an element of a picture. */
export function shape(name, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, name), attributes, children);
}

function filled(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** Make a button. */
export function button(attributes, act, ...children) {
  const made = element("button", { type: "button", ...attributes }, ...children);
  made.addEventListener("click", act);
  return made;
}

/** Set an attribute if it differs: of thousands of cells, few change. */
export function setTo(cell, name, value) {
  if (cell.getAttribute(name) !== value) cell.setAttribute(name, value);
}
