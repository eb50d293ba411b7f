// Periodic fields {shape: [nx, ny, nz], data} on a cell whose rows are the lattice vectors.

export function combine(cell, a, b, c) {
  return [0, 1, 2].map((k) => a * cell[0][k] + b * cell[1][k] + c * cell[2][k]);
}

export const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
export const cross = (a, b) => [a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]];
export const norm = (a) => Math.sqrt(dot(a, a));
export const volume = (cell) => Math.abs(dot(cell[0], cross(cell[1], cell[2])));

/** The inverse of the cell: column j gives the j-th fractional coordinate. */
export function inverse(cell) {
  const signed = dot(cell[0], cross(cell[1], cell[2]));
  const columns = [cross(cell[1], cell[2]), cross(cell[2], cell[0]), cross(cell[0], cell[1])];
  return [0, 1, 2].map((i) => columns.map((column) => column[i] / signed));
}

export function fractional(inverted, point) {
  return [0, 1, 2].map((j) => point[0] * inverted[0][j] + point[1] * inverted[1][j] + point[2] * inverted[2][j]);
}

/** Trilinear value at fractional coordinates. */
export function sample(field, f) {
  const [nx, ny, nz] = field.shape;
  const place = [f[0] * nx, f[1] * ny, f[2] * nz];
  const low = place.map(Math.floor);
  const part = place.map((x, k) => x - low[k]);
  const wrap = (i, n) => ((i % n) + n) % n;
  let sum = 0;
  for (let corner = 0; corner < 8; corner += 1) {
    const step = [corner & 1, (corner >> 1) & 1, corner >> 2];
    const weight = step.reduce((w, s, k) => w * (s ? part[k] : 1 - part[k]), 1);
    if (weight === 0) continue;
    const [i, j, k] = step.map((s, axis) => wrap(low[axis] + s, field.shape[axis]));
    sum += weight * field.data[(i * ny + j) * nz + k];
  }
  return sum;
}

export function extremes(field) {
  let low = Infinity;
  let high = -Infinity;
  for (const value of field.data) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high];
}

/** Value that a part (0 to 1) of the points lie below, from a sample of them. */
export function quantile(field, part) {
  const step = Math.max(1, Math.floor(field.data.length / 5000));
  const chosen = [];
  for (let i = 0; i < field.data.length; i += step) chosen.push(field.data[i]);
  chosen.sort((a, b) => a - b);
  return chosen[Math.min(chosen.length - 1, Math.floor(part * chosen.length))];
}

/** States/Å³ between two energies: whole bins, and of the bins at the ends their share. */
export function windowField(bins, fields, low, high) {
  const shape = fields.shape.slice(1);
  const size = shape.reduce((a, b) => a * b, 1);
  const data = new Float32Array(size);
  for (let k = 0; k + 1 < bins.length; k += 1) {
    const share = (Math.min(high, bins[k + 1]) - Math.max(low, bins[k])) / (bins[k + 1] - bins[k]);
    if (share <= 0) continue;
    const first = k * size;
    for (let i = 0; i < size; i += 1) data[i] += share * fields.data[first + i];
  }
  return { shape, data };
}

/** LDOS at an energy, 1/(eV Å³): the mean of the bin that it lies in. */
export function energyField(bins, fields, energy) {
  const k = Math.max(0, Math.min(bins.length - 2, bins.findIndex((edge) => edge > energy) - 1));
  const size = fields.shape.slice(1).reduce((a, b) => a * b, 1);
  const width = bins[k + 1] - bins[k];
  return { shape: fields.shape.slice(1), data: fields.data.slice(k * size, (k + 1) * size).map((value) => value / width) };
}

/** a − b at the points of a; b may have another grid (fractional coordinates are compared). */
export function difference(a, b) {
  const [nx, ny, nz] = a.shape;
  const same = a.shape.every((n, k) => n === b.shape[k]);
  const data = new Float32Array(a.data.length);
  let at = 0;
  for (let i = 0; i < nx; i += 1) {
    for (let j = 0; j < ny; j += 1) {
      for (let k = 0; k < nz; k += 1, at += 1) {
        data[at] = a.data[at] - (same ? b.data[at] : sample(b, [i / nx, j / ny, k / nz]));
      }
    }
  }
  return { shape: a.shape, data };
}
