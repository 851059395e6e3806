// @ts-check
// Numbers in words, and sums of them.

/** A share in percent. @param {number} share @returns {string} */
export function percent(share) {
  const value = 100 * share;
  return (value >= 10 || value === 0 ? value.toFixed(0) : value >= 0.1 ? value.toFixed(1) : "<0.1") + " %";
}

/** A number with its sign and two digits. @param {number|null|undefined} value @returns {string} */
export function signed(value) {
  return value === null || value === undefined || Number.isNaN(value)
    ? "–"
    : (value < 0 ? "−" : "+") + Math.abs(value).toFixed(2);
}

/** The same, without a sign where two digits leave nothing of it.
 * @param {number|null|undefined} value @returns {string} */
export function rounded(value) {
  return value !== null && value !== undefined && Math.abs(value) < 0.005 ? "0.00" : signed(value);
}

/** A number with its interval.
 * @param {number|null} value @param {number|null} low @param {number|null} high @returns {string} */
export function within(value, low, high) {
  return `${rounded(value)} [${rounded(low)}, ${rounded(high)}]`;
}

/** The first of some round limits that is not below `most`; beyond the last, `otherwise`.
 * @param {number} most @param {number[]} steps @param {number} otherwise @returns {number} */
export function roundLimit(most, steps, otherwise) {
  return steps.find((step) => most <= step) ?? otherwise;
}

/** The mean of `f` over a list; of nothing 0.
 * @template I
 * @param {I[]} list @param {(item: I) => number} f @returns {number} */
export function mean(list, f) {
  return list.reduce((sum, item) => sum + f(item), 0) / Math.max(1, list.length);
}

/** The largest absolute value, at least `least`; what is missing counts as 0.
 * @param {(number|null)[]} values @param {number} [least] @returns {number} */
export function largest(values, least = 0) {
  return values.reduce((/** @type {number} */ most, value) => Math.max(most, Math.abs(value || 0)), least);
}

/** 0, 1, … n − 1. @param {number} n @returns {number[]} */
export function range(n) {
  return Array.from({ length: n }, (_, i) => i);
}
