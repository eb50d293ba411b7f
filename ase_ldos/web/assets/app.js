// The server's page: choose a structure, run, follow the queue, look at results.

import { button, choice, element, labelled, number, show } from "./elements.js";
import { load, ResultView } from "./result_view.js";

const state = { info: null, structure: null, jobs: [], shown: null, structureUse: 0 };
const $ = (id) => document.getElementById(id);

async function call(method, path, body) {
  const response = await fetch(path, {
    method,
    credentials: "same-origin",
    headers: body ? { "Content-Type": "application/json" } : {},
    body: body ? JSON.stringify(body) : undefined,
  });
  if (response.status === 401) {
    window.location.href = "login";
    throw new Error("a token is needed");
  }
  if (response.status === 204) return null;
  const text = await response.text();
  let content = null;
  try {
    content = JSON.parse(text);
  } catch {
    content = { error: text };
  }
  if (!response.ok) throw new Error(content.error || `the server answered ${response.status}`);
  return content;
}

// -------------------------------------------------------------------- structure

function structurePanel() {
  const { info } = state;
  const tell = element("p", { class: "status", role: "status", "aria-live": "polite", id: "structure-status" }, "No structure yet.");
  const panels = { file: filePanel(tell), example: examplePanel(tell), build: buildPanel(tell) };
  const place = element("div", { role: "tabpanel" });
  const names = { file: "File", example: "Example", build: "Build" };
  const tabs = element("div", { class: "tabs", role: "tablist", "aria-label": "Where the structure comes from" });
  const open = (name) => {
    for (const tab of tabs.children) {
      const isOpen = tab.dataset.name === name;
      tab.setAttribute("aria-selected", String(isOpen));
      tab.tabIndex = isOpen ? 0 : -1;
    }
    place.replaceChildren(panels[name]);
  };
  for (const [name, text] of Object.entries(names)) {
    tabs.append(button(text, () => open(name), { role: "tab", "data-name": name }));
  }
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = [...tabs.children];
    const next = all[(all.findIndex((tab) => tab.getAttribute("aria-selected") === "true") + step + all.length) % all.length];
    open(next.dataset.name);
    next.focus();
  });
  open("file");
  $("structure").replaceChildren(tabs, place, tell);
  $("limits").textContent = `This server takes up to ${info.limits.atoms} atoms, ${show(info.limits.upload / 2 ** 20, 0)} MB a file, ${info.limits.steps} steps, ${show(info.limits.seconds / 60, 0)} minutes and ${show(info.limits.memory / 2 ** 30, 1)} GiB a run. ${info.program}.`;
}

function filePanel(tell) {
  const input = element("input", { type: "file", id: "file", "aria-describedby": "file-hint", onchange: () => input.files[0] && take(input.files[0]) });
  const drop = element(
    "div",
    { class: "drop", id: "drop" },
    element("label", { for: "file" }, "Drop a structure file here, or choose one: "),
    input,
    element("p", { class: "hint", id: "file-hint" }, "extxyz, CIF, POSCAR, cube, Quantum ESPRESSO, … Of several structures the last is taken."),
  );
  const take = async (file) => {
    if (file.size > state.info.limits.upload) {
      tell.textContent = `${file.name} is larger than ${show(state.info.limits.upload / 2 ** 20, 0)} MB, the most that this server takes.`;
      return;
    }
    const bytes = new Uint8Array(await file.arrayBuffer());
    let characters = "";
    for (let i = 0; i < bytes.length; i += 32768) characters += String.fromCharCode(...bytes.subarray(i, i + 32768));
    await prepare({ source: "file", name: file.name, content: btoa(characters) }, file.name, tell);
  };
  drop.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (event.dataTransfer.files[0]) take(event.dataTransfer.files[0]);
  });
  return drop;
}

function examplePanel(tell) {
  const known = new Set(state.info.elements);
  const examples = state.info.examples.filter((example) => example.elements.every((name) => known.has(name)));
  const pick = choice(examples.map(({ name, title }) => [name, title]), { id: "example" });
  const use = () => prepare({ source: "example", name: pick.value }, pick.selectedOptions[0].textContent, tell);
  return element("div", { class: "form" }, labelled("Example", pick), button("Take it", use, { id: "take-example" }));
}

function buildPanel(tell) {
  const { info } = state;
  const symbol = choice(info.elements.map((name) => [name, name]));
  const lattice = choice(info.lattices.map((name) => [name, name]));
  const [a, c, rattle, strain, seed] = [number("", { min: 1 }), number("", { min: 1 }), number(0, { min: 0, max: 0.5 }), number(0, { min: -20, max: 20 }), number(1, { min: 0, step: 1 })];
  const sizes = ["a", "b", "c"].map((axis) => number(1, { min: 1, max: 64, step: 1, "aria-label": `repetitions along ${axis}` }));
  const fault = choice([["none", "none"], ["I1", "hcp growth fault I₁"], ["I2", "hcp deformation fault I₂"], ["E", "hcp extrinsic fault E"], ["fcc-intrinsic", "fcc intrinsic"], ["fcc-extrinsic", "fcc extrinsic"]]);
  const constants = () => {
    const [first, second] = info.lattice_constants[symbol.value][lattice.value];
    a.value = first.toFixed(4);
    c.value = second.toFixed(4);
    c.disabled = lattice.value !== "hcp";
  };
  symbol.addEventListener("change", () => {
    const model = info.models.find(({ elements }) => elements.includes(symbol.value));
    if (model && symbol.value === "Al") lattice.value = "fcc";
    constants();
  });
  lattice.addEventListener("change", constants);
  constants();
  const build = () =>
    prepare(
      {
        source: "build",
        element: symbol.value,
        lattice: lattice.value,
        a: Number(a.value),
        c: lattice.value === "hcp" ? Number(c.value) : null,
        supercell: sizes.map((input) => Number(input.value)),
        fault: fault.value,
        rattle: Number(rattle.value),
        strain: Number(strain.value),
        seed: Number(seed.value),
      },
      `${symbol.value} ${lattice.value}`,
      tell,
    );
  return element(
    "div",
    { class: "form" },
    labelled("Element", symbol),
    labelled("Lattice", lattice),
    labelled("a (Å)", a),
    labelled("c (Å)", c),
    element("div", { class: "field" }, element("span", {}, "Supercell"), element("span", { class: "triple" }, ...sizes)),
    labelled("Fault", fault),
    labelled("Strain (%)", strain),
    labelled("Rattle (Å)", rattle),
    labelled("Seed", seed),
    button("Build it", build, { id: "build" }),
  );
}

/** Have the server read or build a structure; what is used is what came last. */
async function prepare(structure, title, tell) {
  state.structureUse += 1;
  const use = state.structureUse;
  tell.textContent = "Reading …";
  $("run-button").disabled = true;
  try {
    const job = await finished(await call("POST", "api/jobs", { kind: "structure", title, structure }), (now) => {
      if (now.state === "queued") tell.textContent = `Waiting: ${now.ahead} before this one …`;
    });
    if (use !== state.structureUse) return;
    if (job.state !== "done") throw new Error(job.error || job.state);
    state.structure = job;
    const { formula, n_atoms: atoms, lengths, angles, remarks } = job.result;
    tell.textContent = `${formula}: ${atoms} atom${atoms === 1 ? "" : "s"}; a, b, c = ${lengths.map((x) => show(x, 2)).join(", ")} Å; angles ${angles.map((x) => show(x, 0)).join(", ")}°. ${remarks.join(" ")}`;
    offerModels(job.result.elements);
  } catch (error) {
    if (use !== state.structureUse) return;
    state.structure = null;
    tell.textContent = `This does not work: ${error.message}`;
  }
  updateRun();
}

async function finished(job, watch = () => {}) {
  let now = job;
  while (now.state === "queued" || now.state === "running") {
    watch(now);
    await new Promise((resolve) => setTimeout(resolve, 250));
    now = await call("GET", `api/jobs/${now.number}`);
  }
  return now;
}

// -------------------------------------------------------------------- run

function runPanel() {
  const model = choice([], { id: "model", onchange: () => modelChanged() });
  const temperature = number("", { id: "temperature", min: 1 });
  const spacing = number("", { id: "spacing", min: 0.1, max: 0.6 });
  const kind = choice([["predict", "predict"], ["relax", "relax"], ["md", "molecular dynamics"]], { id: "kind", onchange: () => kindChanged() });
  const fields = {
    predict: [["forces", labelled("Forces and stress", element("input", { type: "checkbox", checked: true, id: "forces" }))]],
    relax: [
      ["fmax", labelled("Until forces below (eV/Å)", number(0.02, { id: "fmax", min: 0.0001 }))],
      ["steps", labelled("Steps at most", number(50, { id: "relax-steps", min: 1, step: 1 }))],
      ["cell", labelled("Cell too", element("input", { type: "checkbox", id: "cell" }))],
    ],
    md: [
      ["steps", labelled("Steps", number(50, { id: "md-steps", min: 1, step: 1 }))],
      ["timestep", labelled("Time step (fs)", number(1, { id: "timestep", min: 0.05, max: 10 }))],
      ["ion_temperature", labelled("Ions at (K)", number(300, { id: "ion-temperature", min: 0 }))],
      ["thermostat", labelled("Thermostat", choice([["none", "none (constant energy)"], ["langevin", "Langevin"]], { id: "thermostat" }))],
      ["seed", labelled("Seed", number(1, { id: "seed", min: 0, step: 1 }))],
    ],
  };
  const extra = element("div", { class: "form", id: "kind-fields" });
  const kindChanged = () => extra.replaceChildren(...fields[kind.value].map(([, field]) => field));
  const problem = element("p", { class: "status", role: "alert", id: "run-status" });
  const run = element("button", { type: "submit", class: "primary", id: "run-button", disabled: true }, "Run");
  const form = element(
    "form",
    {
      class: "form",
      novalidate: true,
      onsubmit: async (event) => {
        event.preventDefault();
        problem.textContent = "";
        const request = { kind: kind.value, of: state.structure.number, model: model.value, temperature: Number(temperature.value), spacing: Number(spacing.value) };
        for (const [name, field] of fields[kind.value]) {
          const input = field.querySelector("input, select");
          request[name] = input.type === "checkbox" ? input.checked : input.type === "number" ? Number(input.value) : input.value;
        }
        request.title = `${state.structure.title}: ${kind.selectedOptions[0].textContent}, ${model.value}, ${request.temperature} K`;
        try {
          const job = await call("POST", "api/jobs", request);
          state.waitingFor = job.number;
          await refresh();
        } catch (error) {
          problem.textContent = error.message;
        }
      },
    },
    labelled("Model", model),
    labelled("Electrons at (K)", temperature),
    labelled("Grid spacing (Å)", spacing),
    labelled("What", kind),
    extra,
    run,
    problem,
  );
  kindChanged();
  $("run").replaceChildren(form);
  offerModels([]);
}

/** Models that know these elements. */
function offerModels(elements) {
  const select = $("model");
  const before = select.value;
  const fitting = state.info.models.filter((model) => elements.every((name) => model.elements.includes(name)));
  select.replaceChildren(...fitting.map(({ name, elements: known, functional }) => element("option", { value: name }, `${name} (${known.join(", ")}, ${functional.toUpperCase()})`)));
  if (fitting.some(({ name }) => name === before)) select.value = before;
  else modelChanged();
  $("run-status").textContent = fitting.length ? "" : `No model of this server knows ${elements.join(", ")}.`;
}

function modelChanged() {
  const model = state.info.models.find(({ name }) => name === $("model").value);
  if (!model) return;
  $("temperature").value = model.temperature;
  $("spacing").value = model.spacing;
}

function updateRun() {
  $("run-button").disabled = !(state.structure && $("model").value);
}

// -------------------------------------------------------------------- runs

async function refresh() {
  try {
    state.jobs = await call("GET", "api/jobs");
    document.body.classList.remove("offline");
  } catch (error) {
    $("jobs").replaceChildren(element("p", { class: "warning", role: "alert" }, `The server does not answer (${error.message}); trying again.`));
    return;
  }
  drawJobs();
  const awaited = state.jobs.find(({ number: n }) => n === state.waitingFor);
  if (awaited && awaited.state === "done") {
    state.waitingFor = null;
    await open(awaited);
  }
}

// items of the list are kept as long as nothing but the progress changes: a button must not vanish under a click
const items = new Map();

function drawJobs() {
  const list = $("jobs").querySelector("ul") || element("ul", { class: "jobs" });
  const shown = state.jobs.filter(({ kind }) => kind !== "window");
  const made = shown.map((job) => {
    const signature = JSON.stringify([job.title, job.state, job.error]);
    if (!items.has(job.number) || items.get(job.number).signature !== signature) items.set(job.number, { signature, ...jobItem(job) });
    const { item, update } = items.get(job.number);
    item.classList.toggle("current", job.number === state.shown);
    update(job);
    return item;
  });
  for (const number of items.keys()) if (!shown.some((job) => job.number === number)) items.delete(number);
  if (made.length !== list.children.length || made.some((item, i) => list.children[i] !== item)) list.replaceChildren(...made);
  if (!shown.length) $("jobs").replaceChildren(element("p", { class: "hint" }, "Nothing has been run yet."));
  else if (!list.isConnected) $("jobs").replaceChildren(list);
}

/** An item of the list, and a function that tells it how far the job is. */
function jobItem(job) {
  const act = (method, path) => async () => {
    await call(method, path).catch(() => {});
    await refresh();
  };
  const parts = [element("span", { class: "title" }, job.title)];
  const cancel = () => button("Cancel", act("POST", `api/jobs/${job.number}/cancel`), { class: "job-cancel", "aria-label": `Cancel ${job.title}` });
  const remove = () => button("Remove", act("DELETE", `api/jobs/${job.number}`), { class: "job-remove", "aria-label": `Remove ${job.title}` });
  let update = () => {};
  if (job.state === "queued") {
    const text = element("p", {});
    parts.push(text, cancel());
    update = ({ ahead }) => { text.textContent = `waiting, ${ahead} before this one`; };
  } else if (job.state === "running") {
    const bar = element("progress", { max: 1, value: job.part, "aria-label": `progress of ${job.title}` });
    const text = element("p", {});
    parts.push(bar, text, cancel());
    update = (now) => {
      bar.value = now.part;
      text.textContent = `${now.text || "starting"}${now.remaining === null ? "" : `, about ${duration(now.remaining)} left`}`;
    };
  } else if (job.state === "done") {
    parts.push(
      element("p", {}, `${job.result.n_atoms} atoms, ${show(job.result.free_energy_per_atom, 4)} eV/atom, took ${duration(job.finished - job.started)}`),
      element("div", { class: "buttons" }, button("Show", () => open(job), { class: "job-show", "aria-label": `Show ${job.title}` }), remove()),
    );
  } else {
    parts.push(element("p", { class: job.state === "cancelled" ? null : "problem" }, `${job.state}${job.error ? `: ${job.error}` : ""}`), remove());
  }
  return { item: element("li", { "data-state": job.state }, ...parts), update };
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

async function document_(number) {
  const result = await call("GET", `api/jobs/${number}/files/view.json`);
  return result;
}

async function open(job) {
  state.shown = job.number;
  drawJobs();
  const place = $("result");
  place.replaceChildren(element("p", { role: "status" }, "Loading …"));
  try {
    const result = await load({ ...(await document_(job.number)), title: job.title });
    if (state.shown !== job.number) return;
    const others = state.jobs
      .filter((other) => other.state === "done" && other.kind !== "window" && other.number !== job.number)
      .map((other) => ({ title: other.title, load: async () => load({ ...(await document_(other.number)), title: other.title }) }));
    const view = new ResultView(result, { others, downloads: downloads(job, () => view.window) });
    place.replaceChildren(view.root);
    place.focus({ preventScroll: true });
    // for tests and for those who look behind the page
    window.aseLdosView = view;
  } catch (error) {
    place.replaceChildren(element("p", { class: "warning", role: "alert" }, `The result cannot be shown: ${error.message}`));
  }
}

function downloads(job, getWindow) {
  const names = {
    "structure.extxyz": "Structure (extxyz)",
    "trajectory.extxyz": "Trajectory (extxyz)",
    "density.cube": "Density (cube)",
    "result.npz": "Numbers (npz)",
    "script.py": "Python script",
    "report.html": "Report (one HTML file)",
  };
  const links = job.result.files
    .filter((name) => names[name])
    .map((name) => element("a", { class: "button", href: `api/jobs/${job.number}/files/${name}`, download: "", "data-file": name }, names[name]));
  const told = element("span", { class: "status", role: "status" });
  const cube = button("States of the window (cube, full grid)", async () => {
    const window_ = getWindow();
    if (!window_ || window_[0] === window_[1]) {
      told.textContent = "Choose a window of energies on the DOS plot first.";
      return;
    }
    told.textContent = "Calculating on the full grid …";
    try {
      const { model, temperature, spacing } = job.request;
      const done = await finished(await call("POST", "api/jobs", { kind: "window", title: `window of ${job.title}`, of: job.number, model, temperature, spacing, low: window_[0], high: window_[1] }));
      if (done.state !== "done") throw new Error(done.error || done.state);
      told.replaceChildren(element("a", { class: "button", href: `api/jobs/${done.number}/files/window.cube`, download: "", "data-file": "window.cube" }, `States from ${show(window_[0], 2)} to ${show(window_[1], 2)} eV`));
    } catch (error) {
      told.textContent = error.message;
    }
  });
  return [...links, cube, told];
}

// -------------------------------------------------------------------- start

async function start() {
  state.info = await call("GET", "api/info");
  structurePanel();
  runPanel();
  await refresh();
  $("result").replaceChildren(element("p", { class: "hint" }, "Choose a structure, run, and the result appears here."));
  const every = async () => {
    const busy = state.jobs.some((job) => job.state === "queued" || job.state === "running");
    await new Promise((resolve) => setTimeout(resolve, busy ? 700 : 4000));
    await refresh();
    every();
  };
  every();
}

start();
