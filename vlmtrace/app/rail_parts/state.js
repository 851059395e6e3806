// @ts-check
// What the rail shows, as the kernel says it.

/** @typedef {"clean" | "corrupt"} Side */

/**
 * @typedef {{corruption: string, effect: number | null, answer: string, text: string, correct?: string, said: string,
 *   probability: Record<string, number>}} GaugeState
 * corruption: whose run is the corrupt one; "": none is; probability: of the correct option, by run
 */

/**
 * @typedef {{name: string, isOwn: boolean, owns: [string, string][], questions: Record<string, string>,
 *   has: {image: boolean, prompt: boolean}, same: boolean, answers: Record<string, string>,
 *   problems: Record<string, string>, gauge: GaugeState, largest: number}} RailState
 * owns: name and question of each example of one's own; largest: bytes of a file
 */

/**
 * @typedef {{state: RailState, models: string[], model: string, pairs: [string, string][], clean: DataView<ArrayBuffer>,
 *   corrupt: DataView<ArrayBuffer>, doing: string, error: string}} RailTraits
 */

/** @typedef {(message: {do: string, [key: string]: unknown}, buffers?: ArrayBuffer[]) => void} Send */

/** @type {Side[]} */
export const SIDES = ["clean", "corrupt"];
