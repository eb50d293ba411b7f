// A result to look at: the same in the server's page, in a report and in a notebook.

import { decode, item } from "./arrays.js";
import { DosPlot } from "./dos_plot.js";
import { button, choice, cssColor, element, labelled, number, range, saveAs, show, table } from "./elements.js";
import { difference, energyField, extremes, norm, quantile, windowField } from "./fields.js";
import { Scene } from "./scene.js";

const GPA = 160.21766; // of 1 eV/Å³
const MOST_CELLS = 2e6; // points that an isosurface is sought among

/** Decode the arrays of a document. */
export async function load(document_) {
  const optional = async (array) => (array ? decode(array) : null);
  const [positions, forces, density, bins, distances, byAtom, forceDeviations] = await Promise.all([
    decode(document_.atoms.positions),
    optional(document_.forces),
    decode(document_.density),
    decode(document_.bins.fields),
    optional(document_.extrapolation && document_.extrapolation.distances),
    optional(document_.dos.by_atom),
    optional(document_.deviations && document_.deviations.forces),
  ]);
  const result = { document: document_, positions: rows(positions), density, bins, forces: forces && rows(forces), distances: distances && distances.data, byAtom, forceDeviations: forceDeviations && forceDeviations.data };
  if (document_.film) {
    const [places, cells, dos, densities] = await Promise.all(["positions", "cell", "dos", "density"].map((name) => decode(document_.film[name])));
    result.film = { ...document_.film, positions: places, cell: cells, dos, density: densities };
  }
  return result;
}

function rows(array) {
  const made = [];
  for (let i = 0; i < array.data.length; i += 3) made.push([array.data[i], array.data[i + 1], array.data[i + 2]]);
  return made;
}

/** The whole page of a report. */
export async function showReport(root, documents) {
  const results = await Promise.all(documents.map(load));
  const place = element("div", {});
  const open = (i) => {
    const others = results.filter((_, j) => j !== i).map((result) => ({ title: result.document.title, load: async () => result }));
    place.replaceChildren(new ResultView(results[i], { others }).root);
  };
  if (results.length > 1) {
    const pick = choice(results.map(({ document: d }, i) => [i, d.title]), { onchange: () => open(Number(pick.value)) });
    root.append(labelled("Result", pick));
  }
  root.append(place);
  open(0);
}

export class ResultView {
  /** options.others: [{title, load}] to compare with; options.downloads: elements for the list of downloads. */
  constructor(result, options = {}) {
    this.result = result;
    this.options = options;
    this.other = null;
    this.window = null;
    this.frame = null; // a picture of the film; null: the final, fine one
    const title = result.document.title;
    this.scene = new Scene(title);
    this.dos = new DosPlot((low, high) => this.setWindow(low, high));
    this.status = element("p", { class: "status", role: "status", "aria-live": "polite" });
    this.root = element(
      "article",
      { class: "result", "aria-label": title },
      this.#summary(),
      element(
        "div",
        { class: "columns" },
        element("section", { class: "card wide", "aria-label": "Structure and fields" }, this.scene.frame, this.#controls(), this.status),
        element("section", { class: "card", "aria-label": "Density of states" }, element("h3", {}, "Density of states"), this.dos.frame, this.#windowControls()),
        result.film ? this.#film() : null,
        this.#tables(),
        this.#downloads(),
      ),
    );
    requestAnimationFrame(() => this.#start());
  }

  #start() {
    if (!this.root.isConnected) {
      requestAnimationFrame(() => this.#start());
      return;
    }
    this.scene.start();
    this.#resetLevel();
    this.#drawDos();
    this.draw();
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.root.isConnected && this.draw());
  }

  /** Show the states of a window of energies; nulls: show the density again. */
  setWindow(low, high) {
    this.window = low === null ? null : [low, high];
    this.lowInput.value = low === null ? "" : low.toFixed(3);
    this.highInput.value = high === null ? "" : high.toFixed(3);
    this.dos.select(low, high);
    this.showInput.value = this.window ? "window" : "density";
    this.showInput.querySelector("option[value=window]").disabled = !this.window;
    if (this.options.onWindow) this.options.onWindow(this.window);
    this.#resetLevel();
    this.draw();
  }

  async compareWith(entry) {
    this.other = entry ? await entry.load() : null;
    const option = this.showInput.querySelector("option[value=difference]");
    option.disabled = !this.other;
    this.showInput.value = this.other ? "difference" : "density";
    this.compareTable.replaceChildren(...(this.other ? [this.#comparison()] : []));
    this.#resetLevel();
    this.#drawDos();
    this.draw();
  }

  // ------------------------------------------------------------------ what is shown

  #field() {
    const kind = this.showInput.value;
    const { result } = this;
    if (kind === "window" && this.#isEnergy()) return energyField(result.document.bins.edges, result.bins, this.window[0]);
    if (kind === "window" && this.window) return windowField(result.document.bins.edges, result.bins, ...this.window);
    if (kind === "difference" && this.other) return difference(result.density, this.other.density);
    return this.frame === null ? result.density : item(result.film.density, this.frame);
  }

  /** Whether one energy is chosen instead of a window. */
  #isEnergy() {
    return this.window !== null && this.window[0] === this.window[1];
  }

  #unit() {
    if (this.showInput.value === "window" && this.#isEnergy()) return "1/(eV Å³)";
    return { window: "states/Å³", difference: "e/Å³ (difference)" }[this.showInput.value] || "e/Å³";
  }

  #resetLevel() {
    const field = this.#field();
    const [low, high] = extremes(field);
    const isSigned = this.showInput.value === "difference";
    const top = isSigned ? Math.max(-low, high) : high;
    this.levelInput.min = String(isSigned ? top / 100 : Math.max(low, 0));
    this.levelInput.max = String(top);
    this.levelInput.step = String((top - Number(this.levelInput.min)) / 400 || 1e-9);
    this.levelInput.value = String(isSigned ? top / 3 : quantile(field, 0.85));
    this.sliceTop.value = top.toPrecision(3);
  }

  draw() {
    const { result } = this;
    const { document: d } = result;
    const kind = this.showInput.value;
    const field = this.#field();
    const level = Number(this.levelInput.value);
    this.levelText.textContent = `${level.toPrecision(3)} ${this.#unit()}`;
    const repeats = this.repeatInputs.map((input) => Math.min(4, Math.max(1, Math.round(Number(input.value)) || 1)));
    while (field.data.length * repeats[0] * repeats[1] * repeats[2] > MOST_CELLS && Math.max(...repeats) > 1) repeats[repeats.indexOf(Math.max(...repeats))] -= 1;
    const opacity = Number(this.opacityInput.value);
    const surfaces = [];
    if (this.surfaceInput.checked) {
      surfaces.push({ field, level, color: cssColor(kind === "difference" ? "--plus" : "--surface"), opacity });
      if (kind === "difference") surfaces.push({ field, level: -level, color: cssColor("--minus"), opacity });
    }
    const cell = this.frame === null ? d.atoms.cell : rows(item(result.film.cell, this.frame));
    const positions = this.frame === null ? result.positions : rows(item(result.film.positions, this.frame));
    this.scene.draw({
      atoms: d.atoms.symbols.map((symbol, i) => ({ symbol, position: positions[i] })),
      cell,
      repeats,
      elements: d.elements,
      colors: this.#atomColors(),
      radius: d.atoms.symbols.length > 500 ? 0.45 : 0.35,
      surfaces,
      slice: this.sliceInput.checked ? this.#slice(field, kind) : null,
      forces: this.forcesInput.checked && this.frame === null ? result.forces : null,
    });
    this.#tellStatus(kind, level, repeats);
  }

  #tellStatus(kind, level, repeats) {
    const { document: d } = this.result;
    const what = {
      density: "valence electron density",
      window: this.#isEnergy() ? `local density of states at ${show(this.window[0], 2)} eV (mean of a bin of ${show(d.bins.edges[1] - d.bins.edges[0], 2)} eV)` : this.window ? `states between ${show(this.window[0], 2)} and ${show(this.window[1], 2)} eV` : "",
      difference: this.other ? `density minus that of ${this.other.document.title}` : "",
    }[kind];
    const shape = (this.frame === null ? this.#field().shape : this.result.film.density.shape.slice(1)).join(" × ");
    const full = d.grid.join(" × ");
    const grid = shape === full ? `grid ${full}` : `drawn on ${shape} points, predicted on ${full}`;
    const cells = repeats[0] * repeats[1] * repeats[2] > 1 ? `, ${repeats.join(" × ")} cells` : "";
    this.status.textContent = `Shown: ${what}, surface at ${level.toPrecision(3)} ${this.#unit()}; ${grid}${cells}.`;
  }

  #slice(field, kind) {
    const top = Number(this.sliceTop.value) || 1;
    const scale = kind === "difference" ? (v) => diverging(v / top) : (v) => magma(v / top);
    return { field, miller: this.millerInputs.map((input) => Number(input.value) || 0), position: Number(this.slicePlace.value), scale };
  }

  #atomColors() {
    const { document: d, distances, forces, forceDeviations } = this.result;
    const kind = this.colorInput.value;
    if (kind === "deviation") {
      const largest = Math.max(...forceDeviations, 1e-9);
      return Array.from(forceDeviations, (x) => css(heat(x / largest)));
    }
    if (kind === "extrapolation") {
      const threshold = d.extrapolation.threshold;
      return Array.from(distances, (x) => css(heat(x / (2 * threshold))));
    }
    if (kind === "force") {
      const largest = Math.max(...forces.map(norm), 1e-9);
      return forces.map((f) => css(heat(norm(f) / largest)));
    }
    return d.atoms.symbols.map((symbol) => d.elements[symbol].color);
  }

  // ------------------------------------------------------------------ parts of the page

  #summary() {
    const { document: d, forceDeviations } = this.result;
    const bar = d.deviations || "";
    const rowsOf = [
      ["Formula", d.formula],
      ["Model", `${d.model.name}, ${d.model.functional.toUpperCase()}`],
      ["Electrons at", `${show(d.parameters.electronic_temperature, 0)} K`],
      ["Free energy", `${show(d.energies[6].energy)} eV (${show(d.energies[6].per_atom)}${bar && ` ± ${show(bar.free_energy / d.atoms.symbols.length, 4)}`} eV/atom)`],
      ["Fermi level μ", `${show(d.fermi_level, 4)}${bar && ` ± ${show(bar.fermi_level, 3)}`} eV`],
      ...(forceDeviations ? [["Forces", `± ${[...new Set([Math.min, Math.max].map((end) => show(forceDeviations.reduce((x, y) => end(x, y)), 3)))].join(" to ")} eV/Å in each component`]] : []),
      ["Grid", `${d.grid.join(" × ")} points`],
    ];
    const facts = element("dl", { class: "facts" });
    for (const [name, value] of rowsOf) facts.append(element("div", {}, element("dt", {}, name), element("dd", {}, value)));
    return element("header", { class: "summary" }, element("h2", {}, d.title), facts, this.#warning(), ...this.#barWords(), ...d.remarks.map((text) => element("p", { class: "notice" }, text)));
  }

  /** What the error bars mean, and where they mean less. */
  #barWords() {
    const { document: d } = this.result;
    if (!d.deviations) return [];
    const names = { free_energy: "free energy", fermi_level: "Fermi level", dos: "DOS", density: "density", forces: "forces" };
    const known = Object.entries(d.deviations.within || {}).filter(([name]) => names[name]);
    const found = known.length ? ` So many of the errors on structures held back from training, each left out of the calibration in its turn, were smaller: ${known.map(([name, part]) => `${names[name]} ${show(100 * part, 0)} %`).join(", ")}.` : "";
    const words = [element("p", { class: "hint bars" }, `± and the band about the DOS are one standard deviation; a Gaussian has 68 % of its errors within it.${found}`)];
    if (d.extrapolation && d.extrapolation.warning) words.push(element("p", { class: "warning bars-beyond" }, element("strong", {}, "Error bars may be too small. "), "They were calibrated on structures like those of the training; for atoms unlike them the errors may be larger."));
    return words;
  }

  #warning() {
    const { document: d } = this.result;
    if (!d.extrapolation) return element("p", { class: "notice" }, "This model does not know its training range: it cannot warn of structures that are new to it.");
    if (d.extrapolation.warning) return element("p", { class: "warning", role: "alert" }, element("strong", {}, "Extrapolation. "), d.extrapolation.warning);
    const largest = Math.max(...this.result.distances);
    return element("p", { class: "good" }, `All atoms lie within what the model has learned from: distances up to ${show(largest, 2)}, warned of beyond ${show(d.extrapolation.threshold, 2)}.`);
  }

  #controls() {
    const { document: d, forces } = this.result;
    const redraw = () => this.draw();
    this.showInput = choice(
      [["density", "density"], ["window", "states in window", { disabled: true }], ["difference", "difference", { disabled: true }]],
      { onchange: () => { this.#resetLevel(); this.draw(); } },
    );
    this.surfaceInput = element("input", { type: "checkbox", checked: true, onchange: redraw });
    this.levelInput = range(0, 1, 0.5, { oninput: redraw });
    this.levelText = element("output", {});
    this.opacityInput = range(0.1, 1, 0.7, { oninput: redraw });
    // a small cell is shown several times, so that one sees the crystal
    const copies = d.atoms.cell.map((vector) => (d.atoms.symbols.length > 16 ? 1 : Math.min(3, Math.max(1, Math.round(6 / norm(vector))))));
    this.repeatInputs = copies.map((n, k) => number(n, { onchange: redraw, min: 1, max: 4, step: 1, class: "miller", "aria-label": `Cells shown along ${"abc"[k]}` }));
    this.colorInput = choice(
      [["element", "element"], ["extrapolation", "distance from the training data", { disabled: !d.extrapolation }], ["force", "size of the force", { disabled: !forces }], ["deviation", "error bar of the force", { disabled: !this.result.forceDeviations }]],
      { onchange: () => { this.#legend(); this.draw(); } },
    );
    this.forcesInput = element("input", { type: "checkbox", onchange: redraw, disabled: !forces });
    this.sliceInput = element("input", { type: "checkbox", onchange: redraw });
    this.slicePlace = range(0, 1, 0.5, { oninput: redraw });
    this.sliceTop = number(1, { onchange: redraw, min: 0 });
    this.millerInputs = [0, 0, 1].map((h, k) => number(h, { onchange: redraw, "aria-label": `Miller index ${"hkl"[k]} of the slice`, class: "miller", step: 1 }));
    this.legend = element("p", { class: "legend" });
    const png = button("Save picture (PNG)", () => { const address = this.scene.png(); if (address) saveAs("ase-ldos.png", address); });
    const group = (name, ...children) => element("fieldset", {}, element("legend", {}, name), ...children);
    const controls = element(
      "div",
      { class: "controls" },
      group("Field", labelled("Show", this.showInput), labelled("Isosurface", this.surfaceInput), labelled("at", this.levelInput), this.levelText, labelled("Opacity", this.opacityInput)),
      group("Slice", labelled("Slice", this.sliceInput), element("span", { class: "field" }, element("span", {}, "Plane h k l"), ...this.millerInputs), labelled("Position", this.slicePlace), labelled("Colours up to", this.sliceTop)),
      group("Atoms", labelled("Colour by", this.colorInput), labelled("Forces as arrows", this.forcesInput), element("span", { class: "field" }, element("span", {}, "Cells a b c"), ...this.repeatInputs), this.legend),
      element("div", { class: "buttons" }, button("Reset view", () => this.scene.reset()), png),
    );
    this.#legend();
    return controls;
  }

  #legend() {
    const { document: d, forces } = this.result;
    const kind = this.colorInput.value;
    const parts = [];
    const add = (color, text) => {
      const box = element("span", { class: "swatch", "aria-hidden": "true" });
      box.style.background = color;
      parts.push(box, `${text} `);
    };
    if (kind === "extrapolation") {
      const t = d.extrapolation.threshold;
      for (const x of [0, t, 2 * t]) add(css(heat(x / (2 * t))), x === t ? `${show(x, 2)} (threshold)` : `${show(x, 2)}${x ? " or more" : ""}`);
    } else if (kind === "deviation") {
      const largest = Math.max(...this.result.forceDeviations);
      for (const x of [0, 0.5, 1]) add(css(heat(x)), `± ${show(x * largest, 3)} eV/Å`);
    } else if (kind === "force") {
      const largest = Math.max(...forces.map(norm));
      for (const x of [0, 0.5, 1]) add(css(heat(x)), `${show(x * largest, 3)} eV/Å`);
    } else {
      for (const [symbol, { color }] of Object.entries(d.elements)) add(color, symbol);
    }
    this.legend.replaceChildren(...parts);
  }

  #windowControls() {
    const { document: d } = this.result;
    const typed = () => {
      const [low, high] = [this.lowInput.value, this.highInput.value].map(Number);
      if (this.lowInput.value !== "" && this.highInput.value !== "" && low <= high) this.setWindow(low, high);
    };
    this.lowInput = number("", { onchange: typed, class: "window-low" });
    this.highInput = number("", { onchange: typed, class: "window-high" });
    const curves = [["total", "total"]];
    for (const name of Object.keys(d.dos.by_species || {})) curves.push([`species ${name}`, `${name} (all of them)`]);
    if (d.dos.by_atom) d.atoms.symbols.forEach((symbol, i) => curves.push([`atom ${i}`, `atom ${i} (${symbol})`]));
    this.partInput = choice(curves, { onchange: () => this.#drawDos() });
    return element(
      "div",
      { class: "controls" },
      element("p", { class: "hint" }, "Drag over the plot, or type: the states between two energies are then drawn in space; with twice the same energy, the LDOS at it."),
      labelled("From (eV)", this.lowInput),
      labelled("to (eV)", this.highInput),
      button("1 eV below μ", () => this.setWindow(d.fermi_level - 1, d.fermi_level)),
      button("1 eV above μ", () => this.setWindow(d.fermi_level, d.fermi_level + 1)),
      button("Whole density", () => this.setWindow(null, null)),
      curves.length > 1 ? labelled("Also show", this.partInput) : null,
      curves.length > 1 ? element("p", { class: "hint" }, "Parts by atom or species: states in the Voronoi cell of the atoms.") : null,
    );
  }

  #drawDos() {
    const { document: d, film, byAtom } = this.result;
    const energies = d.dos.energies;
    const values = this.frame === null ? d.dos.total : Array.from(item(film.dos, this.frame).data);
    const fermiLevel = this.frame === null ? d.fermi_level : film.fermi_level[this.frame];
    const deviations = this.frame === null && d.deviations ? d.deviations.dos : null;
    const curves = [{ name: this.other ? d.title : "total", energies, values, deviations }];
    const [kind, name] = this.partInput.value.split(" ");
    if (kind === "species") curves.push({ name, energies, values: d.dos.by_species[name] });
    if (kind === "atom") curves.push({ name: `atom ${name}`, energies, values: Array.from(item(byAtom, Number(name)).data) });
    if (this.other) curves.push({ name: this.other.document.title, energies: this.other.document.dos.energies, values: this.other.document.dos.total, deviations: this.other.document.deviations && this.other.document.deviations.dos });
    this.dos.draw({ curves, fermiLevel, temperature: d.parameters.electronic_temperature });
  }

  #tables() {
    const { document: d, forces } = this.result;
    const parts = [
      table("Terms of the free energy", ["", "eV", "eV/atom"], d.energies.map((row) => [`${row.name}  ${row.symbol}`, row.energy, row.per_atom])),
    ];
    if (forces) {
      const sizes = forces.map(norm);
      const most = sizes.indexOf(Math.max(...sizes));
      parts.push(element("p", {}, `Largest force: ${show(sizes[most], 4)} eV/Å on atom ${most}.`));
    }
    if (d.stress) {
      const names = ["xx", "yy", "zz", "yz", "xz", "xy"];
      const pressure = (-(d.stress[0] + d.stress[1] + d.stress[2]) / 3) * GPA;
      parts.push(table("Stress (tension positive)", ["", "eV/Å³", "GPa"], d.stress.map((s, i) => [names[i], s, s * GPA])), element("p", {}, `Pressure ${show(pressure, 3)} GPa.`));
    }
    const errors = Object.entries(d.model.errors || {}).slice(0, 12);
    if (errors.length) {
      parts.push(element("details", {}, element("summary", {}, "Errors of the model on structures held back from training"), table("Root mean squares, in the units of ase-ldos info", ["", "error"], errors.map(([name, value]) => [name.replaceAll("_", " "), Number(value.toPrecision(3))]))));
    }
    const atoms = element("p", {}, `Volume ${show(d.volume, 3)} Å³ (${show(d.volume / d.atoms.symbols.length, 3)} Å³/atom), ${show(d.electrons, 4)} valence electrons.`);
    this.compareTable = element("div", {});
    return element("section", { class: "card", "aria-label": "Numbers" }, element("h3", {}, "Numbers"), ...parts, atoms, this.#compareControls(), this.compareTable);
  }

  #compareControls() {
    const others = this.options.others || [];
    if (!others.length) return null;
    const pick = choice([["", "nothing"], ...others.map(({ title }, i) => [i, title])], {
      onchange: () => this.compareWith(pick.value === "" ? null : others[Number(pick.value)]),
    });
    return labelled("Compare with", pick);
  }

  #comparison() {
    const [a, b] = [this.result.document, this.other.document];
    const rowsOf = a.energies.map((row, i) => [row.name, row.per_atom, b.energies[i].per_atom, row.per_atom - b.energies[i].per_atom]);
    rowsOf.push(["Fermi level (eV)", a.fermi_level, b.fermi_level, a.fermi_level - b.fermi_level]);
    return table(`${a.title} and ${b.title}, eV/atom`, ["", "this", "other", "difference"], rowsOf);
  }

  #film() {
    const { film } = this.result;
    const count = film.time.length;
    const slider = element("input", { type: "range", min: 0, max: count, step: 1, value: count });
    const label = element("output", {});
    const map = element("canvas", { class: "dos-map", width: 640, height: 220, role: "img", "aria-label": "Density of states over time: time to the right, energy upwards, bright where there are many states; the line is the Fermi level" });
    const energyPlot = element("div", { class: "plot", role: "img", "aria-label": "Energies over time" });
    let timer = null;
    const go = (value) => {
      slider.value = value;
      this.frame = value >= count ? null : value;
      const at = Math.min(value, count - 1);
      label.textContent = this.frame === null ? "final structure, full resolution" : `${show(film.time[at], 1)} ${film.unit}, A = ${show(film.potential[at], 4)} eV`;
      drawDosMap(map, film, this.result.document.dos.energies, this.frame);
      this.#resetFilmLevel();
      this.#drawDos();
      this.draw();
    };
    slider.addEventListener("input", () => go(Number(slider.value)));
    const play = button("Play", () => {
      if (timer) {
        clearInterval(timer);
        timer = null;
        play.textContent = "Play";
        return;
      }
      play.textContent = "Pause";
      timer = setInterval(() => {
        if (!this.root.isConnected) clearInterval(timer);
        else go((Number(slider.value) + 1) % count);
      }, 150);
    });
    requestAnimationFrame(() => {
      go(count);
      drawEnergies(energyPlot, film, this.result.positions.length);
    });
    return element(
      "section",
      { class: "card", "aria-label": "Film" },
      element("h3", {}, film.unit === "fs" ? "Film of the dynamics" : "Film of the relaxation"),
      element("div", { class: "controls" }, play, labelled("Picture", slider), label),
      element("h4", {}, "DOS over time"),
      map,
      energyPlot,
    );
  }

  #resetFilmLevel() {
    // the level stays while the film runs, so that what grows is the density, not the scale
    const high = Number(this.levelInput.max);
    if (!(high > 0)) this.#resetLevel();
  }

  #downloads() {
    const { document: d } = this.result;
    const xyz = button("Structure (extxyz)", () => saveAs(`${d.formula}.extxyz`, this.extxyz(), "chemical/x-xyz"));
    const csv = button("DOS (CSV)", () => saveAs(`${d.formula}-dos.csv`, this.dosTable(), "text/csv"));
    const script = d.script ? button("Python script", () => saveAs("ase_ldos_script.py", d.script, "text/x-python")) : null;
    return element("section", { class: "card downloads", "aria-label": "Downloads" }, element("h3", {}, "Downloads"), element("div", { class: "buttons" }, ...(this.options.downloads || [xyz, script]), csv));
  }

  /** The DOS, with its standard deviation if there is one, as CSV. */
  dosTable() {
    const { dos, deviations } = this.result.document;
    const columns = { energy_eV: dos.energies, dos_per_eV: dos.total, ...(deviations && { deviation_per_eV: deviations.dos }) };
    return [Object.keys(columns).join(","), ...dos.energies.map((_, i) => Object.values(columns).map((column) => column[i]).join(","))].join("\n");
  }

  /** The structure, with forces if there are any, as extended XYZ. */
  extxyz() {
    const { document: d, positions, forces } = this.result;
    const lattice = d.atoms.cell.flat().join(" ");
    const columns = `species:S:1:pos:R:3${forces ? ":forces:R:3" : ""}`;
    const lines = positions.map((p, i) => [d.atoms.symbols[i], ...p, ...(forces ? forces[i] : [])].join(" "));
    return [positions.length, `Lattice="${lattice}" Properties=${columns} energy=${d.energies[6].energy} pbc="T T T"`, ...lines, ""].join("\n");
  }
}

// -------------------------------------------------------------------- plots of a film

function drawDosMap(canvas, film, energies, frame) {
  const context = canvas.getContext("2d");
  canvas.width = Math.max(240, canvas.clientWidth);
  canvas.height = Math.max(120, canvas.clientHeight);
  const [times, nodes] = film.dos.shape;
  let top = 0;
  for (const value of film.dos.data) top = Math.max(top, value);
  const image = context.createImageData(canvas.width, canvas.height);
  for (let x = 0; x < canvas.width; x += 1) {
    const t = Math.min(times - 1, Math.floor((x * times) / canvas.width));
    for (let y = 0; y < canvas.height; y += 1) {
      const e = Math.min(nodes - 1, Math.floor(((canvas.height - 1 - y) * nodes) / canvas.height));
      const { r, g, b } = magma(film.dos.data[t * nodes + e] / top);
      image.data.set([255 * r, 255 * g, 255 * b, 255], 4 * (y * canvas.width + x));
    }
  }
  context.putImageData(image, 0, 0);
  const [low, high] = [energies[0], energies[energies.length - 1]];
  context.strokeStyle = "white";
  context.setLineDash([5, 4]);
  context.beginPath();
  film.fermi_level.forEach((level, t) => context.lineTo(((t + 0.5) * canvas.width) / times, canvas.height * (1 - (level - low) / (high - low))));
  context.stroke();
  context.setLineDash([]);
  if (frame !== null) context.strokeRect((frame * canvas.width) / times, 0, Math.max(2, canvas.width / times), canvas.height);
  context.font = "13px system-ui, sans-serif";
  const write = (text, x, y) => {
    const { width } = context.measureText(text);
    context.fillStyle = "rgba(0, 0, 0, 0.65)";
    context.fillRect(x - 3, y - 13, width + 6, 18);
    context.fillStyle = "white";
    context.fillText(text, x, y);
    return width;
  };
  write(`${high} eV`, 5, 16);
  write(`${low} eV`, 5, canvas.height - 7);
  const end = `${film.time[times - 1]} ${film.unit}`;
  write(end, canvas.width - context.measureText(end).width - 5, canvas.height - 7);
}

function drawEnergies(frame, film, atoms) {
  const start = film.potential[0] + film.kinetic[0];
  const relative = (values, zero) => values.map((value) => (1000 * (value - zero)) / atoms);
  const moves = film.kinetic.some((value) => value > 0);
  const total = film.potential.map((value, i) => value + film.kinetic[i]);
  const axis = { stroke: cssColor("--text"), grid: { stroke: cssColor("--line"), width: 1 } };
  const series = [
    {},
    { label: "potential A", stroke: cssColor("--accent"), width: 1.5, points: { show: false } },
    ...(moves ? [{ label: "kinetic", stroke: cssColor("--second"), width: 1.5, points: { show: false } }, { label: "total", stroke: cssColor("--third"), width: 1.5, points: { show: false } }] : []),
  ];
  const data = [film.time, relative(film.potential, moves ? film.potential[0] : film.potential[film.potential.length - 1])];
  if (moves) data.push(relative(film.kinetic, 0), relative(total, start));
  new window.uPlot(
    { width: Math.max(240, frame.clientWidth || 480), height: 220, scales: { x: { time: false } }, legend: { live: false }, cursor: { drag: { x: false, y: false } }, axes: [{ ...axis, label: film.unit, labelSize: 20 }, { ...axis, label: "meV/atom", labelSize: 20, size: 60 }], series },
    data,
    frame,
  );
}

// -------------------------------------------------------------------- colours

const MAGMA = [[0, 0, 0.02], [0.17, 0.07, 0.36], [0.45, 0.12, 0.51], [0.72, 0.21, 0.47], [0.95, 0.38, 0.36], [0.99, 0.67, 0.45], [0.99, 0.99, 0.75]];
const HEAT = [[0.23, 0.42, 0.71], [0.86, 0.86, 0.86], [0.80, 0.10, 0.16]];

function mixed(stops, part) {
  const x = Math.min(Math.max(part, 0), 1) * (stops.length - 1);
  const i = Math.min(Math.floor(x), stops.length - 2);
  const [r, g, b] = [0, 1, 2].map((k) => stops[i][k] + (x - i) * (stops[i + 1][k] - stops[i][k]));
  return { r, g, b };
}

const magma = (part) => mixed(MAGMA, part);
const heat = (part) => mixed(HEAT, part);
const diverging = (part) => mixed(HEAT, (part + 1) / 2);

function css({ r, g, b }) {
  return `#${[r, g, b].map((c) => Math.round(255 * c).toString(16).padStart(2, "0")).join("")}`;
}
