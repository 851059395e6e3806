// @ts-check
// A map on the image and bars for words: amounts that have a place.

import { make, shareBar } from "../../display/static/kit/elements.js";
import { largest } from "../../display/static/kit/numbers.js";
import { patchImage } from "../../display/static/kit/patch_image.js";

/** @import { Box } from "../../display/static/kit/boxes.js" */
/** @import { Amounts } from "./state.js" */

/**
 * @param {HTMLElement} root of the view
 * @param {HTMLElement} parent
 * @param {Amounts} found
 * @param {{boxes: Box[], label: string, color: (share: number) => string, say: (value: number | null) => string,
 *   tell: (text: string) => void, picture: Promise<HTMLImageElement>}} options color: of −1 … 1
 * @returns {() => void} what draws it
 */
export function amountsOf(root, parent, { patches, words }, { boxes, label, color, say, tell, picture }) {
  const line = make("div", "vt-columns", parent);
  let draw = () => {};
  if (patches.length) {
    const most = largest(patches, 1e-9);
    /** @param {number} i */
    const about = (i) => `patch ${i}: ${say(patches[i])}`;
    const image = patchImage(root, make("div", "", line), {
      side: 170, boxes, label, color: (i) => color((patches[i] ?? 0) / most), tell: about,
      hover: (i) => tell(i === null ? "" : about(i)),
    });
    picture.then(image.show);
    draw = image.draw;
  }
  if (words.length) {
    const table = make("table", "", line), most = largest(words.map(([, value]) => value), 1e-9);
    make("caption", "vt-label", table, label);
    for (const [token, value] of words) {
      const row = make("tr", "", table);
      make("td", "", row, token);
      shareBar(row, 80, Math.abs(value ?? 0) / most).style.background = color(Math.sign(value ?? 0));
      make("td", "vt-value", row, say(value));
    }
  }
  return draw;
}
