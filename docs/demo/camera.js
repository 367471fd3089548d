// Taking a picture with the camera.

import { PageError } from "./page_error.js";
import { takePicture } from "./picture.js";

const REASONS = {
  NotAllowedError: "it was not allowed",
  NotFoundError: "there is none",
  NotReadableError: "another program uses it",
};

/**
 * Asks for a picture in a dialog.
 * @param {HTMLDialogElement} dialog with a video and two buttons
 * @returns {Promise<object | null>} a picture; null where there was none taken
 */
export async function askForPicture(dialog) {
  if (!navigator.mediaDevices) {
    throw new PageError("The camera can be used on localhost and over https alone.");
  }
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    throw new PageError(`The camera cannot be used: ${REASONS[error.name] ?? error.message}.`);
  }
  const video = dialog.querySelector("video");
  const shoot = dialog.querySelector("#shoot");
  shoot.disabled = true;
  video.onloadeddata = () => (shoot.disabled = false);
  video.srcObject = stream;
  dialog.showModal();
  try {
    return await new Promise((resolve) => {
      shoot.onclick = () => resolve(takePicture(video));
      dialog.querySelector("#camera-close").onclick = () => resolve(null);
      dialog.onclose = () => resolve(null);
    });
  } finally {
    stream.getTracks().forEach((track) => track.stop());
    video.srcObject = null;
    dialog.close();
  }
}
