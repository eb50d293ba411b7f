// The density of states with its error bars, its occupied part and the Fermi level; dragging chooses a window of energies.

import { cssColor, element } from "./elements.js";

const BAND_OPACITY = "73"; // of 255, in hexadecimal
const BOLTZMANN = 8.617333262e-5; // eV/K

/** Fermi-Dirac occupation. */
export function occupation(energy, fermiLevel, temperature) {
  return 1 / (1 + Math.exp((energy - fermiLevel) / (BOLTZMANN * temperature)));
}

export class DosPlot {
  /** onWindow(low, high) is called when the user has dragged; with nulls when the window is dropped. */
  constructor(onWindow) {
    this.onWindow = onWindow;
    this.frame = element("div", { class: "plot dos-plot", role: "img", "aria-label": "Density of states over energy" });
    this.window = null;
    new ResizeObserver(() => this.plot && this.plot.setSize(this.#size())).observe(this.frame);
    window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.last && this.draw(this.last));
  }

  /** curves: [{name, energies, values, deviations}], the first filled up to its Fermi level; deviations (optional) as a band. */
  draw({ curves, fermiLevel, temperature }) {
    this.last = { curves, fermiLevel, temperature };
    const energies = refined(curves[0].energies);
    const series = curves.map((curve) => energies.map((e) => interpolate(curve.energies, curve.values, e)));
    const occupied = energies.map((e, i) => series[0][i] * occupation(e, fermiLevel, temperature));
    const colors = ["--accent", "--second", "--third", "--fourth", "--fifth"];
    const banded = curves.map((_, i) => i).filter((i) => curves[i].deviations);
    const edges = banded.flatMap((i) => {
      const widths = energies.map((e) => interpolate(curves[i].energies, curves[i].deviations, e));
      return [1, -1].map((sign) => series[i].map((value, k) => value + sign * widths[k]));
    });
    const bandColor = (i) => `${cssColor(colors[i % colors.length])}${BAND_OPACITY}`;
    const axis = { stroke: cssColor("--text"), grid: { stroke: cssColor("--line"), width: 1 }, ticks: { stroke: cssColor("--line") } };
    if (this.plot) this.plot.destroy();
    this.plot = new window.uPlot(
      {
        ...this.#size(),
        legend: { show: series.length + edges.length > 1, live: false, markers: { fill: (_, i) => (i === 1 ? cssColor("--fill") : i < 2 + curves.length ? null : bandColor(banded[(i - 2 - curves.length) >> 1])) } },
        bands: banded.map((i, k) => ({ series: [2 + curves.length + 2 * k, 3 + curves.length + 2 * k], fill: bandColor(i) })),
        cursor: { drag: { x: true, y: false, setScale: false }, y: false },
        scales: { x: { time: false } },
        axes: [
          { ...axis, label: "energy (eV)", labelSize: 22, size: 42 },
          { ...axis, label: "DOS (1/eV)", labelSize: 22, size: 54 },
        ],
        series: [
          {},
          { label: "occupied", fill: cssColor("--fill"), stroke: "transparent", points: { show: false } },
          ...curves.map((curve, i) => ({ label: curve.name, stroke: cssColor(colors[i % colors.length]), width: 1.6, points: { show: false } })),
          ...banded.flatMap((i) => {
            const edge = { stroke: bandColor(i), width: 1, points: { show: false } };
            // one row of the legend for both edges
            return [{ ...edge, label: `± σ of ${curves[i].name}` }, { ...edge, label: "", class: "second-edge" }];
          }),
        ],
        hooks: {
          setSelect: [(plot) => this.#onSelect(plot)],
          draw: [(plot) => drawLevel(plot, fermiLevel)],
          ready: [() => this.window && setTimeout(() => this.select(...this.window))],
        },
      },
      [energies, occupied, ...series, ...edges],
      this.frame,
    );
    const widest = banded.includes(0) ? `; standard deviation up to ${Math.max(...curves[0].deviations).toFixed(3)} 1/eV` : "";
    this.frame.setAttribute("aria-label", `Density of states; Fermi level at ${fermiLevel.toFixed(3)} eV${widest}. Drag to choose a window of energies, or type its ends below.`);
  }

  /** Show a window as selected, without calling back; nulls for none. */
  select(low, high) {
    this.window = low === null ? null : [low, high];
    if (!this.plot) return;
    const [left, right] = low === null ? [0, 0] : [low, high].map((e) => this.plot.valToPos(e, "x"));
    const height = this.plot.over.clientHeight;
    this.plot.setSelect({ left, width: right - left, top: 0, height: low === null ? 0 : height }, false);
  }

  #onSelect(plot) {
    const { left, width } = plot.select;
    if (width < 3) return;
    const [low, high] = [plot.posToVal(left, "x"), plot.posToVal(left + width, "x")];
    this.window = [low, high];
    this.onWindow(low, high);
  }

  #size() {
    const width = Math.max(240, Math.floor(this.frame.clientWidth) || 480);
    return { width, height: Math.min(330, Math.max(220, Math.round(width * 0.55))) };
  }
}

// the occupation falls faster than the DOS changes
function refined(energies) {
  const fine = [];
  for (let i = 0; i + 1 < energies.length; i += 1) {
    for (let part = 0; part < 4; part += 1) fine.push(energies[i] + ((energies[i + 1] - energies[i]) * part) / 4);
  }
  fine.push(energies[energies.length - 1]);
  return fine;
}

function interpolate(x, y, at) {
  if (at <= x[0]) return at < x[0] ? 0 : y[0];
  if (at >= x[x.length - 1]) return at > x[x.length - 1] ? 0 : y[y.length - 1];
  let [low, high] = [0, x.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (x[middle] <= at) low = middle;
    else high = middle;
  }
  return y[low] + ((y[high] - y[low]) * (at - x[low])) / (x[high] - x[low]);
}

function drawLevel(plot, level) {
  const { ctx, bbox } = plot;
  const at = plot.valToPos(level, "x", true);
  ctx.save();
  ctx.strokeStyle = cssColor("--text");
  ctx.fillStyle = cssColor("--text");
  ctx.setLineDash([6, 5]);
  ctx.lineWidth = window.devicePixelRatio;
  ctx.beginPath();
  ctx.moveTo(at, bbox.top);
  ctx.lineTo(at, bbox.top + bbox.height);
  ctx.stroke();
  ctx.font = `${13 * window.devicePixelRatio}px system-ui, sans-serif`;
  ctx.fillText("μ", at + 7 * window.devicePixelRatio, bbox.top + 15 * window.devicePixelRatio);
  ctx.restore();
}
