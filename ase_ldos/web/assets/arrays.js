// Decoding of the arrays of a view document; see arrays.py.

/** The numbers of an encoded array: {shape, data: Float32Array}. */
export async function decode(encoded) {
  const bytes = await inflate(fromBase64(encoded.data));
  const Codes = { u1: Uint8Array, u2: Uint16Array, f4: Float32Array }[encoded.type];
  const codes = new Codes(bytes.buffer, bytes.byteOffset, bytes.byteLength / Codes.BYTES_PER_ELEMENT);
  if (encoded.type === "f4") return { shape: encoded.shape, data: codes };
  const data = new Float32Array(codes.length);
  const scales = [].concat(encoded.scale);
  const offsets = [].concat(encoded.offset);
  const part = codes.length / scales.length;
  for (let k = 0; k < scales.length; k += 1) {
    const [scale, offset] = [scales[k], offsets[k]];
    for (let i = k * part; i < (k + 1) * part; i += 1) data[i] = offset + scale * codes[i];
  }
  return { shape: encoded.shape, data };
}

function fromBase64(text) {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = characters.charCodeAt(i);
  return bytes;
}

async function inflate(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Items of the first axis: the k-th part of an array as a field of its own. */
export function item(array, k) {
  const shape = array.shape.slice(1);
  const size = shape.reduce((a, b) => a * b, 1);
  return { shape, data: array.data.subarray(k * size, (k + 1) * size) };
}
