// Resizing of pictures by the filters of Pillow's Image.resize, with its roundings, so that a model is given here what
// camrt gives it in Python. Source: libImaging/Resample.c and Geometry.c of Pillow 13.

const PRECISION = 22; // bits behind the point of a weight
const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: {
    support: 2,
    weight(x) {
      const a = -0.5;
      const t = Math.abs(x);
      if (t < 1) return ((a + 2) * t - (a + 3)) * t * t + 1;
      return t < 2 ? (((t - 5) * t + 8) * t - 4) * a : 0;
    },
  },
};

/**
 * A part of a picture, resized.
 * @param {{data: Uint8ClampedArray | Uint8Array, width: number, height: number, channels: number}} picture
 * @param {{left: number, upper: number, right: number, lower: number}} box the part, in its pixels
 * @param {number} width of the outcome
 * @param {number} height of the outcome
 * @param {"bilinear" | "bicubic" | "nearest"} filter
 */
export function resize(picture, box, width, height, filter) {
  const [left, upper, right, lower] = [box.left, box.upper, box.right, box.lower].map(Math.fround);
  if (filter === "nearest") return pick(picture, left, upper, right, lower, width, height);
  const across = left || right !== picture.width || width !== picture.width;
  const down = upper || lower !== picture.height || height !== picture.height;
  const columns = across && weigh(picture.width, left, right, width, filter);
  const rows = down && weigh(picture.height, upper, lower, height, filter);
  const passes = [(part) => (columns ? alongRows(part, columns) : part), (part) => (rows ? alongColumns(part, rows) : part)];
  // Between the passes numbers are rounded, so their order shows: Pillow takes the one that makes the picture smaller.
  const shrinking = picture.height - height;
  if (shrinking > 0 && shrinking > 2 * (picture.width - width)) passes.reverse();
  return passes.reduce((part, pass) => pass(part), picture);
}

/** For each place of the outcome, the first place it takes in and the weights from there on. */
function weigh(count, begin, end, outcome, filter) {
  const { support, weight } = FILTERS[filter];
  const scale = Math.fround(end - begin) / outcome;
  const stretch = Math.max(scale, 1);
  const reach = support * stretch;
  return Array.from({ length: outcome }, (_, i) => {
    const centre = begin + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
    const last = Math.min(Math.trunc(centre + reach + 0.5), count);
    const weights = Array.from({ length: last - first }, (_, x) => weight((x + first - centre + 0.5) * (1 / stretch)));
    const sum = weights.reduce((total, w) => total + w, 0);
    return { first, weights: weights.map((w) => toFixedPoint(sum ? w / sum : w)) };
  });
}

function toFixedPoint(weight) {
  const scaled = weight * (1 << PRECISION);
  return Math.trunc(weight < 0 ? scaled - 0.5 : scaled + 0.5);
}

function toByte(sum) {
  const value = sum >> PRECISION;
  return value < 0 ? 0 : value > 255 ? 255 : value;
}

function alongRows({ data, width, height, channels }, places) {
  const made = new Uint8Array(places.length * height * channels);
  let at = 0;
  for (let y = 0; y < height; y++) {
    for (const { first, weights } of places) {
      for (let c = 0; c < channels; c++) {
        let sum = 1 << (PRECISION - 1);
        let from = (y * width + first) * channels + c;
        for (let i = 0; i < weights.length; i++, from += channels) sum += data[from] * weights[i];
        made[at++] = toByte(sum);
      }
    }
  }
  return { data: made, width: places.length, height, channels };
}

function alongColumns({ data, width, channels }, places) {
  const stride = width * channels;
  const made = new Uint8Array(places.length * stride);
  let at = 0;
  for (const { first, weights } of places) {
    for (let x = 0; x < stride; x++) {
      let sum = 1 << (PRECISION - 1);
      let from = first * stride + x;
      for (let i = 0; i < weights.length; i++, from += stride) sum += data[from] * weights[i];
      made[at++] = toByte(sum);
    }
  }
  return { data: made, width, height: places.length, channels };
}

function pick({ data, width: count, height: rows, channels }, left, upper, right, lower, width, height) {
  const columns = steps(left, Math.fround(right - left) / width, width, count);
  const lines = steps(upper, Math.fround(lower - upper) / height, height, rows);
  const made = new Uint8Array(width * height * channels);
  let at = 0;
  for (const y of lines) {
    for (const x of columns) {
      for (let c = 0; c < channels; c++) made[at++] = data[(y * count + x) * channels + c];
    }
  }
  return { data: made, width, height, channels };
}

function steps(begin, scale, outcome, count) {
  const places = [];
  for (let i = 0, at = begin + scale * 0.5; i < outcome; i++, at += scale) {
    places.push(Math.min(Math.trunc(at), count - 1));
  }
  return places;
}
