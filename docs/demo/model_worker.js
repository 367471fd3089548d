// Runs a model in a thread of its own, so that the page answers meanwhile. Asked by model.js.

let session = null;

const TASKS = {
  async open({ bytes, gpu }) {
    const ort = await import(gpu ? "./ort/ort.webgpu.min.mjs" : "./ort/ort.wasm.min.mjs");
    ort.env.logLevel = "error";
    ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
    ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency) : 1;
    await session?.release();
    const options = { executionProviders: [gpu ? "webgpu" : "wasm"], logSeverityLevel: 3 }; // what fails is raised
    session = await ort.InferenceSession.create(bytes, options);
    makeTensor = (type, data, dims) => new ort.Tensor(type, data, dims);
    return { inputs: session.inputMetadata, outputs: session.outputMetadata };
  },

  async run({ feeds, outputs }) {
    const tensors = feeds.map(({ name, type, data, dims }) => [name, makeTensor(type, data, dims)]);
    const found = await session.run(Object.fromEntries(tensors), outputs);
    const answers = {};
    for (const name of outputs) {
      answers[name] = { type: found[name].type, dims: found[name].dims, data: await found[name].getData() };
      found[name].dispose();
    }
    return answers;
  },
};

let makeTensor;

self.onmessage = async ({ data: { id, task, ...given } }) => {
  try {
    self.postMessage({ id, answer: await TASKS[task](given) });
  } catch (error) {
    self.postMessage({ id, error: String(error?.message ?? error) });
  }
};
self.postMessage({ ready: true });
