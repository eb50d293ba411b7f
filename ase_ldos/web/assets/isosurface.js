// Isosurfaces by naive surface nets (S. F. Gibson, MICCAI 1998): one vertex for each box that the surface passes, at the
// mean of its crossings with the box's edges, which are found by linear interpolation.

import { inverse } from "./fields.js";

const CORNERS = [0, 1, 2, 3, 4, 5, 6, 7].map((c) => [c >> 2, (c >> 1) & 1, c & 1]);
const EDGES = [];
for (let a = 0; a < 8; a += 1) {
  for (const bit of [1, 2, 4]) if (!(a & bit)) EDGES.push([a, a | bit]);
}

/**
 * Triangles of the surface where a periodic field has a value.
 *
 * Returns {vertices, normals: [{x, y, z}], faces: [index]} in Å; normals point to lower values (where the level is
 * negative: to higher ones), that is out of what the surface encloses.
 */
export function isosurface(field, cell, level, repeats = [1, 1, 1]) {
  const [nx, ny, nz] = field.shape;
  const size = field.shape.map((n, k) => n * repeats[k]);
  const sign = level < 0 ? -1 : 1;
  const value = (i, j, k) => sign * (field.data[((i % nx) * ny + (j % ny)) * nz + (k % nz)] - level);
  const inverted = inverse(cell);
  const numbers = new Int32Array(size[0] * size[1] * size[2]).fill(-1);
  const [vertices, normals, faces] = [[], [], []];
  const corner = new Float64Array(8);

  for (let i = 0, at = 0; i < size[0]; i += 1) {
    for (let j = 0; j < size[1]; j += 1) {
      for (let k = 0; k < size[2]; k += 1, at += 1) {
        let inside = 0;
        for (let c = 0; c < 8; c += 1) {
          corner[c] = value(i + CORNERS[c][0], j + CORNERS[c][1], k + CORNERS[c][2]);
          if (corner[c] > 0) inside += 1;
        }
        if (inside === 0 || inside === 8) continue;
        numbers[at] = vertices.length;
        const place = meanCrossing(corner);
        const f = [(i + place[0]) / nx, (j + place[1]) / ny, (k + place[2]) / nz];
        vertices.push(vector([0, 1, 2].map((x) => f[0] * cell[0][x] + f[1] * cell[1][x] + f[2] * cell[2][x])));
        normals.push(normal(corner, field.shape, inverted));
      }
    }
  }

  // a quad around each edge of the grid that the surface crosses
  const strides = [size[1] * size[2], size[2], 1];
  for (let i = 0, at = 0; i < size[0]; i += 1) {
    for (let j = 0; j < size[1]; j += 1) {
      for (let k = 0; k < size[2]; k += 1, at += 1) {
        const here = value(i, j, k) > 0;
        const place = [i, j, k];
        for (let axis = 0; axis < 3; axis += 1) {
          const [u, v] = [(axis + 1) % 3, (axis + 2) % 3];
          if (place[u] === 0 || place[v] === 0) continue;
          const next = value(i + (axis === 0), j + (axis === 1), k + (axis === 2)) > 0;
          if (here === next) continue;
          const around = [at, at - strides[u], at - strides[u] - strides[v], at - strides[v]].map((n) => numbers[n]);
          const [a, b, c, d] = here ? around : around.reverse();
          faces.push(a, b, c, a, c, d);
        }
      }
    }
  }
  return { vertices, normals, faces };
}

function meanCrossing(corner) {
  const sum = [0, 0, 0];
  let count = 0;
  for (const [a, b] of EDGES) {
    if (corner[a] > 0 === corner[b] > 0) continue;
    const part = corner[a] / (corner[a] - corner[b]);
    for (let x = 0; x < 3; x += 1) sum[x] += CORNERS[a][x] + part * (CORNERS[b][x] - CORNERS[a][x]);
    count += 1;
  }
  return sum.map((x) => x / count);
}

function normal(corner, shape, inverted) {
  const slope = [0, 0, 0];
  for (let c = 0; c < 8; c += 1) {
    for (let x = 0; x < 3; x += 1) slope[x] += (CORNERS[c][x] ? corner[c] : -corner[c]) * shape[x];
  }
  const out = [0, 1, 2].map((i) => -(inverted[i][0] * slope[0] + inverted[i][1] * slope[1] + inverted[i][2] * slope[2]));
  const length = Math.hypot(...out) || 1;
  return vector(out.map((x) => x / length));
}

function vector([x, y, z]) {
  return { x, y, z };
}
