// The most probable classes to choose from, with the chosen one among them.

const MOST = 5;

/**
 * @param {HTMLElement} fieldset where they are shown, one radio button each
 * @param {import("./model.js").Model} model
 * @param {Float32Array} probabilities
 * @param {number} chosen
 */
export function showClasses(fieldset, model, probabilities, chosen) {
  const order = Array.from(probabilities.keys()).sort((a, b) => probabilities[b] - probabilities[a]);
  const shown = order.slice(0, MOST);
  if (!shown.includes(chosen)) shown.push(chosen);
  const focused = fieldset.contains(document.activeElement);
  const rows = shown.map((index) => makeRow(model.label(index), index, probabilities[index]));
  const known = [...fieldset.querySelectorAll("label")];
  // Rows that stay are left alone: one that is being clicked must not vanish under the pointer.
  const isNew = rows.findIndex((row, i) => known[i]?.dataset.key !== row.dataset.key);
  const same = isNew < 0 ? rows.length : isNew;
  known.slice(same).forEach((row) => row.remove());
  fieldset.append(...rows.slice(same));
  const radio = fieldset.querySelector(`input[value="${chosen}"]`);
  radio.checked = true;
  if (focused) radio.focus();
}

function makeRow(name, index, probability) {
  const row = document.createElement("label");
  row.dataset.key = `${index} ${name} ${probability}`;
  const radio = Object.assign(document.createElement("input"), {
    type: "radio",
    name: "class",
    value: String(index),
  });
  const title = Object.assign(document.createElement("span"), { className: "name", textContent: name });
  const percent = Object.assign(document.createElement("span"), {
    className: "percent",
    textContent: formatPercent(probability),
  });
  const bar = Object.assign(document.createElement("span"), { className: "bar", ariaHidden: "true" });
  bar.style.setProperty("--share", `${100 * probability}%`);
  row.append(radio, title, percent, bar);
  return row;
}

export function formatPercent(probability) {
  return probability > 0 && probability < 0.001 ? "<\u00a00.1\u00a0%" : `${(100 * probability).toFixed(1)}\u00a0%`;
}

/** The names to search among; a name that several classes have is followed by the class's number. */
export function listNames(datalist, model, count) {
  const labels = Array.from({ length: count }, (_, index) => model.label(index));
  const seen = new Map();
  for (const label of labels) seen.set(label, (seen.get(label) ?? 0) + 1);
  const names = labels.map((label, index) => (seen.get(label) > 1 ? `${label} (${index})` : label));
  datalist.replaceChildren(...names.map((name) => Object.assign(document.createElement("option"), { value: name })));
  return names;
}

/** The class that some text means: its name, the only name that holds it, or its number; null where none. */
export function findClass(names, text) {
  const wanted = text.trim().toLowerCase();
  const lower = names.map((name) => name.toLowerCase());
  const exact = lower.indexOf(wanted);
  if (!wanted || exact >= 0) return wanted ? exact : null;
  if (/^\d+$/.test(wanted)) return Number(wanted) < names.length ? Number(wanted) : null;
  const holding = [...lower.keys()].filter((index) => lower[index].includes(wanted));
  return holding.length === 1 ? holding[0] : null;
}
