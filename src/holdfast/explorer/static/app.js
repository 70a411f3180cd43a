// The page: what is chosen, what is under way, and what came of it.

import * as api from "./api.js";
import { hub, hubDone, won } from "./hub.js";
import { compared, pair, pairDone } from "./pair.js";
import { count, counted, el, hits, lists, ranking } from "./view.js";

const EVERY = 200; // milliseconds between two questions about an attack
const SETTINGS = ["eps", "steps", "step", "seed"];

// What is shown of an attack: a line of the board, a model below it, and a word when it is done.
const SHOWN = {
  ranking: { row: ranking, model: lists, done: (about, { after }) => `${about.name} finds ${hits(after.found)} of ${after.found.length}` },
  hub: { row: hub, model: won, done: hubDone },
  pair: { row: pair, model: compared, done: pairDone },
};

const wide = matchMedia("(min-width: 62.01rem)"); // choices and results side by side
const $ = (id) => document.getElementById(id);
const state = { scene: null, search: "", page: 0, pages: 1, total: 0, query: null, clean: null, asking: null, busy: false, job: null, attack: null, template: null, picking: false };
const address = (id) => `images/${id}.png?of=${state.scene.key}`;

function complain(error) {
  if (error.name === "AbortError") return;
  if (!(error instanceof api.Refused)) console.error(error);
  $("alert").textContent = error.message;
  $("alert").hidden = false;
}

const settle = () => ($("alert").hidden = true);

// --- choosing

async function gallery(search, page) {
  const found = await api.images(search, page);
  Object.assign(state, { search, page, pages: found.pages, total: found.total });
  $("gallery").replaceChildren(...found.images.map((image) =>
    el("li", {}, el("button", { type: "button", "data-id": image.id, "aria-pressed": "false", title: `${image.class}, ${image.name}`, onclick: () => taken({ ...image, key: String(image.id) }) },
      el("img", { class: "image", src: address(image.id), alt: `${image.class}, ${image.name}`, loading: "lazy" })))));
  $("page").textContent = found.total ? `${page + 1} of ${count(found.pages)}, ${counted(found.total, "image")}` : "nothing is found";
  $("previous").disabled = page <= 0;
  $("next").disabled = page >= found.pages - 1;
  $("any").disabled = !found.total;
  mark();
  return found.images;
}

function mark() {
  for (const button of $("gallery").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(state.query?.key === button.dataset.id));
  }
}

const taken = (image) => (state.picking ? compareWith(image) : choose(image));

// What an attack on a verifier compares the query with; null: the attack chooses it.
function compareWith(image) {
  settle();
  state.template = image;
  pick(false);
  $("template").hidden = $("unpick").hidden = !image;
  if (image) Object.assign($("template"), { src: address(image.id), alt: image.class });
  $("template-name").textContent = image ? `${image.class}, ${image.name}` : "an image that the attack chooses";
}

function pick(picking) {
  state.picking = picking;
  $("pick").setAttribute("aria-pressed", String(picking));
  $("pick").textContent = picking ? "Click it among the images" : "Choose it";
}

async function choose(query) {
  settle();
  state.query = query; // what is under way for another one is stopped by its follower
  state.clean = null;
  enable();
  if (!query.upload) {
    $("upload-note").textContent = "";
    $("counts-as").hidden = true;
  }
  mark();
  await look();
}

// What each model finds for the chosen image as it is.
async function look() {
  state.asking?.abort();
  const asking = (state.asking = new AbortController());
  const { query } = state;
  try {
    const found = await api.found(query.key, query.label ?? null, asking.signal);
    if (asking !== state.asking) return;
    Object.assign(query, { label: query.upload ? found.label : null, class: found.class });
    state.clean = found.models;
    enable();
    $("query").src = query.upload ? `uploads/${query.key.slice(7)}.png` : address(query.id);
    $("query").alt = query.class;
    $("query").hidden = false;
    $("asked").replaceChildren(el("b", {}, query.class), query.upload ? ", uploaded: not in the gallery" : `, ${query.name}`);
    show();
    $("status").textContent = "";
  } catch (error) {
    complain(error);
  }
}

async function any() {
  const n = Math.floor(Math.random() * state.total);
  const size = state.scene.limits.page;
  const image = (await gallery(state.search, Math.floor(n / size)))[n % size];
  if (image) await choose({ ...image, key: String(image.id) });
}

async function upload(file) {
  settle();
  const { bytes } = state.scene.limits;
  try {
    if (file.size > bytes) throw new api.Refused(`the file is larger than ${bytes / 2 ** 20} MB, the most that is taken`);
    $("upload-note").textContent = "Uploading …";
    const taken = await api.upload(file);
    const remarks = taken.remarks.map((remark) => ` (${remark})`).join("");
    $("upload-note").textContent = `${file.name}${remarks}: it counts as ${taken.class}, the class of the nearest gallery image, ${taken.nearest.name}, for ${state.scene.models[0].name}. Change that if it is wrong.`;
    $("label").value = String(taken.label);
    $("counts-as").hidden = false;
    await choose({ key: taken.key, upload: true, label: taken.label, class: taken.class });
  } catch (error) {
    $("upload-note").textContent = "";
    complain(new api.Refused(`${file.name}: ${error.message}`));
  }
  $("file").value = "";
}

// --- attacking

const attackNamed = (name) => state.scene.attacks.find((one) => one.name === name);

function describe() {
  const { aim, takes } = attackNamed($("attack").value);
  $("aim").textContent = aim;
  $("compare").hidden = !takes.includes("template");
  pick(false);
  for (const name of SETTINGS) {
    $(name).disabled = !takes.includes(name); // what is hidden keeps no form from being sent
    $(name).closest(".setting").hidden = $(name).disabled;
  }
}

async function start() {
  settle();
  const { query } = state;
  const settings = { query: query.key, attack: $("attack").value };
  state.attack = attackNamed(settings.attack);
  for (const name of SETTINGS) if (state.attack.takes.includes(name)) settings[name] = $(name).valueAsNumber;
  if (state.template && state.attack.takes.includes("template")) settings.template = state.template.key;
  if (query.upload) settings.label = query.label;
  busy(true);
  show();
  if (wide.matches) reveal();
  try {
    state.job = await api.attack(settings);
    $("cancel").disabled = false;
    await follow(state.job.id, query);
  } catch (error) {
    complain(error);
    $("status").textContent = "";
    if (state.clean && state.query === query) show();
  }
  state.job = null;
  busy(false);
}

async function follow(id, query) {
  for (let job = state.job; ; job = await api.job(id)) {
    if (state.query !== query) {
      $("status").textContent = "";
      return api.cancel(id);
    }
    progress(job);
    if (job.state === "done") return done(job);
    if (job.state === "failed") throw new api.Refused(job.message);
    if (job.state === "cancelled") {
      $("status").textContent = "Cancelled.";
      return show();
    }
    await new Promise((resolve) => setTimeout(resolve, EVERY));
  }
}

function progress(job) {
  const { models } = state.scene;
  if (job.state === "queued") $("status").textContent = `Waiting: ${job.position} before this one.`;
  if (job.state !== "running" || !job.progress) return;
  const { model: at, step, steps, traces } = job.progress;
  $("progress").value = (at + step / Math.max(1, steps)) / models.length;
  $("status").textContent = `${models[at].name}: step ${step} of ${steps}`;
  show(null, traces, steps);
}

function done(job) {
  const said = job.result.models.map((one, i) => SHOWN[state.attack.shows].done(state.scene.models[i], one));
  $("status").textContent = `Done: ${said.join(", ")}.`;
  show(job, job.result.models.map((one) => one.trace), job.result.of);
  reveal();
}

// Bring the verdicts into view.
function reveal() {
  const { top, bottom } = $("board").getBoundingClientRect();
  if (top < 0 || bottom > innerHeight) $("results").scrollIntoView({ block: "start" });
}

async function stop() {
  $("cancel").disabled = true;
  try {
    await api.cancel(state.job.id);
  } catch (error) {
    complain(error);
  }
}

// An attack can be made of a query whose clean ranking is known, one at a time.
function enable() {
  $("go").disabled = state.busy || !state.clean;
}

function busy(running) {
  state.busy = running;
  enable();
  $("cancel").disabled = true; // until the server knows what to cancel
  $("progress").hidden = !running;
  $("progress").value = 0;
  $("status").textContent = running ? "Starting …" : $("status").textContent;
}

// --- showing

function show(job = null, traces = [], steps = 1) {
  const { models } = state.scene;
  const results = job?.result.models;
  const { row, model } = SHOWN[traces.length ? state.attack.shows : "ranking"];
  $("board").replaceChildren(el("ol", { class: "board" }, ...models.map((about, i) =>
    row(about, state.query.class, state.clean[i], results?.[i], traces[i], steps, job?.result.genuine))));
  if (traces.length && !job) return;
  $("models").replaceChildren(...models.map((about, i) =>
    model(about, state.clean[i], results?.[i], job?.result, state.attack, address,
      (name) => `results/${job.id}/${name === "clean" ? name : `${i}-${name}`}.png`)));
}

function fill(scene) {
  state.scene = scene;
  const { data, size, queries, gallery: items, models, defaults, index } = scene;
  const many = queries === items ? counted(items, "image") : `${counted(queries, "query", "queries")}, ${counted(items, "gallery image")}`;
  $("subject").textContent = `${data}, ${many} of ${size} pixels. ${counted(models.length, "model")}.${index ? ` Searched by the index ${index}.` : ""}`;
  $("classes").replaceChildren(...scene.classes.slice(0, 300).map(([, name]) => el("option", { value: name })));
  $("label").replaceChildren(...scene.classes.map(([label, name]) => el("option", { value: label }, name)));
  $("attack").replaceChildren(...scene.attacks.map(({ name, title }) => el("option", { value: name }, title)));
  for (const name of SETTINGS) $(name).value = String(Number(defaults[name].toFixed(3)));
  $("eps-range").value = $("eps").value;
  $("steps").max = String(scene.limits.steps);
  document.documentElement.classList.toggle("tiny", size <= 64);
  describe();
  compareWith(null);
}

const guarded = (action) => (...given) => action(...given).catch(complain);

$("search-form").addEventListener("submit", (event) => {
  event.preventDefault();
  settle();
  guarded(gallery)($("search").value, 0);
});
$("search").addEventListener("search", () => $("search").value || guarded(gallery)("", 0)); // its ✕ was pressed
$("previous").addEventListener("click", () => guarded(gallery)(state.search, state.page - 1));
$("next").addEventListener("click", () => guarded(gallery)(state.search, state.page + 1));
$("any").addEventListener("click", guarded(any));
$("file").addEventListener("change", () => $("file").files[0] && upload($("file").files[0]));
$("label").addEventListener("change", () => guarded(choose)({ ...state.query, label: Number($("label").value) }));
$("attack").addEventListener("change", describe);
$("pick").addEventListener("click", () => pick(!state.picking));
$("unpick").addEventListener("click", () => compareWith(null));
$("eps-range").addEventListener("input", () => ($("eps").value = $("eps-range").value));
$("eps").addEventListener("input", () => ($("eps-range").value = $("eps").value));
$("attack-form").addEventListener("submit", (event) => {
  event.preventDefault();
  start();
});
$("cancel").addEventListener("click", stop);
addEventListener("pagehide", api.leave);

try {
  fill(await api.scene());
  const images = await gallery("", 0);
  if (images.length) await choose({ ...images[0], key: String(images[0].id) });
} catch (error) {
  $("subject").textContent = "";
  complain(error);
}
