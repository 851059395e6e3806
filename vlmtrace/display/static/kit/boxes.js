// @ts-check
// Patches of an image as rectangles: which lies where, which lie between two, which is next to one.

/** @typedef {[number, number, number, number]} Box top, left, bottom, right, as shares of the image's height and width */

/** The patch at a place, or null. @param {Box[]} boxes @param {number} x @param {number} y shares of width and height
 * @returns {number | null} */
export function boxAt(boxes, x, y) {
  const found = boxes.findIndex(([t, l, b, r]) => x >= l && x < r && y >= t && y < b);
  return found < 0 ? null : found;
}

/** All patches whose middle lies in the rectangle that two patches span. @param {Box[]} boxes @param {number} a
 * @param {number} b @returns {number[]} */
export function boxesBetween(boxes, a, b) {
  const [t1, l1, b1, r1] = boxes[a], [t2, l2, b2, r2] = boxes[b];
  const [top, left, bottom, right] = [Math.min(t1, t2), Math.min(l1, l2), Math.max(b1, b2), Math.max(r1, r2)];
  return boxes.flatMap((box, i) => {
    const [y, x] = middleOf(box);
    return y >= top && y <= bottom && x >= left && x <= right ? [i] : [];
  });
}

/** The nearest patch in a direction; where there is none, the patch itself.
 * @param {Box[]} boxes @param {number} i @param {[number, number]} step down and right @returns {number} */
export function neighborOf(boxes, i, [down, right]) {
  const [y, x] = middleOf(boxes[i]);
  let best = i, least = Infinity;
  boxes.forEach((other, j) => {
    const [oy, ox] = middleOf(other), along = (oy - y) * down + (ox - x) * right;
    const across = Math.abs((oy - y) * right) + Math.abs((ox - x) * down);
    if (along > 1e-6 && along + 3 * across < least) {
      least = along + 3 * across;
      best = j;
    }
  });
  return best;
}

/** @param {Box} box @returns {[number, number]} how far down, how far right */
export function middleOf([t, l, b, r]) {
  return [(t + b) / 2, (l + r) / 2];
}
