// @ts-check
// How a view follows its model, whose traits the kernel and the page both hold.

import { begin } from "./elements.js";

/**
 * What anywidget hands to a view: the traits `T` of a widget.
 * @template T
 * @typedef {{
 *   get<K extends keyof T>(name: K): T[K],
 *   set<K extends keyof T>(name: K, value: T[K]): void,
 *   save_changes(): void,
 *   send(message: object, callbacks?: undefined, buffers?: ArrayBuffer[]): void,
 *   on(names: string, act: (message: any, buffers: any[]) => void): void,
 *   off(names: string, act: (message: any, buffers: any[]) => void): void,
 * }} Model
 */

/**
 * What a module's `render` is given.
 * @template T
 * @typedef {{model: Model<T>, el: HTMLElement}} Given
 */

/** Call `paint` after one of the traits has changed; returns what undoes it. Not at once: where the state comes in the
 * same message, the view is built anew, and what was built for the state before is not painted with the new traits.
 * @template T
 * @param {Model<T>} model @param {(keyof T & string)[]} traits @param {() => void} paint @returns {() => void} */
export function follow(model, traits, paint) {
  const names = traits.map((trait) => `change:${trait}`).join(" ");
  let isFollowing = true, isWaiting = false;
  const later = () => {
    if (isWaiting) return;
    isWaiting = true;
    queueMicrotask(() => {
      isWaiting = false;
      if (isFollowing) paint();
    });
  };
  model.on(names, later);
  return () => {
    isFollowing = false;
    model.off(names, later);
  };
}

/** Build a view anew whenever its state changes, once the state has what it needs. What was in focus stays in focus: it
 * is found again by its data-name, or its name. `build` returns functions that undo what it set up.
 * @template {{state: any}} T
 * @param {Model<T>} model @param {HTMLElement} el @param {string} needed
 * @param {(model: Model<T>, el: HTMLElement) => (() => void)[]} build @returns {() => void} */
export function rebuilt(model, el, needed, build) {
  begin(el);
  /** @type {(() => void)[]} */
  let undo = [];
  function start() {
    const focused = document.activeElement;
    const name = focused instanceof HTMLElement && el.contains(focused)
      ? focused.dataset.name || focused.getAttribute("name") || ""
      : "";
    undo.forEach((act) => act());
    undo = [];
    el.replaceChildren();
    if (!model.get("state")[needed]) {
      delete el.dataset.drawn;
      return;
    }
    undo = build(model, el);
    const again = name ? el.querySelector(`[data-name="${CSS.escape(name)}"], [name="${CSS.escape(name)}"]`) : null;
    if (again instanceof HTMLElement) again.focus();
  }
  model.on("change:state", start);
  start();
  return () => {
    model.off("change:state", start);
    undo.forEach((act) => act());
  };
}

/** Set traits, and send them to the kernel.
 * @template T
 * @param {Model<T>} model @param {Partial<T>} values */
export function save(model, values) {
  for (const name of /** @type {(keyof T)[]} */ (Object.keys(values))) {
    model.set(name, /** @type {T[keyof T]} */ (values[name]));
  }
  model.save_changes();
}
