// A model with maps inside: what it takes and gives, and its answers to one picture.

import { readMetadata } from "./onnx_metadata.js";
import { PageError } from "./page_error.js";
import { Preprocessing } from "./preprocessing.js";

const MOST_BYTES = 1 << 30; // what WebAssembly holds twice over
const PREDICTED = -1n; // as a target, the class that the model predicts

/** A thread that runs models, and answers its questions one by one. */
class Runner {
  #waiting = new Map();
  #asked = 0;

  constructor() {
    // A worker of a blob is bound to the page's own policy of what it may load; one of an address would not be.
    const source = `import ${JSON.stringify(new URL("./model_worker.js", import.meta.url).href)};`;
    const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    this.worker = new Worker(address, { type: "module" });
    this.started = new Promise((resolve, reject) => {
      this.worker.onerror = () => reject(new PageError("The page's own files could not be loaded; load it again."));
      this.worker.onmessage = ({ data }) => {
        if (data.ready) return resolve();
        const { resolve: answer, reject: fail } = this.#waiting.get(data.id);
        this.#waiting.delete(data.id);
        return data.error === undefined ? answer(data.answer) : fail(new Error(data.error));
      };
    });
  }

  async ask(task, given) {
    await this.started;
    const id = ++this.#asked;
    return new Promise((resolve, reject) => {
      this.#waiting.set(id, { resolve, reject });
      this.worker.postMessage({ id, task, ...given });
    });
  }

  stop() {
    this.worker.terminate();
  }
}

export class Model {
  /**
   * @param {string} name of the file
   * @param {Uint8Array} bytes of the file
   * @returns {Promise<Model>}
   */
  static async open(name, bytes) {
    if (bytes.length > MOST_BYTES) throw new PageError(`${name} has more than 1 GiB, which this page does not load.`);
    const metadata = readMetadata(bytes, name);
    const gpu = Boolean(await navigator.gpu?.requestAdapter().catch(() => null));
    const runtimes = gpu ? [true, false] : [false];
    let reason;
    for (const onGpu of runtimes) {
      const runner = new Runner();
      try {
        const ends = await runner.ask("open", { bytes, gpu: onGpu });
        return new Model(name, bytes.length, metadata, ends, runner, onGpu ? "WebGPU" : "WebAssembly");
      } catch (error) {
        runner.stop();
        if (error instanceof PageError) throw error;
        reason = error.message;
      }
    }
    throw new PageError(`${name} cannot be run here: ${reason}`);
  }

  constructor(name, size, metadata, { inputs, outputs }, runner, runtime) {
    Object.assign(this, { name, size, runner, runtime });
    const held = readJson(metadata, "camrt.maps", name);
    if (!held) {
      throw new PageError(
        `${name} holds no maps. camrt puts them in: camrt export ${name} --with pixab -o with-maps.onnx`,
      );
    }
    this.maps = held.maps.map(({ method, saliency }) => ({ method, output: saliency }));
    this.target = inputs.find((part) => part.name === held.target) ?? null;
    const images = inputs.filter((part) => part !== this.target);
    const added = held.maps.flatMap(({ saliency, raw }) => [saliency, raw]);
    this.scores = outputs.find((part) => !added.includes(part.name) && part.shape.length <= 2);
    if (images.length !== 1 || images[0].shape?.length !== 4 || !this.scores) {
      throw new PageError(`${name} is no classifier of pictures with one input.`);
    }
    [this.image] = images;
    const made = { float32: true, uint8: true, float16: "Float16Array" in globalThis };
    if (!made[this.image.type]) {
      throw new PageError(`${name} takes pictures as ${this.image.type}, which are not made in this browser.`);
    }
    const sides = this.image.shape.map((side) => (typeof side === "number" && side > 0 ? side : null));
    this.channelsLast = [1, 3].includes(sides[3]) && ![1, 3].includes(sides[1]);
    const [height, width] = this.channelsLast ? sides.slice(1, 3) : sides.slice(2);
    const steps = readJson(metadata, "camrt.preprocessing", name);
    if (!steps) {
      throw new PageError(
        `${name} does not say how a picture becomes its input: write it again with camrt export and ` +
          "--preprocessing, such as imagenet.",
      );
    }
    this.preprocessing = new Preprocessing(steps, height && width ? [height, width] : null);
    this.labels = readJson(metadata, "camrt.labels", name);
  }

  /** The class's name, or its number. */
  label(index) {
    return String(this.labels?.[index] ?? `class ${index}`);
  }

  /**
   * Scores and one map.
   * @param {{data: Uint8ClampedArray, width: number, height: number, channels: number}} picture
   * @param {string} map output of the maps
   * @param {number | null} target class; null for the predicted one
   */
  async explain(picture, map, target) {
    const { height, width, channels } = this.preprocessing;
    const array = this.preprocessing.array(picture, this.channelsLast);
    const dims = this.channelsLast ? [1, height, width, channels] : [1, channels, height, width];
    const feeds = [{ name: this.image.name, type: this.image.type, data: toType(array, this.image.type), dims }];
    if (this.target) {
      const data = BigInt64Array.of(target === null ? PREDICTED : BigInt(target));
      feeds.push({ name: "target", type: "int64", data, dims: Array(this.target.shape.length).fill(1) });
    }
    let answers;
    try {
      answers = await this.runner.ask("run", { feeds, outputs: [this.scores.name, map] });
    } catch (error) {
      throw new PageError(`The model could not be run: ${error.message}`);
    }
    const found = answers[map];
    return {
      scores: Float32Array.from(answers[this.scores.name].data),
      map: { data: found.data, height: found.dims.at(-2), width: found.dims.at(-1) },
      box: this.preprocessing.framing(picture.height, picture.width),
    };
  }

  close() {
    this.runner.stop();
  }
}

function readJson(metadata, key, name) {
  if (!metadata.has(key)) return null;
  try {
    return JSON.parse(metadata.get(key));
  } catch {
    throw new PageError(`What ${name} says under ${key} is not valid JSON.`);
  }
}

function toType(array, type) {
  if (type === "uint8") return Uint8Array.from(array);
  return type === "float16" ? Float16Array.from(array) : array;
}

/** Scores as probabilities: as they are where they are such, else by softmax, or the logistic function of one. */
export function toProbabilities(scores) {
  const sum = scores.reduce((total, score) => total + score, 0);
  if (scores.every((score) => score >= 0 && score <= 1) && (scores.length === 1 || Math.abs(sum - 1) < 1e-3)) {
    return scores;
  }
  if (scores.length === 1) return scores.map((score) => 1 / (1 + Math.exp(-score)));
  const top = scores.reduce((largest, score) => Math.max(largest, score), -Infinity);
  const powers = scores.map((score) => Math.exp(score - top));
  const total = powers.reduce((sum, power) => sum + power, 0);
  return powers.map((power) => power / total);
}
