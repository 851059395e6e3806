// @ts-check
// One image: a picture, a place to drop a file on, and a button that removes it.

import { button, make } from "../../display/static/kit/elements.js";
import { reduced } from "./reduced.js";

/** @import { Send, Side } from "./state.js" */

/**
 * @param {Element} parent
 * @param {Side} side
 * @param {Send} send
 * @param {(text: string) => void} fail tells why a file was not sent
 * @param {() => number} largest bytes of a file
 */
export function imageZone(parent, side, send, fail, largest) {
  const zone = make("div", "vt-zone", parent), label = make("label", "vt-drop", zone);
  make("span", `vt-side vt-${side}`, label, side);
  const frame = make("span", "vt-picture", label), picture = make("img", "", frame);
  const hint = make("span", "vt-label", frame, "drop an image, or click");
  const input = make("input", "vt-file", label), title = `open another ${side} image`;
  Object.assign(input, { type: "file", accept: "image/*", name: `file-${side}`, title });
  input.setAttribute("aria-label", title);
  const remove = button(
    zone, "×", () => send({ do: "remove", part: "image", side }), `remove the ${side} image`,
  );
  remove.classList.add("vt-remove");
  remove.name = `remove-image-${side}`;
  const answer = make("div", "vt-said", zone);
  let url = "";

  /** @param {File | undefined} file */
  async function open(file) {
    if (!file) return;
    try {
      send({ do: "open", side }, [await reduced(file, largest())]);
    } catch (error) {
      fail(error instanceof Error ? error.message : String(error));
    }
  }
  input.addEventListener("change", () => {
    open(input.files?.[0]);
    input.value = "";
  });
  label.addEventListener("dragover", (event) => {
    event.preventDefault();
    label.classList.add("vt-over");
  });
  label.addEventListener("dragleave", () => label.classList.remove("vt-over"));
  label.addEventListener("drop", (event) => {
    event.preventDefault();
    label.classList.remove("vt-over");
    open(event.dataTransfer?.files[0]);
  });
  picture.addEventListener("load", () => {
    picture.style.imageRendering = picture.naturalWidth < 128 ? "pixelated" : "auto";
  });

  return {
    /** @param {DataView<ArrayBuffer>} bytes a PNG; empty: there is none @param {string} said
     * @param {boolean} removable */
    show(bytes, said, removable) {
      if (url) URL.revokeObjectURL(url);
      const there = Boolean(bytes && bytes.byteLength > 0);
      url = there ? URL.createObjectURL(new Blob([bytes], { type: "image/png" })) : "";
      picture.hidden = !there;
      hint.hidden = there;
      remove.hidden = !removable;
      if (there) picture.src = url;
      else picture.removeAttribute("src");
      picture.alt = there ? `the ${side} image` : "";
      answer.textContent = answer.title = said;
    },
  };
}
