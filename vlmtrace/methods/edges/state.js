// @ts-check
// What the view of edges shows, as the kernel says it.

/** @import { Box } from "../../display/static/kit/boxes.js" */

/**
 * @typedef {{sender: string, receiver: string, sender_node: string, receiver_node: string, receiver_input: string,
 *   effect: number}} Edge
 * @typedef {{node: string, kind: string, text: string, x: number, row: number, opens: string,
 *   instead: string}} PlacedNode
 * x: 0 … 1 in its row; opens: what a click opens, of a word the prompt; instead: the word that a word stands in place of
 * @typedef {{patches: (number | null)[], words: [string, number | null][]}} Amounts of what has a place
 * @typedef {[string, string]} Names of a sender and a receiver
 */

/**
 * @typedef {{name: string, query: number | null, reads: [string, string, number][], readBy: [string, string, number][],
 *   refused?: string, attention: (Amounts & {queries: [number, string][]}) | null}} OpenNode
 * queries: position and token
 */

/**
 * @typedef {{example: string, corruption: string, corruptions: Record<string, string>, scope: "pair" | "run", n: number,
 *   nEdges: number, source: string, rows: string[], nodes: PlacedNode[], edges: Edge[], chosen: Names[],
 *   answer: string, at: Record<string, string>, attention: Record<string, Amounts>, boxes: Box[],
 *   image: {effects: (number | null)[], chosen: number[], outcome: {effect: number | null, answer: string} | null},
 *   effect: number | null, alone: number | null, places: (Amounts & {of: Names}) | null, node: OpenNode | null,
 *   result: {run: string, p_correct: number, logit_diff: number}[], nRefused?: number}} EdgesState
 * n: how many are drawn; at: the token at which what a node sends does most; alone: the drawn edges as a circuit;
 * nRefused: how many changes could not be made since, each of which draws this state anew
 */

/** @typedef {{state: EdgesState, picture: DataView<ArrayBuffer>}} EdgesTraits */

/** @typedef {(message: {do: string, activity: string, [key: string]: unknown}) => void} Send */

/** @param {string} sender @param {string} receiver */
export const edgeName = (sender, receiver) => `${sender} → ${receiver}`;

/** Where a node of the graph is said to look: the end of its name. @param {string} node */
export const shortNode = (node) => node.split(".").slice(-2).join(".");

/** A node in words: a word of the question is one where the other question has another there. @param {PlacedNode} node */
export const spoken = ({ node, kind, text, instead }) =>
  kind === "token" ? `“${text}”${instead ? ` in place of “${instead}”` : ""}` : node;

/** How many edges are drawn: what the words of a question send is one edge. @param {Edge[]} edges */
export const countEdges = (edges) => new Set(edges.map(({ sender, receiver }) => edgeName(sender, receiver))).size;
