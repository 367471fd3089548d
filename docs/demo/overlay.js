// A map drawn over its picture, by the rules of camrt's own overlays: see engine/images/overlay.py.

import { COLOURS, FADE } from "./look.js";

const OPAQUE_FROM = 0.6; // the saliency from which on the colour has its full opacity
const LEAST_LIGHT = 0.5; // of what is faded wholly, as a share of its own
const OUTSIDE = { fade: 0.5, light: 0.35 }; // of what the model did not see
const LONGEST_SIDE = 1600; // of what is drawn
const SHORTEST_SIDE = 384; // a smaller picture is drawn larger

export class Overlay {
  /**
   * @param {{canvas: OffscreenCanvas, width: number, height: number}} picture
   * @param {HTMLCanvasElement} canvas where it is drawn
   */
  constructor(picture, canvas) {
    const longest = Math.max(picture.width, picture.height);
    const factor = Math.min(Math.max(SHORTEST_SIDE / longest, 1), LONGEST_SIDE / longest);
    this.width = canvas.width = Math.max(1, Math.round(picture.width * factor));
    this.height = canvas.height = Math.max(1, Math.round(picture.height * factor));
    this.factors = [this.width / picture.width, this.height / picture.height];
    this.context = canvas.getContext("2d", { willReadFrequently: true });
    this.context.imageSmoothingQuality = "high";
    this.context.drawImage(picture.canvas, 0, 0, this.width, this.height);
    this.base = this.context.getImageData(0, 0, this.width, this.height);
    this.levels = new Float32Array(this.width * this.height);
    this.seen = new Uint8Array(this.levels.length); // by the model
  }

  /** Takes a map (height, width) of a part of the picture, a box in its pixels; zero elsewhere. */
  setMap({ data, height, width }, box) {
    const [across, down] = this.factors;
    const columns = this.#places(this.width, box.left * across, box.right * across, width);
    const rows = this.#places(this.height, box.upper * down, box.lower * down, height);
    this.levels.fill(0);
    this.seen.fill(0);
    for (let y = 0; y < this.height; y++) {
      const { low: above, high: below, t: v } = rows[y];
      if (above < 0) continue;
      for (let x = 0; x < this.width; x++) {
        const { low, high, t } = columns[x];
        if (low < 0) continue;
        const first = data[above * width + low] * (1 - t) + data[above * width + high] * t;
        const second = data[below * width + low] * (1 - t) + data[below * width + high] * t;
        this.seen[y * this.width + x] = 1;
        this.levels[y * this.width + x] = Math.min(Math.max(first * (1 - v) + second * v, 0), 1);
      }
    }
  }

  /** Along one axis, the map's cells that each pixel lies between; low is -1 beyond the part. */
  #places(pixels, begin, end, cells) {
    return Array.from({ length: pixels }, (_, i) => {
      if (i + 0.5 <= begin || i + 0.5 >= end) return { low: -1, high: -1, t: 0 };
      const at = Math.min(Math.max(((i + 0.5 - begin) / (end - begin)) * cells - 0.5, 0), cells - 1);
      const low = Math.min(Math.floor(at), cells - 1);
      return { low, high: Math.min(low + 1, cells - 1), t: at - low };
    });
  }

  /**
   * @param {"both" | "map" | "picture"} show
   * @param {number} opacity of the most salient pixels, in [0, 1]
   */
  draw(show, opacity) {
    const made = new ImageData(new Uint8ClampedArray(this.base.data), this.width, this.height);
    for (let i = 0, at = 0; show !== "picture" && i < this.levels.length; i++, at += 4) {
      const level = this.levels[i];
      const rise = Math.min(level / OPAQUE_FROM, 1);
      const weight = show === "map" ? 1 : opacity * rise * rise * (3 - 2 * rise);
      const { fade, light } = this.seen[i] ? { fade: FADE, light: 1 } : OUTSIDE;
      const kept = light * (1 - (1 - LEAST_LIGHT) * fade);
      const grey = 0.299 * made.data[at] + 0.587 * made.data[at + 1] + 0.114 * made.data[at + 2];
      const colour = 3 * Math.round(level * 255);
      for (let c = 0; c < 3; c++) {
        const ground = kept * (made.data[at + c] + fade * (grey - made.data[at + c]));
        made.data[at + c] = ground + weight * (COLOURS[colour + c] - ground);
      }
    }
    this.context.putImageData(made, 0, 0);
  }
}
