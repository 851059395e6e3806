// @ts-check
// At the right of the graph: what each patch of the image does, and where the head that is hovered looks.

import { diverging, heat } from "../../display/static/kit/colors.js";
import { button, make, named } from "../../display/static/kit/elements.js";
import { largest, percent, signed } from "../../display/static/kit/numbers.js";
import { patchImage } from "../../display/static/kit/patch_image.js";
import { shortNode } from "./state.js";

/** @import { Amounts, EdgesState, Send } from "./state.js" */

/** What a head reads, in words. @param {Amounts} found @returns {string} */
export function lookSentence({ patches, words }) {
  const image = patches.length ? `image ${percent(patches.reduce((sum, v) => (sum ?? 0) + (v ?? 0), 0) ?? 0)}; ` : "";
  const most = [...words].sort((a, b) => (b[1] ?? 0) - (a[1] ?? 0)).slice(0, 4);
  return `${image}${most.map(([token, value]) => `${token} ${percent(value ?? 0)}`).join(", ")} (mean over tokens)`;
}

/** @param {HTMLElement} root of the view @param {HTMLElement} parent @param {EdgesState} state @param {Send} send
 * @param {(text: string) => void} tell @param {Promise<HTMLImageElement>} picture
 * @returns {{look: (node: string) => void, draw: () => void}} look: show where a node looks; "": the patches */
export function imagePane(root, parent, state, send, tell, picture) {
  const { effects, chosen, outcome } = state.image, activity = "patches of the image";
  const strongest = largest(effects, 0.05);
  // One scale for all heads: a hover changes no color limit.
  const sight = largest(Object.values(state.attention).flatMap((found) => found.patches), 1e-9);
  let hovered = "";
  /** @returns {Amounts | undefined} */
  const looking = () => state.attention[hovered];
  const title = make("h4", "", parent);
  /** @param {number} i */
  const about = (i) => `patch ${i}${effects.length ? ` from the clean image: effect ${signed(effects[i])}` : ""}`;
  const image = !state.boxes.length ? null : patchImage(root, parent, {
    side: 184, boxes: state.boxes, label: "patches of the image", selected: new Set(chosen), grid: () => !hovered,
    color: (i) => {
      const seen = looking();
      if (seen?.patches.length) return heat((seen.patches[i] ?? 0) / sight);
      return effects.length ? diverging((effects[i] ?? 0) / strongest) : "rgba(0,0,0,0)";
    },
    tell: about, hover: (i) => tell(i === null ? "" : about(i)),
    change: (set) => send({ do: "patch image", patches: [...set].sort((a, b) => a - b), activity }),
  });
  const words = make("div", "vt-numbers", parent);
  words.style.minHeight = "5.6em";
  words.style.whiteSpace = "normal";
  const each = "Effect of each patch by itself, put from the clean image into the corrupt run behind the vision encoder.";
  const whole = "Put into the corrupt run by patch where the images differ.";

  /** @param {string} node */
  function look(node) {
    hovered = state.attention[node] ? node : "";
    const found = looking(), patched = `Patches: click, drag (±${strongest.toFixed(2)})`;
    title.textContent = found ? `${shortNode(node)} looks` : effects.length ? patched : "The image";
    words.textContent = found ? lookSentence(found) : effects.length ? each : whole;
    image?.draw();
  }
  if (image) {
    picture.then((loaded) => {
      image.show(loaded);
      look("");
    });
  }
  if (outcome) {
    const many = `${chosen.length} ${chosen.length === 1 ? "patch" : "patches"}`;
    const said = `${many}: effect ${signed(outcome.effect)}, answer ${outcome.answer}`;
    named(make("div", "vt-patched", parent, said), "patches").style.fontWeight = "600";
    const none = () => send({ do: "patch image", patches: [], activity });
    named(button(parent, "no patches", none), "no patches");
  }
  const draw = () => {
    if (image && !image.isDragged()) image.draw();
  };
  return { look, draw };
}
