// @ts-check

/** Texts that were typed and not asked yet, by example: none is thrown away. */
export class Drafts {
  constructor() {
    /** @type {Map<string, Record<string, string>>} */
    this.kept = new Map();
    this.asked = "";
  }
  /** @param {string} name @param {string} side */
  of(name, side) {
    return this.kept.get(name)?.[side];
  }
  /** @param {string} name @param {string} side @param {string} text */
  put(name, side, text) {
    this.kept.set(name, { ...this.kept.get(name), [side]: text });
  }
  /** The example `name` was asked; what is typed beside it goes along to the one that is made of it.
   * @param {string} name */
  ask(name) {
    this.asked = name;
  }
  /** Another state is shown. @param {string} name @param {Record<string, string>} questions */
  shown(name, questions) {
    const taken = this.kept.get(this.asked);
    if (this.asked && this.asked !== name && taken) {
      this.kept.set(name, taken);
      this.kept.delete(this.asked);
    }
    this.asked = "";
    const texts = this.kept.get(name) ?? {};
    for (const side of Object.keys(texts)) if (texts[side].trim() === questions[side]) delete texts[side];
  }
}
