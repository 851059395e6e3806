// @ts-check
// Pictures that come as bytes.

/** @param {BlobPart} bytes of a PNG @returns {Promise<HTMLImageElement>} */
export function pictureOf(bytes) {
  const url = URL.createObjectURL(new Blob([bytes], { type: "image/png" })), picture = new Image();
  return new Promise((resolve, reject) => {
    picture.onload = () => {
      URL.revokeObjectURL(url);
      resolve(picture);
    };
    picture.onerror = () => reject(new Error("the image could not be drawn"));
    picture.src = url;
  });
}

/** Numbers that came as bytes; a copy, since they may lie at any place of the message.
 * @param {DataView} bytes @returns {ArrayBuffer} */
export function copied(bytes) {
  return /** @type {ArrayBuffer} */ (bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}
