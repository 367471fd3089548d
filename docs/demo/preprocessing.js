// How a picture becomes a model's input: what camrt.Preprocessing of Python does, by the same fields.

import { PageError } from "./page_error.js";
import { resize } from "./resampling.js";

const FIELDS = {
  mean: [0],
  std: [1],
  scale: 1 / 255,
  colours: "RGB",
  resize: "squash",
  crop_fraction: 0.875,
  interpolation: "bilinear",
};
const ALLOWED = {
  colours: ["RGB", "BGR", "L"],
  resize: ["squash", "crop"],
  interpolation: ["bilinear", "bicubic", "nearest"],
};
const LONGEST_SIDE = 16384;

export class Preprocessing {
  /**
   * @param {object} fields what a file keeps under camrt.preprocessing
   * @param {number[] | null} size [H, W] that the model fixes
   */
  constructor(fields, size) {
    const given = { ...FIELDS, ...(size && { size }), ...fields };
    this.channels = given.colours === "L" ? 1 : 3;
    for (const name of ["mean", "std"]) {
      if (given[name]?.length === 1) given[name] = Array(this.channels).fill(given[name][0]);
      if (!isNumbers(given[name], this.channels)) throw wrong(name);
    }
    for (const [name, values] of Object.entries(ALLOWED)) {
      if (!values.includes(given[name])) throw wrong(name);
    }
    if (!isNumbers([given.scale, given.crop_fraction], 2)) throw wrong("scale");
    const whole = (side) => Number.isInteger(side) && side >= 1 && side <= LONGEST_SIDE;
    if (given.size?.length !== 2 || !given.size.every(whole)) throw wrong("size");
    this.fields = given;
    [this.height, this.width] = given.size;
  }

  /** The part of a picture (height, width) that the model sees. */
  framing(height, width) {
    if (this.fields.resize === "squash") return { left: 0, upper: 0, right: width, lower: height };
    const [H, W] = [this.height, this.width];
    let tall = roundToEven(H / this.fields.crop_fraction);
    let wide = roundToEven(W / this.fields.crop_fraction);
    if (tall * width >= wide * height) wide = Math.floor((tall * width) / height);
    else tall = Math.floor((wide * height) / width);
    const left = roundToEven((wide - W) / 2);
    const upper = roundToEven((tall - H) / 2);
    return {
      left: (left * width) / wide,
      upper: (upper * height) / tall,
      right: Math.min(((left + W) * width) / wide, width),
      lower: Math.min(((upper + H) * height) / tall, height),
    };
  }

  /** What the model is given of a picture of red, green and blue: numbers (C, H, W), or (H, W, C). */
  array(picture, channelsLast) {
    const { colours, scale, mean, std, interpolation } = this.fields;
    const source = colours === "L" ? toGrey(picture) : picture;
    const box = this.framing(picture.height, picture.width);
    const view = resize(source, box, this.width, this.height, interpolation);
    const area = this.width * this.height;
    const array = new Float32Array(this.channels * area);
    for (let c = 0; c < this.channels; c++) {
      const from = colours === "BGR" ? 2 - c : c;
      const table = Float32Array.from({ length: 256 }, (_, level) => (level * scale - mean[c]) / std[c]);
      for (let i = 0; i < area; i++) {
        array[channelsLast ? i * this.channels + c : c * area + i] = table[view.data[i * view.channels + from]];
      }
    }
    return array;
  }
}

function isNumbers(values, count) {
  return Array.isArray(values) && values.length === count && values.every(Number.isFinite);
}

function wrong(name) {
  return new PageError(`The file's preprocessing has a ${name} that makes no sense.`);
}

function roundToEven(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 ? below + 1 : below;
}

function toGrey({ data, width, height, channels }) {
  const grey = new Uint8Array(width * height);
  for (let i = 0, at = 0; i < grey.length; i++, at += channels) {
    grey[i] = (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16;
  }
  return { data: grey, width, height, channels: 1 };
}
