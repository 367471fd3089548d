// What an ONNX file says of itself: its metadata_props, read off protobuf's wire format, since onnxruntime-web does not
// hand them out. Weights are stepped over.

import { PageError } from "./page_error.js";

const METADATA = 14; // ModelProto.metadata_props: StringStringEntryProto {1: key, 2: value}
const GRAPH = 7;
const DAMAGED = "is no ONNX model, or is damaged.";

/**
 * @param {Uint8Array} bytes a whole file
 * @param {string} name what to call it
 * @returns {Map<string, string>}
 */
export function readMetadata(bytes, name) {
  const found = new Map();
  const text = new TextDecoder("utf-8");
  let hasGraph = false;
  try {
    for (const { field, content } of fieldsOf(bytes)) {
      if (field === GRAPH) hasGraph = true;
      if (field !== METADATA || !content) continue;
      const entry = new Map([...fieldsOf(content)].map((part) => [part.field, text.decode(part.content)]));
      found.set(entry.get(1) ?? "", entry.get(2) ?? "");
    }
  } catch (error) {
    if (error instanceof RangeError) throw new PageError(`${name} ${DAMAGED}`);
    throw error;
  }
  if (!hasGraph) throw new PageError(`${name} ${DAMAGED}`);
  return found;
}

/** The fields of a message in order; content is there where a field has bytes. */
function* fieldsOf(bytes) {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      if (at >= bytes.length || factor > 2 ** 63) throw new RangeError("cut short");
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    const [field, kind] = [Math.floor(tag / 8), tag % 8];
    if (field === 0 || ![0, 1, 2, 5].includes(kind)) throw new RangeError("no protobuf");
    if (kind === 0) {
      varint();
      yield { field };
    } else {
      const size = kind === 1 ? 8 : kind === 5 ? 4 : varint();
      if (at + size > bytes.length) throw new RangeError("cut short");
      at += size;
      yield kind === 2 ? { field, content: bytes.subarray(at - size, at) } : { field };
    }
  }
}
