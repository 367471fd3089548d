// The page: what was chosen, and what follows from it.

import { askForPicture } from "./camera.js";
import { findClass, formatPercent, listNames, showClasses } from "./class_list.js";
import { OPACITY } from "./look.js";
import { Model, toProbabilities } from "./model.js";
import { Overlay } from "./overlay.js";
import { PageError } from "./page_error.js";
import { readPicture } from "./picture.js";

const EMBEDDED = { address: "model.onnx", name: "Embedded classifier" };
const EXAMPLE = { address: "scene.jpg", name: "example" };

const find = (id) => document.getElementById(id);
const state = { model: null, picture: null, overlay: null, names: [], chosen: null, method: null, asked: 0, running: 0 };

/** Does something that takes a while, and says what went wrong. */
async function doing(what, work) {
  const busy = find("busy");
  busy.textContent = what;
  busy.hidden = false;
  state.running += 1;
  find("alert").hidden = true;
  try {
    await work();
  } catch (error) {
    if (!(error instanceof PageError)) console.error(error);
    find("alert").textContent = error instanceof PageError ? error.message : `Something went wrong: ${error.message}`;
    find("alert").hidden = false;
    find("alert").scrollIntoView({ block: "nearest" });
  } finally {
    state.running -= 1;
    busy.hidden = state.running === 0;
  }
}

async function download({ address, name }) {
  const answer = await fetch(address).catch(() => null);
  if (!answer?.ok) throw new PageError(`${name} could not be loaded; load the page again.`);
  return answer.blob();
}

async function setModel(name, blob) {
  const model = await Model.open(name, new Uint8Array(await blob.arrayBuffer()));
  state.model?.close();
  Object.assign(state, { model, chosen: null });
  const { preprocessing: steps, runtime, size, maps } = model;
  const facts = [name, `${(size / 1e6).toFixed(1)} MB`, `${steps.width} × ${steps.height} pixels`, runtime];
  find("model-facts").replaceChildren(
    ...facts.map((fact) => Object.assign(document.createElement("span"), { textContent: fact })),
  );
  find("method").replaceChildren(...maps.map(({ method, output }) => new Option(method, output)));
  find("method-row").hidden = maps.length < 2;
  state.names = [];
  await explain(null);
}

async function setPicture(picture) {
  Object.assign(state, { picture, overlay: new Overlay(picture, find("canvas")) });
  await explain(null);
  find("frame").scrollIntoView({ block: "nearest" });
}

/** Explains a class, or the predicted one where there is none. */
async function explain(target) {
  const { model, picture, overlay } = state;
  if (!model || !picture) return;
  const asked = ++state.asked;
  const [{ value: output, label: method }] = find("method").selectedOptions;
  const { scores, map, box } = await model.explain(picture, output, target);
  if (asked !== state.asked) return; // something else was chosen meanwhile
  const probabilities = toProbabilities(scores);
  const best = probabilities.reduce((top, p, index) => (p > probabilities[top] ? index : top), 0);
  Object.assign(state, { chosen: target ?? best, method });
  overlay.setMap(map, box);
  if (!state.names.length) state.names = listNames(find("names"), model, scores.length);
  find("search-form").hidden = scores.length < 2;
  showClasses(find("classes"), model, probabilities, state.chosen);
  const label = model.label(state.chosen);
  const empty = map.data.every((level) => level === 0);
  find("caption").textContent = empty
    ? `Nothing in the picture speaks for ${label}: its map is zero everywhere.`
    : `Where the model sees ${label} (${formatPercent(probabilities[state.chosen])}).`;
  find("canvas").setAttribute("aria-label", `${picture.name} with the ${method} map of ${label}`);
  for (const id of ["classes", "search", "search-button"]) find(id).disabled = !model.target;
  find("save").disabled = false;
  draw();
}

function draw() {
  const opacity = Number(find("opacity").value);
  find("opacity-value").textContent = `${opacity} %`;
  const show = document.querySelector("input[name=show]:checked").value;
  find("opacity").disabled = show !== "both";
  state.overlay?.draw(show, opacity / 100);
}

function save() {
  find("canvas").toBlob((blob) => {
    const words = [state.picture.name.replace(/\.\w+$/, ""), state.method, state.model.label(state.chosen)];
    const link = document.createElement("a");
    link.href = URL.createObjectURL(blob);
    link.download = `${words.join("-").replace(/[^\p{L}\p{N}_.-]+/gu, "-")}.png`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
  });
}

function search() {
  const found = findClass(state.names, find("search").value);
  if (found === null) throw new PageError(`No class, or more than one, is called “${find("search").value}”.`);
  find("search").value = "";
  return explain(found);
}

/** Takes a file that was chosen or dropped: a model by its name, else a picture. */
function take(file) {
  if (!file) return undefined;
  if (/\.onnx$/i.test(file.name)) return doing("Loading the model…", () => setModel(file.name, file));
  return doing("Reading the picture…", async () => setPicture(await readPicture(file, file.name)));
}

const useExample = async () => setPicture(await readPicture(await download(EXAMPLE), EXAMPLE.name));
const useEmbedded = async () => setModel(EMBEDDED.name, await download(EMBEDDED));

function listen() {
  const on = (id, event, action) => find(id).addEventListener(event, action);
  on("picture-file", "change", async ({ target }) => {
    await take(target.files[0]);
    target.value = "";
  });
  on("model-file", "change", async ({ target }) => {
    const [file] = target.files;
    if (file) await doing("Loading the model…", () => setModel(file.name, file));
    target.value = "";
  });
  on("example", "click", () => doing("Reading the picture…", useExample));
  on("embedded", "click", () => doing("Loading the model…", useEmbedded));
  on("camera", "click", () =>
    doing("Waiting for the camera…", async () => {
      const picture = await askForPicture(find("camera-dialog"));
      if (picture) await setPicture(picture);
    }),
  );
  on("classes", "change", ({ target }) => doing("Explaining…", () => explain(Number(target.value))));
  on("method", "change", () => doing("Explaining…", () => explain(state.chosen)));
  on("search-form", "submit", (event) => {
    event.preventDefault();
    doing("Explaining…", async () => search());
  });
  on("opacity", "input", draw);
  on("save", "click", save);
  document.querySelectorAll("input[name=show]").forEach((radio) => radio.addEventListener("change", draw));
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("dragging");
  });
  document.addEventListener("dragleave", ({ relatedTarget }) => {
    if (!relatedTarget) document.body.classList.remove("dragging");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    take(event.dataTransfer.files[0]);
  });
  document.addEventListener("paste", ({ clipboardData }) => take(clipboardData.files[0]));
}

document.body.classList.add("started");
find("opacity").value = 100 * OPACITY;
draw();
listen();
await doing("Loading the classifier…", async () => {
  await Promise.all([useExample(), useEmbedded()]);
});
document.body.classList.add("ready");
