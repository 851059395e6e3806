"""Batches of pairs of equal shape: nothing is ever padded, so that no result depends on what shares its batch."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pandas as pd

from vlmtrace.inputs.batch_runs import PairRuns, runs_of_one
from vlmtrace.inputs.corruption import prefix_of
from vlmtrace.inputs.pair_runs import encode_pair, run_alike
from vlmtrace.inputs.pictures import given_images
from vlmtrace.inputs.token_roles import shows_image, token_table
from vlmtrace.models import VLM
from vlmtrace.models.several_images import Images, sizes_of
from vlmtrace.models.sweep.decoder_only import rows_worth_a_call
from vlmtrace.models.sweep.layer_masks import BLOCK

#: Pairs that share a sweep at most: enough to fill the processor with a small model, few enough to stay in its cache.
PAIRS_PER_SWEEP = 8

#: Pairs whose inputs are in memory while those of equal shape are sought among them.
PAIRS_PREPARED = 64

#: "all", "text" (all that hold no image token), token roles, or indices.
Positions = str | Sequence[str] | Sequence[int]

#: By block, what is patched at every position: (module, layer, head; None for the whole activation).
Plan = dict[str, list[tuple[str, int, int | None]]]


def equal_length_batches(
    model: VLM, prompts: Iterable[str], batch_size: int, *images: Iterable[Images]
) -> list[list[int]]:
    """Batches of prompts of equally many tokens.

    Args:
        model: counts the tokens
        prompts: one per row
        batch_size: rows per batch at most
        images: for each run its images, one (or a list of several) per prompt; those of a batch are equally many, and
            of equal size if the model needs that

    Returns:
        row numbers, batch by batch; each row is in one batch
    """
    columns = images if model.image_size_matters else ()
    sizes = zip(*([tuple(sizes_of(image)) for image in column] for column in columns), strict=True)
    rows: dict[tuple, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault((model.count_tokens(prompt), next(sizes, ())), []).append(row)
    return [same[start : start + batch_size] for same in rows.values() for start in range(0, len(same), batch_size)]


def clean_batches(model: VLM, pairs: pd.DataFrame, batch_size: int) -> list[list[int]]:
    """Batches of pairs whose clean runs have one length: with the beginnings of their answers, where these are given.

    Args:
        model: counts the tokens
        pairs: clean_prompt, clean_image (or clean_images) and answer_prefix are read
        batch_size: pairs per batch at most

    Returns:
        row numbers, batch by batch; each row is in one batch
    """
    rows: dict[str, list[int]] = {}
    images = []
    for row, pair in enumerate(pairs.to_dict("records")):
        rows.setdefault(prefix_of(pair), []).append(row)
        images.append(given_images(pair))
    prompts = pairs["clean_prompt"].tolist()
    return [
        [same[i] for i in batch]
        for same in rows.values()
        for batch in equal_length_batches(
            model, [prompts[row] for row in same], batch_size, [images[row] for row in same]
        )
    ]


def pairs_per_sweep(model: VLM) -> int:
    """How many pairs share a sweep: with large layers few fill the processor, and the runs of more take room.

    Args:
        model: runs them

    Returns:
        1 to `PAIRS_PER_SWEEP`
    """
    if BLOCK not in model.blocks:
        return PAIRS_PER_SWEEP
    return min(PAIRS_PER_SWEEP, max(1, int(rows_worth_a_call(model))))


def batches_of_pairs(
    model: VLM,
    pairs: pd.DataFrame,
    corruption: str,
    plan: Plan,
    positions: Positions,
    contrast: str = "answer",
) -> Iterator[tuple[pd.DataFrame, PairRuns, dict[str, pd.DataFrame]]]:
    """Batches of pairs whose inputs have equal shapes and whose patched positions agree, with their runs.

    Args:
        model: runs them
        pairs: a pairs table
        corruption: "image" or "text"
        plan: its blocks are those whose positions are chosen
        positions: which positions are patched
        contrast: "answer" or "options": what the correct answer is compared with, see `vlmtrace.inputs.answers`

    Yields:
        the batch's pairs; their clean and corrupt runs; and by block the chosen rows of their token tables (position,
        token, token_role), one pair after the other

    Raises:
        VlmtraceError: clean and corrupt inputs of a pair differ in shape
    """
    n_together = pairs_per_sweep(model)
    for first in range(0, len(pairs), PAIRS_PREPARED):
        same_shape: dict[tuple, list[int]] = {}
        encoded, tables = {}, {}
        for row in range(first, min(first + PAIRS_PREPARED, len(pairs))):
            encoded[row] = encode_pair(model, pairs, row, corruption)
            clean = encoded[row][0]
            pair = pairs.iloc[row].to_dict()
            tables[row] = {
                block: choose_positions(token_table(model, pair, block, clean), positions, block) for block in plan
            }
            shapes = tuple(tuple(value.shape) for value in clean.values())
            chosen = tuple(tuple(table["position"]) for table in tables[row].values())
            same_shape.setdefault((shapes, chosen), []).append(row)
        for alike in same_shape.values():
            for start in range(0, len(alike), n_together):
                rows = alike[start : start + n_together]
                together = [encoded[row] for row in rows]
                for part, runs in run_alike(model, pairs.iloc[rows], together, corruption, contrast):
                    mine = [rows[i] for i in part]
                    roles = {block: pd.concat([tables[row][block] for row in mine]) for block in plan}
                    yield pairs.iloc[mine], runs, roles


def one_by_one(
    model: VLM, pairs: pd.DataFrame, corruption: str, contrast: str = "answer"
) -> Iterator[tuple[int, PairRuns]]:
    """The runs of each pair by itself, made in batches of equal shape where the model allows.

    Args:
        model: runs them
        pairs: a pairs table
        corruption: "image" or "text"
        contrast: "answer" or "options"

    Yields:
        the pair's row number and its runs, of batch 1; pairs of equal shape one after the other

    Raises:
        VlmtraceError: clean and corrupt inputs of a pair differ in shape
    """
    # How a language model calls its layers (`Trace.calls`) belongs to a whole batch and is not taken apart.
    size = 1 if model.head_block.name == model.answer_block else PAIRS_PER_SWEEP
    for first in range(0, len(pairs), PAIRS_PREPARED):
        encoded = {
            row: encode_pair(model, pairs, row, corruption)
            for row in range(first, min(first + PAIRS_PREPARED, len(pairs)))
        }
        same_shape: dict[tuple, list[int]] = {}
        for row, (clean, _) in encoded.items():
            same_shape.setdefault(tuple(tuple(value.shape) for value in clean.values()), []).append(row)
        for alike in same_shape.values():
            for start in range(0, len(alike), size):
                rows = alike[start : start + size]
                together = [encoded[row] for row in rows]
                for part, runs in run_alike(model, pairs.iloc[rows], together, corruption, contrast):
                    for index, i in enumerate(part):
                        yield rows[i], runs if len(part) == 1 else runs_of_one(runs, index)


def choose_positions(table: pd.DataFrame, positions: Positions, block: str) -> pd.DataFrame:
    """The rows of a token table that are asked for.

    Args:
        table: with position and token_role
        positions: "all", "text", token roles or indices
        block: whose tokens these are; no position of a vision encoder is text
    """
    if isinstance(positions, str) and positions == "all":
        return table
    if isinstance(positions, str) and positions == "text":
        return table[~shows_image(table["token_role"]) & (block != "vision_encoder")]
    wanted = [positions] if isinstance(positions, str) else list(positions)
    if not all(isinstance(name, str) for name in wanted):
        return table[table["position"].isin(wanted)]
    chosen = table["token_role"].isin(wanted)
    # "image" means the tokens of all images, where several have roles of their own.
    return table[chosen | shows_image(table["token_role"])] if "image" in wanted else table[chosen]
