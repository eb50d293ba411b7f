// The picture in space: atoms, cell, isosurfaces, a slice, forces; drawn by 3Dmol.js.

import { combine, cross, dot, fractional, inverse, norm, sample } from "./fields.js";
import { cssColor, element } from "./elements.js";
import { isosurface } from "./isosurface.js";

const SLICE_STEPS = 150;
// more arrows than these hide each other
const MOST_ARROWS = 2000;
const MOST_ATOMS = 20000;

export class Scene {
  constructor(label) {
    this.frame = element("div", {
      class: "scene",
      tabindex: 0,
      role: "img",
      "aria-label": `${label}: atoms and fields in three dimensions. Arrow keys turn, plus and minus zoom, 0 resets.`,
      onkeydown: (event) => this.#onKey(event),
    });
    this.shapes = [];
    this.viewer = null;
  }

  /** To be called once the frame is in the page. */
  start() {
    if (!hasWebGL()) {
      this.frame.append(element("p", { class: "notice", role: "status" }, "This browser offers no WebGL: the picture in space cannot be drawn. Tables, plots and downloads work."));
      return;
    }
    this.viewer = window.$3Dmol.createViewer(this.frame, { backgroundColor: cssColor("--scene"), antialias: true });
    const follow = () => {
      this.viewer.setBackgroundColor(cssColor("--scene"));
      this.viewer.render();
    };
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", follow);
    new ResizeObserver(() => this.viewer.resize()).observe(this.frame);
  }

  /** Draw everything anew; the view stays. */
  draw(picture) {
    if (!this.viewer) return;
    const isFirst = !this.drawn;
    this.viewer.removeAllModels();
    this.viewer.removeAllShapes();
    this.#drawAtoms(picture);
    this.#drawCell(picture);
    for (const surface of picture.surfaces) this.#drawSurface(picture, surface);
    if (picture.slice) this.#drawSlice(picture);
    if (picture.forces) this.#drawForces(picture);
    if (isFirst) this.reset();
    this.drawn = true;
    this.viewer.render();
  }

  reset() {
    if (!this.viewer) return;
    this.viewer.setView([0, 0, 0, 0, 0, 0, 0, 1]);
    this.viewer.rotate(-75, "x");
    this.viewer.rotate(25, "y");
    this.viewer.zoomTo();
    this.viewer.zoom(0.82); // the corners of the cell reach beyond the atoms
    this.viewer.render();
  }

  png() {
    return this.viewer ? this.viewer.pngURI() : null;
  }

  #onKey(event) {
    const turns = { ArrowLeft: [-10, "vy"], ArrowRight: [10, "vy"], ArrowUp: [-10, "vx"], ArrowDown: [10, "vx"] };
    if (!this.viewer) return;
    if (turns[event.key]) this.viewer.rotate(...turns[event.key]);
    else if (event.key === "+" || event.key === "=") this.viewer.zoom(1.15);
    else if (event.key === "-") this.viewer.zoom(1 / 1.15);
    else if (event.key === "0") this.reset();
    else return;
    event.preventDefault();
    this.viewer.render();
  }

  #drawAtoms({ atoms, cell, repeats, elements, colors, radius }) {
    const shown = [];
    for (let a = 0; a < repeats[0]; a += 1) {
      for (let b = 0; b < repeats[1]; b += 1) {
        for (let c = 0; c < repeats[2]; c += 1) {
          const shift = combine(cell, a, b, c);
          atoms.forEach(({ symbol, position }, i) => {
            if (shown.length >= MOST_ATOMS) return;
            const [x, y, z] = position.map((p, k) => p + shift[k]);
            shown.push({ elem: symbol, x, y, z, serial: shown.length, properties: { number: i }, bonds: [], bondOrder: [] });
          });
        }
      }
    }
    const model = this.viewer.addModel();
    model.addAtoms(shown);
    for (const [symbol, { radius: size }] of Object.entries(elements)) {
      const colorfunc = (atom) => colors[atom.properties.number];
      model.setStyle({ elem: symbol }, { sphere: { radius: size * radius, colorfunc } });
    }
  }

  #drawCell({ cell, repeats }) {
    const ends = repeats.map((n) => [0, n]);
    for (const [axis, u, v] of [[0, 1, 2], [1, 2, 0], [2, 0, 1]]) {
      for (const i of ends[u]) {
        for (const j of ends[v]) {
          const from = [0, 0, 0];
          [from[u], from[v]] = [i, j];
          const to = [...from];
          to[axis] = repeats[axis];
          this.viewer.addLine({ start: point(combine(cell, ...from)), end: point(combine(cell, ...to)), color: cssColor("--muted") });
        }
      }
    }
  }

  #drawSurface({ cell, repeats }, { field, level, color, opacity }) {
    const { vertices, normals, faces } = isosurface(field, cell, level, repeats);
    if (!faces.length) return;
    this.viewer.addCustom({ vertexArr: vertices, normalArr: normals, faceArr: faces, color, opacity });
  }

  #drawSlice({ cell, repeats, slice }) {
    const { field, miller, position, scale } = slice;
    const inverted = inverse(cell);
    // the plane h x + k y + l z = position in fractional coordinates, through the repeated cell
    const normal = [0, 1, 2].map((i) => miller.reduce((sum, h, j) => sum + h * inverted[i][j], 0));
    const length = norm(normal);
    if (!length) return;
    const unit = normal.map((x) => x / length);
    const corners = [];
    for (let c = 0; c < 8; c += 1) corners.push(combine(cell, (c & 1) * repeats[0], ((c >> 1) & 1) * repeats[1], (c >> 2) * repeats[2]));
    const heights = corners.map((corner) => dot(corner, unit));
    const height = Math.min(...heights) + position * (Math.max(...heights) - Math.min(...heights));
    const across = pickAcross(unit, cell);
    const up = cross(unit, across);
    const spans = [across, up].map((axis) => {
      const along = corners.map((corner) => dot(corner, axis));
      return [Math.min(...along), Math.max(...along)];
    });
    const vertexArr = [];
    const normalArr = [];
    const color = [];
    const inside = [];
    for (let i = 0; i <= SLICE_STEPS; i += 1) {
      for (let j = 0; j <= SLICE_STEPS; j += 1) {
        const x = spans[0][0] + ((spans[0][1] - spans[0][0]) * i) / SLICE_STEPS;
        const y = spans[1][0] + ((spans[1][1] - spans[1][0]) * j) / SLICE_STEPS;
        const place = [0, 1, 2].map((k) => height * unit[k] + x * across[k] + y * up[k]);
        const f = fractional(inverted, place);
        inside.push(f.every((value, k) => value > -0.02 && value < repeats[k] + 0.02));
        vertexArr.push(point(place));
        normalArr.push(point(unit));
        color.push(scale(sample(field, f)));
      }
    }
    const faceArr = [];
    const row = SLICE_STEPS + 1;
    for (let i = 0; i < SLICE_STEPS; i += 1) {
      for (let j = 0; j < SLICE_STEPS; j += 1) {
        const [a, b, c, d] = [i * row + j, (i + 1) * row + j, (i + 1) * row + j + 1, i * row + j + 1];
        if (inside[a] && inside[b] && inside[c] && inside[d]) faceArr.push(a, b, c, a, c, d);
      }
    }
    if (faceArr.length) this.viewer.addCustom({ vertexArr, normalArr, faceArr, color });
  }

  #drawForces({ atoms, forces, cell, repeats }) {
    const largest = Math.max(...forces.map(norm), 1e-12);
    const shape = this.viewer.addShape({ color: cssColor("--force") });
    let count = 0;
    for (let c = 0; c < repeats[0] * repeats[1] * repeats[2]; c += 1) {
      const shift = combine(cell, c % repeats[0], Math.floor(c / repeats[0]) % repeats[1], Math.floor(c / (repeats[0] * repeats[1])));
      for (const [i, { position }] of atoms.entries()) {
        if (norm(forces[i]) < 0.02 * largest || count >= MOST_ARROWS) continue;
        const start = position.map((p, k) => p + shift[k]);
        const end = start.map((p, k) => p + (1.8 * forces[i][k]) / largest);
        shape.addArrow({ start: point(start), end: point(end), radius: 0.07, radiusRatio: 2.2, mid: 0.72 });
        count += 1;
      }
    }
  }
}

function point([x, y, z]) {
  return { x, y, z };
}

/** A direction in the plane: the part of a lattice vector that lies in it. */
function pickAcross(unit, cell) {
  for (const vector of cell) {
    const part = vector.map((x, k) => x - dot(vector, unit) * unit[k]);
    if (norm(part) > 1e-3 * norm(vector)) return part.map((x) => x / norm(part));
  }
  return [1, 0, 0];
}

function hasWebGL() {
  const canvas = document.createElement("canvas");
  return Boolean(canvas.getContext("webgl2") || canvas.getContext("webgl"));
}
