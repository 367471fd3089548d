// Pictures: read from a file or a camera into pixels, upright and on white, as camrt reads them.

import { PageError } from "./page_error.js";

const MOST_PIXELS = 64e6;
const CHANNELS = 4; // as a canvas has them

/**
 * @param {Blob} blob a picture's file
 * @param {string} name what to call it
 */
export async function readPicture(blob, name) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob, { colorSpaceConversion: "none" });
  } catch {
    throw new PageError(`${name} is no picture that this browser can read.`);
  }
  if (bitmap.width * bitmap.height > MOST_PIXELS) {
    throw new PageError(`${name} has more than 64 million pixels; make it smaller.`);
  }
  return pictureOf(bitmap, name);
}

/** What a playing video shows now. */
export function takePicture(video) {
  return pictureOf(video, "camera", video.videoWidth, video.videoHeight);
}

function pictureOf(source, name, width = source.width, height = source.height) {
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0);
  return { name, canvas, width, height, channels: CHANNELS, data: context.getImageData(0, 0, width, height).data };
}
