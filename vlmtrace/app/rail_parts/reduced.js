// @ts-check
// A file of the user's, made smaller before it is sent.

import { contextOf } from "../../display/static/kit/canvas.js";

/** No side of a picture is sent longer: models see far fewer pixels. */
const LONGEST_SIDE = 2048;

/** @param {number} bytes */
const megabytes = (bytes) => (bytes / 2 ** 20).toFixed(1);

/** Width and height as they are sent. @param {number} width @param {number} height @returns {[number, number]} */
export function reducedSize(width, height) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(width, height));
  return [Math.max(1, Math.round(width * scale)), Math.max(1, Math.round(height * scale))];
}

/** A file as it is sent: as it is, or reduced where it is larger than what is taken.
 * @param {File} file @param {number} largest in bytes @returns {Promise<ArrayBuffer>} */
export async function reduced(file, largest) {
  const bitmap = await createImageBitmap(file).catch(() => null);
  if (!bitmap) {
    // What the browser cannot decode the kernel may; it says so otherwise.
    if (file.size <= largest) return file.arrayBuffer();
    const most = megabytes(largest);
    throw new Error(
      `The file has ${megabytes(file.size)} MB and cannot be reduced here: save it as PNG or JPEG of at most ${most} MB.`,
    );
  }
  const [width, height] = reducedSize(bitmap.width, bitmap.height);
  if (width === bitmap.width && height === bitmap.height && file.size <= largest) return file.arrayBuffer();
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = contextOf(canvas);
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, 0, width, height);
  /** @type {(kind: string) => Promise<Blob|null>} */
  const blob = (kind) => new Promise((done) => canvas.toBlob(done, kind, 0.95));
  let made = await blob("image/png");
  if (!made || made.size > largest) made = await blob("image/jpeg");
  if (!made) throw new Error("The image is too large for this browser to reduce: save it smaller.");
  return made.arrayBuffer();
}
