"""Several edges at once: what would the corrupt run have answered, had all of them carried the clean output?

    edges = [("image", "text_encoder.cross_attention.2.7.value"), ("text_decoder.cross_attention.3.0", "output")]
    print(intervene_on_edges(model, pairs.iloc[0], edges, corruption="image"))

`patch_edges` patches every edge by itself; here they act together, those above on what those below have changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from vlmtrace.core.arguments import checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.inputs.corruption import CORRUPTIONS
from vlmtrace.inputs.pair_runs import PairRuns, encode_pair, run_pairs
from vlmtrace.methods.patching.metrics import patching_effect
from vlmtrace.methods.patching.run_sweep import default_memory, memory_for_states
from vlmtrace.models import VLM, Readout
from vlmtrace.models.edges.circuit_run import OF_BASE, OF_RUN, OF_SOURCE, run_to_answer
from vlmtrace.models.edges.nodes import INPUT, PROMPT, Edge, Receiver
from vlmtrace.models.edges.stacks import stacks_of
from vlmtrace.models.edges.wiring import edges_of, wirings_of


@dataclass(frozen=True)
class EdgeOutcome:
    """What edges did to the answer.

    Attributes:
        readouts: by run ("clean", "corrupt", "patched"), logits of the two options
        answers: by run, the most probable first answer token: the vocabulary's entry
    """

    readouts: dict[str, Readout]
    answers: dict[str, str]

    @property
    def patching_effect(self) -> float:
        """(LD_patched − LD_corrupt) / (LD_clean − LD_corrupt); NaN where clean and corrupt do not differ."""
        return float(patching_effect(*(self.logit_diff(run) for run in ("patched", "clean", "corrupt"))))

    def logit_diff(self, run: str = "patched") -> float:
        """LD = logit(correct) − logit(incorrect) of a run.

        Args:
            run: "clean", "corrupt" or "patched"

        Raises:
            VlmtraceError: there is no such run
        """
        return float(self.readouts[one_of(run, self.readouts, "run")].logit_diff)

    def table(self) -> pd.DataFrame:
        """One row per run: run, p_correct (probability of the correct answer, 0 to 1) and logit_diff (logits)."""
        return pd.DataFrame(
            [
                {"run": run, "p_correct": float(readout.p_correct), "logit_diff": float(readout.logit_diff)}
                for run, readout in self.readouts.items()
            ]
        )

    def __str__(self) -> str:
        """LD of each run, and the patching effect."""
        said = ", ".join(f"{run} {self.logit_diff(run):.2f}" for run in self.readouts)
        return f"LD: {said}; patching effect {self.patching_effect:.3f}"


@checked
def intervene_on_edges(
    model: VLM, pair: Mapping[str, Any] | pd.Series, edges: Sequence[tuple[str, str]], corruption: str = "image"
) -> EdgeOutcome:
    """Run one pair's corrupt input, with some edges that carry what their senders give in the clean run.

    Args:
        model: BLIP, or decoder-only with the fast sweep
        pair: a row of a pairs table
        edges: (sender, receiver), named as `vt.edges` lists them; none leaves the corrupt run as it is. "prompt@5" as
            sender is the prompt's token at position 5 alone
        corruption: "image" or "text"

    Returns:
        what the edges did to the answer

    Raises:
        VlmtraceError: the model's edges are not known, it has no such edge, the prompt no such position, or the pair's
            runs cannot be aligned

    Example:
        >>> import vlmtrace as vt
        >>> from vlmtrace.methods.edges import intervene_on_edges
        >>> model = vt.load_model("tiny-blip")
        >>> pair = vt.load_pairs("rendered_states", n=1).iloc[0]
        >>> heads = [f"text_decoder.cross_attention.{head}" for head in ("3.0", "2.7", "3.2", "2.2")]
        >>> outcome = intervene_on_edges(model, pair, [(head, "output") for head in heads])
        >>> round(outcome.patching_effect, 1)
        0.4
    """
    one_of(corruption, CORRUPTIONS, "corruption")
    frame = pd.DataFrame([dict(pair)])
    runs = run_pairs(model, frame, [encode_pair(model, frame, 0, corruption)], corruption)
    return intervene_on_edges_in(model, runs, edges)


def intervene_on_edges_in(
    model: VLM, runs: PairRuns, edges: Sequence[tuple[str, str]], as_circuit: bool = False
) -> EdgeOutcome:
    """Do the same as `intervene_on_edges`, with the runs of a pair that have been computed.

    Args:
        model: any whose edges are known
        runs: of one pair
        edges: (sender, receiver), see `intervene_on_edges`
        as_circuit: run them as a circuit: they carry what this run gives, the inputs what is clean, and every other
            edge carries what the corrupt run gives

    Raises:
        VlmtraceError: the model's edges are not known, it has no such edge, or the prompt no such position
    """
    wirings_of(model)  # refuses a model whose edges are not known, also where none is given
    readouts = {"clean": runs.clean_readout, "corrupt": runs.corrupt_readout}
    first = [int(trace.logits[0].argmax()) for trace in (runs.clean, runs.corrupt)]
    if edges or as_circuit:
        readouts["patched"], token = _patched(model, runs, edges, as_circuit)
    else:  # nothing is set: that is the corrupt run
        readouts["patched"], token = runs.corrupt_readout, first[1]
    answers = model.tokenizer.convert_ids_to_tokens([*first, token])
    return EdgeOutcome(readouts, dict(zip(readouts, answers, strict=True)))


def _patched(model: VLM, runs: PairRuns, edges: Sequence[tuple[str, str]], as_circuit: bool) -> tuple[Readout, int]:
    """What the patched run says of both options, and the first token that it answers itself."""
    known = edges_of(model)
    whole, words = _words_apart(known, edges)
    carried = _carried(model, known, whole, as_circuit)[None]
    memory = memory_for_states(default_memory(model), runs)
    if runs.whole is None:
        sides = [stacks_of(model, runs.clean, runs.corrupt, runs.inputs, runs.answer_ids)]
    else:
        sides = [stacks_of(model, side.clean, side.corrupt, side.inputs, side.ids) for side in runs.whole]
    length = sides[0][0].first + sides[0][0].layers.entering(0).shape[1]
    wrong = [position for places in words.values() for position in places if position >= length]
    if wrong:
        raise VlmtraceError(f"The prompt has no position {wrong[0]}: choose one below {length}.")
    found = [run_to_answer(stacks, known, carried, memory, words) for stacks in sides]
    readouts, tokens = zip(*found, strict=True)
    # Both sides begin alike: no token of an answer changes what stands before it.
    return readouts[0] if runs.whole is None else Readout.of_two(*readouts), int(tokens[0])


def _words_apart(
    known: Sequence[Edge], edges: Sequence[tuple[str, str]]
) -> tuple[set[tuple[str, str]], dict[Receiver, list[int]]]:
    """The edges without positions, and by receiver the only positions of the prompt that its edge carries."""
    whole: set[tuple[str, str]] = set()
    words: dict[str, list[int]] = {}
    for sender, receiver in edges:
        node, position = word_of(sender)
        whole.add((node, receiver))
        # Where the whole prompt is sent, too, its words add nothing.
        if position is not None and (node, receiver) not in edges:
            words.setdefault(receiver, []).append(position)
    return whole, {edge.receiver: words[edge.receiver.label] for edge in known if edge.receiver.label in words}


def word_of(sender: str) -> tuple[str, int | None]:
    """The sending node, and the position of the prompt that alone is sent.

    Args:
        sender: a node's name, or of one token "prompt@" and its position

    Returns:
        the node's name, and the position; None: all

    Example:
        >>> word_of("prompt@5"), word_of("text_encoder.mlp.2")
        (('prompt', 5), ('text_encoder.mlp.2', None))
    """
    node, at, position = sender.partition("@")
    # isdecimal alone takes digits of other scripts, too.
    if node != PROMPT.label or not at or not (position.isascii() and position.isdecimal() and len(position) < 6):
        return sender, None
    return node, int(position)


def sent_by(senders: pd.Series, positions: pd.Series) -> list[str]:
    """The names under which `intervene_on_edges` takes nodes, or single tokens of the prompt.

    Args:
        senders: names of nodes
        positions: of the prompt's tokens; missing where all positions are sent

    Example:
        >>> sent_by(pd.Series(["prompt", "image"]), pd.Series([5, None]))
        ['prompt@5', 'image']
    """
    both = zip(senders.astype(str), positions, strict=True)
    return [sender if pd.isna(position) else f"{sender}@{int(position)}" for sender, position in both]


def check_edges(model: VLM, known: Iterable[tuple[str, str]], wanted: Iterable[tuple[str, str]]) -> None:
    """Check that edges exist.

    Args:
        model: whose edges they are to be
        known: (sender, receiver) of all of its edges
        wanted: (sender, receiver), without positions

    Raises:
        VlmtraceError: one does not
    """
    for sender, receiver in sorted(set(wanted).difference(known)):
        raise VlmtraceError(f"{model.name} has no edge from {sender!r} to {receiver!r}: vt.edges(model) lists them.")


def _carried(model: VLM, known: Sequence[Edge], wanted: set[tuple[str, str]], as_circuit: bool) -> torch.Tensor:
    """What each edge carries: (edge,)."""
    names = [(edge.sender.label, edge.receiver.label) for edge in known]
    check_edges(model, names, wanted)
    if as_circuit:
        return torch.tensor([OF_RUN if name in wanted else OF_BASE for name in names])
    return torch.tensor(
        [
            # What nobody has chosen carries on what the chosen edges have changed; the inputs stay corrupt.
            OF_SOURCE if name in wanted else OF_BASE if edge.sender.block == INPUT else OF_RUN
            for name, edge in zip(names, known, strict=True)
        ]
    )
