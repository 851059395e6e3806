"""Causal tracing: one image, one open question, noise in the place of a second image.

After Meng et al. 2022 (https://arxiv.org/abs/2202.05262) and, for BLIP, Palit et al. 2023
(https://arxiv.org/abs/2308.14179). Three runs of the model on its own clean answer, token by token:

    clean      p(answer | image)
    corrupt    p(answer | image embeddings + noise)            see `vlmtrace.methods.causal_tracing.noise`
    restored   the corrupt run with one state restored to clean

    indirect effect = p(answer | restored) − p(answer | corrupt)

Noise is drawn several times. Every site is restored under the same draws that the corrupt run had, so the difference is
taken draw by draw and the noise itself drops out of it. The sweep is that of activation patching, with draws in the
place of pairs.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
import torch
from torch import Tensor

from vlmtrace.core.arguments import Count, NonEmpty, NotNegative, Positive, Seed, checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.core.progress import progress
from vlmtrace.core.schema import UNIT, validate_questions
from vlmtrace.core.stats import t_interval
from vlmtrace.inputs.answers import Answers, contrast_names, first_ids
from vlmtrace.inputs.batching import Positions
from vlmtrace.inputs.encodable import encode_questions
from vlmtrace.inputs.pair_runs import PairRuns
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.methods.causal_tracing.noise import Noise, noise_scale, refuse_images_twice
from vlmtrace.methods.patching.run_sweep import memory_bytes, sweep_patches
from vlmtrace.models import VLM, Inputs, Patches, Readout, Site, Trace
from vlmtrace.models.diagnosis import named_rows
from vlmtrace.models.vlm import repeat_inputs

#: Share of the layers that a window takes: three of twelve, as published for BLIP.
WINDOW_SHARE = 0.25

#: Below this gap between clean and corrupt, a share of it would be a share of nothing.
MIN_GAP = 0.01

#: What can be restored in several layers at once; restoring a residual stream twice is restoring it the second time.
WINDOWED = ("mlp", "self_attention", "cross_attention")


@checked
def causal_trace(
    model: VLM,
    questions: pd.DataFrame,
    level: NotNegative = 3.0,
    draws: Count = 10,
    seed: Seed = 0,
    noise: str = "additive",
    modules: NonEmpty[str] | None = None,
    window: Count | None = None,
    blocks: NonEmpty[str] | None = None,
    positions: Positions = "text",
    scale: NotNegative | None = None,
    paired: bool = True,
    memory_gb: Positive | None = None,
) -> pd.DataFrame:
    """Restore one state at a time in runs whose image is hidden by noise: layer × position × module.

    Causal tracing (Meng et al. 2022, https://arxiv.org/abs/2202.05262; for BLIP, Palit et al. 2023,
    https://arxiv.org/abs/2308.14179). The indirect effect of a site is p(answer | restored) − p(answer | corrupt), for
    every token of the model's own clean answer, averaged over draws of noise.

    Args:
        model: the model that is traced
        questions: a questions table: sample_id, category, image, prompt; optional word columns give token roles
        level: standard deviation of the noise, in units of `scale` (multiplicative: of the factor)
        draws: of noise, for each question
        seed: of the noise; the same seed and sample_id give the same draws
        noise: "additive", or "multiplicative" as in the published code for BLIP
        modules: None: all. residual is restored in one layer, the others in a window of layers
        window: how many layers around each; None: a quarter of them, as three of BLIP's twelve
        blocks: None: all that read text
        positions: "text" (all but the image's tokens), "all", token roles, or indices
        scale: None: the standard deviation of these questions' image embeddings (see `noise_scale`)
        paired: False draws noise anew for each site, as the published code does: effects then hold the difference of
            two draws, which only their number averages out
        memory_gb: gigabytes for the runs' activations and the restored states; None: a share of what is free
    Returns:
        one row per question, step (token of the answer, from 0), site and position: sample_id, category, corruption
        ("noise"), block, module, layer (the middle of the window), window (its layers), position, token, token_role,
        step, answer_token, p_clean, p_corrupt, p_answer (restored), indirect_effect, ci_low, ci_high (95 % t-interval
        over draws), normalized_effect (indirect_effect as a share of p_clean − p_corrupt; missing where that gap is
        below 0.01), still_answers (share of corrupt draws with the clean answer on top)

    Raises:
        VlmtraceError: an unknown name, a broken table, or a model whose later layers receive image features again
    Warns:
        UserWarning: the corrupt run still gives the answer, so that there is little to restore

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> question = vt.load_questions("rendered_open", n=1)
        >>> effects = vt.causal_trace(model, question, draws=2, modules=["residual"], blocks=["text_decoder"])
        >>> print(effects[["layer", "token", "answer_token", "indirect_effect"]].round(2).to_string(index=False))
         layer token answer_token  indirect_effect
             0 [DEC]          red             0.00
             1 [DEC]          red             0.02
             2 [DEC]          red             0.93
             3 [DEC]          red             1.00
    """
    refuse_images_twice(model)
    questions = validate_questions(questions)
    sites = _sites(model, blocks, modules, window)
    scale = noise_scale(model, questions) if scale is None else scale
    drawn = Noise(scale, level, draws, seed, noise)
    memory = memory_bytes(model, memory_gb)
    tables: list[pd.DataFrame] = []
    for question in progress(questions.to_dict("records"), f"causal tracing of {len(questions)} questions"):
        for step in _steps(model, question, drawn):
            for block, chosen in sites.items():
                tokens = _chosen(step.tokens(block), positions)
                if len(tokens):
                    tables.append(_trace(step, drawn, block, chosen, tokens, paired, memory))
    if not tables:
        raise VlmtraceError(f"No position matches {positions!r}: choose 'text', 'all', token roles, or indices.")
    table = pd.concat(tables, ignore_index=True)
    _warn_of_answers_left(table, level)
    return table


def _sites(
    model: VLM, blocks: Sequence[str] | None, modules: Sequence[str] | None, window: int | None
) -> dict[str, list[tuple[str, int, range]]]:
    """By block: (module, layer, the layers around it that are restored)."""
    reading = [name for name in model.blocks if name != "vision_encoder"]
    chosen = reading if blocks is None else [one_of(name, reading, "block that reads text") for name in blocks]
    known = list(dict.fromkeys(module for name in chosen for module in model.blocks[name].modules))
    wanted = known if modules is None else [one_of(module, known, "module") for module in modules]
    found = {}
    for name in chosen:
        block = model.blocks[name]
        size = max(1, round(WINDOW_SHARE * block.n_layers)) if window is None else window
        if not 1 <= size <= block.n_layers:
            raise VlmtraceError(f"window={size} is not a number of layers of {name}: choose 1 to {block.n_layers}.")
        found[name] = [
            (module, layer, _around(layer, size if module in WINDOWED else 1, block.layers_with(module)))
            for module in block.modules
            if module in wanted
            for layer in block.layers_with(module)
        ]
    return found


def _around(layer: int, size: int, known: list[int]) -> range:
    """Windows at the ends are cut short, so that each is centred on its layer.

    Args:
        layer: in the middle
        size: layers of a window
        known: the layers that have the module: a window begins and ends with one of them
    """
    first = layer - (size - 1) // 2
    inside = [one for one in known if first <= one < first + size]
    return range(inside[0], inside[-1] + 1)


# One step of an answer ------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """The question as it stands when a token of its answer is due.

    Attributes:
        inputs: of the question, the answer so far included (batch 1)
        start: of the question alone
        image: its clean embeddings; z: the unit noise that all sites share
        token: the id that is due
    """

    model: VLM
    question: dict[str, Any]
    index: int
    start: Inputs
    inputs: Inputs
    image: Tensor
    z: Tensor
    token: int

    def tokens(self, block: str) -> pd.DataFrame:
        """What stands at each position of a block: position, token, token_role, is_image.

        The role "last" is that of the position that is read out; the answer's tokens before it have the role "answer".
        """
        asked = {**self.question, "clean_prompt": self.question["prompt"], "correct_answer": None}
        grows = block == self.model.answer_block
        inputs = self.start if grows and block in self.model.entry_blocks else self.inputs
        table = token_table(self.model, asked, block, inputs)
        table["is_image"] = self.model.image_positions(inputs, block)
        if grows and inputs is self.start and self.index:
            ids = self.inputs["input_ids"][0, len(table) :].tolist()
            table.loc[table["token_role"] == "last", "token_role"] = "template"
            answer = pd.DataFrame(
                {
                    "position": range(len(table), len(table) + len(ids)),
                    "token": self.model.tokenizer.convert_ids_to_tokens(ids),
                    "token_role": ["answer"] * (len(ids) - 1) + ["last"],
                    "is_image": False,
                }
            )
            table = pd.concat([table, answer], ignore_index=True)
        return table


@torch.no_grad()
def _steps(model: VLM, question: dict[str, Any], noise: Noise) -> Iterator[_Step]:
    inputs = encode_questions(model, question)
    image = model.image_embeddings(inputs)
    with named_rows(model, inputs, [f"question {question['sample_id']!r}"]):
        answer = model.answer_tokens(inputs, image=image)
    if not answer:
        raise VlmtraceError(f"{model.name} gives no answer to {question['sample_id']!r}: leave the question out.")
    z = noise.unit(question["sample_id"], image)
    for index, token in enumerate(answer):
        yield _Step(model, question, index, inputs, model.extend(inputs, answer[:index]), image, z, token)


def _chosen(tokens: pd.DataFrame, positions: Positions) -> pd.DataFrame:
    if isinstance(positions, str) and positions in ("all", "text"):
        return tokens if positions == "all" else tokens[~tokens["is_image"]]
    wanted = [positions] if isinstance(positions, str) else list(positions)
    column = "token_role" if all(isinstance(name, str) for name in wanted) else "position"
    return tokens[tokens[column].isin(wanted)]


def _trace(
    step: _Step,
    noise: Noise,
    block: str,
    sites: Sequence[tuple[str, int, range]],
    tokens: pd.DataFrame,
    paired: bool,
    memory: int,
) -> pd.DataFrame:
    model, question = step.model, step.question
    needed = [site for site in model.sites() if site.block != "vision_encoder"]
    clean = model.trace(step.inputs, needed, image=step.image)
    places = tokens["position"].to_numpy()
    # As many draws at a time as half of the memory can keep the runs of.
    at_once = max(1, int(memory / 2 / clean.nbytes))
    corrupt, restored, on_top = [], [], []
    for start in range(0, noise.draws, at_once):
        z = step.z[start : start + at_once]
        runs = _runs(step, clean, noise.disturb(step.image, z), needed)
        patches = _patches(block, sites, places, len(z), model.device)
        corrupt.append(runs.corrupt_readout.p_correct)
        on_top.append(runs.corrupt.logits.argmax(-1) == step.token)
        if paired:
            restored.append(sweep_patches(model, runs, patches, memory).p_correct)
        else:
            restored.append(_restored_apart(step, clean, noise, needed, patches, slice(start, start + at_once), memory))
    p_corrupt, p_restored = torch.cat(corrupt).double().cpu().numpy(), torch.cat(restored).double().cpu().numpy()
    effect = p_restored.mean(0) - p_corrupt.mean()
    low, high = t_interval(p_restored - p_corrupt[:, None]) if paired else _welch(p_restored, p_corrupt)
    p_clean = float(clean.logits.softmax(-1)[0, step.token])
    gap = p_clean - p_corrupt.mean()
    repeats = len(places)
    return pd.DataFrame(
        {
            "sample_id": question["sample_id"],
            "category": question["category"],
            **({UNIT: question[UNIT]} if UNIT in question else {}),
            "corruption": "noise",
            "block": block,
            "module": [module for module, _, _ in sites for _ in range(repeats)],
            "layer": [layer for _, layer, _ in sites for _ in range(repeats)],
            "window": [len(window) for _, _, window in sites for _ in range(repeats)],
            **{column: np.tile(tokens[column], len(sites)) for column in ("position", "token", "token_role")},
            "step": step.index,
            "answer_token": model.tokenizer.convert_ids_to_tokens(step.token),
            "p_clean": p_clean,
            "p_corrupt": p_corrupt.mean(),
            "p_answer": p_restored.mean(0),
            "indirect_effect": effect,
            "ci_low": low,
            "ci_high": high,
            "normalized_effect": effect / gap if abs(gap) >= MIN_GAP else np.nan,
            "still_answers": float(torch.cat(on_top).double().mean()),
        }
    )


@torch.no_grad()
def _runs(step: _Step, clean: Trace, corrupt_image: Tensor, sites: Sequence[Site]) -> PairRuns:
    """Clean and corrupt runs of one question, the draws of noise in the place of pairs."""
    n = len(corrupt_image)
    inputs = repeat_inputs(step.inputs, n)
    corrupt = step.model.trace(inputs, sites, image=corrupt_image)
    expanded = Trace(
        clean.logits.expand(n, -1),
        {site: value.expand(n, -1, -1) for site, value in clean.activations.items()},
        {block: value.expand(n, -1, -1) for block, value in clean.layer_inputs.items()},
    )
    # There is no incorrect answer: the answer's own token takes its place.
    answers = [Answers((step.token,), (step.token,))] * n
    ids = first_ids(answers, step.model.device)
    readouts = Readout.of(expanded.logits, ids), Readout.of(corrupt.logits, ids)
    return PairRuns(inputs, inputs, expanded, corrupt, answers, contrast_names(step.model, answers), *readouts)


def _patches(
    block: str, sites: Sequence[tuple[str, int, range]], places: np.ndarray, n: int, device: torch.device
) -> Patches:
    rows = [(module, window) for module, _, window in sites for _ in places]
    positions = torch.as_tensor(np.tile(places, len(sites)), device=device).expand(n, -1)
    windows = [len(window) for _, window in rows]
    return Patches(
        block,
        [module for module, _ in rows],
        [window.start for _, window in rows],
        [None] * len(rows),
        positions,
        windows=windows if max(windows) > 1 else None,
    )


def _restored_apart(
    step: _Step,
    clean: Trace,
    noise: Noise,
    needed: Sequence[Site],
    patches: Patches,
    draws: slice,
    memory: int,
) -> Tensor:
    """p(answer) of the restored runs (draw, patch), with noise of its own for every patch."""
    found = []
    # The same patch of another block or step has other draws, too.
    name = f"{step.question['sample_id']} {patches.block} {step.index}"
    for i in range(len(patches)):
        z = noise.unit(name, step.image, site=i)[draws]
        runs = _runs(step, clean, noise.disturb(step.image, z), needed)
        found.append(sweep_patches(step.model, runs, patches.subset([i]), memory).p_correct)
    return torch.cat(found, dim=1)


def _welch(restored: np.ndarray, corrupt: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Welch's 95 % interval of the difference of two means: (draw, site) and (draw,) -> (site,) each."""
    with warnings.catch_warnings():
        # A site that holds the whole answer gives the same probability under every draw.
        warnings.simplefilter("ignore", RuntimeWarning)
        found = scipy.stats.ttest_ind(restored, corrupt[:, None], equal_var=False).confidence_interval(0.95)
    return found.low, found.high


def _warn_of_answers_left(table: pd.DataFrame, level: float) -> None:
    steps = table.drop_duplicates(["sample_id", "step"])
    left = steps["still_answers"] > 0.5
    if left.any():
        warn(
            f"Under noise of level {level:g} the corrupt run still gives the answer in most draws at {left.sum()} of "
            f"{len(steps)} steps: there is little to restore. Choose a higher level (see noise_curve), or leave those "
            "questions out."
        )
