"""What heads look at, scored with the masks of the rendered scenes.

The masks say where the object that the question asks about is, and where the distractor. So "this head
finds the object" is a number here: the share of its attention that falls on the object, against the share
of the image that the object covers and against what heads do on average. Attention says where a head reads;
what it does with what it reads is told by patching it (`vlmtrace.circuits`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image

from vlmtrace import stats
from vlmtrace.circuits import HEAD
from vlmtrace.corruption import run_inputs
from vlmtrace.errors import VlmtraceError, one_of
from vlmtrace.models import VLM, Inputs, Site
from vlmtrace.paths import resolve
from vlmtrace.progress import progress
from vlmtrace.tasks.schema import check_columns
from vlmtrace.tokens import token_table

MODULE = "cross_attention"
MASKS = ("clean_object_mask", "clean_distractor_mask")

#: Parts of the image; a patch that a mask covers by half counts half for it. `outlier` is a part of `elsewhere`.
REGIONS = ("object", "distractor", "elsewhere", "outlier")

#: The norm of an outlier patch lies so many standard deviations above the mean over the image's patches.
OUTLIER_SD = 3.0

#: How much denser (or thinner) than its area alone explains attention must be to name a head's function.
FACTOR = 1.5


def head_attention(model: VLM, pairs: pd.DataFrame, batch_size: int = 32) -> pd.DataFrame:
    """Where each cross-attention head of the question encoder looks in the clean image, from every token.

    Args:
        pairs: a pairs table with the column clean_object_mask, and clean_distractor_mask if scenes have one;
            pairs without an object mask are left out, with a warning
    Returns:
        one row a pair, head and query token: sample_id, block, module, layer, head, position, token,
        token_role; shares of the attention on object, distractor, elsewhere (the rest of the image) and
        class_token (the vision encoder's [CLS]), which sum to 1, and on outlier, the part of elsewhere that
        falls on outlier patches (see `outlier_patches`); object_area, distractor_area, elsewhere_area,
        outlier_area: shares of the image
    Raises:
        VlmtraceError: the model has no cross-attention or crops its images, the masks' column is missing, or
            a mask is unreadable or not of its image's size
    """
    block = model.head_block
    one_of(MODULE, block.attention_modules, f"attention of {model.name}")
    if getattr(model.processor.image_processor, "do_center_crop", False):
        raise VlmtraceError(
            f"{model.name} crops its images, so that masks do not lie over its patches: use another model."
        )
    pairs = _with_masks(pairs)
    tables: dict[int, pd.DataFrame] = {}
    for rows in progress(list(_batches(model, pairs, batch_size)), f"attention of {len(pairs)} pairs"):
        batch = pairs.iloc[rows]
        inputs = run_inputs(model, batch, "clean")
        regions = _regions(model, batch, inputs)
        weights = model.attention(inputs, block.name, MODULE).double().cpu().numpy()
        shares = np.einsum("lbhqk,bkr->blhqr", weights[..., 1:], regions)
        for i, row in enumerate(rows):
            one = {name: value[i : i + 1] for name, value in inputs.items()}
            tokens = token_table(model, pairs.iloc[row].to_dict(), block.name, one)
            areas = dict(zip([f"{region}_area" for region in REGIONS], regions[i].mean(axis=0), strict=True))
            table = _tidy(tokens, shares[i], weights[:, i, ..., 0]).assign(**areas)
            table.insert(0, "sample_id", pairs["sample_id"].iloc[row])
            table.insert(1, "block", block.name)
            table.insert(2, "module", MODULE)
            tables[row] = table
    return pd.concat([tables[row] for row in range(len(pairs))], ignore_index=True)


def has_masks(pairs: pd.DataFrame) -> bool:
    """Whether any pair tells where the object is that its question asks about; photographs seldom do."""
    return MASKS[0] in pairs and bool(pairs[MASKS[0]].notna().any())


def outlier_patches(norms: stats.Array) -> stats.Array:
    """Which patches of an image are outliers by the norm of their embedding.

    Trained vision encoders keep global information in a few background patches, whose embeddings stand out
    by their norm (Darcet et al. 2024, "Vision transformers need registers"). Here a patch is an outlier if
    the norm of its final embedding, before the last LayerNorm, exceeds the mean over the image's patches by
    `OUTLIER_SD` standard deviations; by Cantelli's inequality that is at most one patch in ten. In the
    shares of `head_attention` only what lies outside both masks counts.

    Args:
        norms: (…, patch)
    Returns:
        (…, patch), bool
    """
    norms = np.asarray(norms, dtype=float)
    spread = norms.std(axis=-1, keepdims=True)
    return (norms - norms.mean(axis=-1, keepdims=True) > OUTLIER_SD * spread) & (spread > 0)


def mask_to_grid(mask: Image.Image, grid: tuple[int, int]) -> stats.Array:
    """Share of each image patch that a mask covers: (rows, columns), by exact area averaging."""
    inside = np.asarray(mask.convert("L")) > 127
    rows, columns = (_overlap(size, cells) for size, cells in zip(inside.shape, grid, strict=True))
    return rows @ inside @ columns.T


def _overlap(size: int, cells: int) -> stats.Array:
    """Share of each of `cells` equal stretches that each of `size` pixels takes up: (cell, pixel), rows sum to 1."""
    edges = np.arange(cells + 1)[:, None] * size / cells
    pixels = np.arange(size)
    return np.clip(np.minimum(edges[1:], pixels + 1) - np.maximum(edges[:-1], pixels), 0, None) * cells / size


def head_functions(
    attention: pd.DataFrame,
    token_roles: Sequence[str] | None = ("correct", "incorrect"),
    level: float = 0.95,
    n_boot: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """What each head looks for, over pairs.

    For each head and region, share is the mean attention on it. Ratio is that share over what would fall on
    the region if the head's attention on the image were spread evenly: share / ((1 − class_token) · area), a
    ratio of means over pairs. Contrast is the share less the mean share over all heads on the same pair. A
    head's function is the first that fits of

    - object detection: the whole interval of the object's ratio lies above `FACTOR`, that of its contrast above 0
    - outlier suppression: the same holds for outliers, so attention drains onto patches without content
    - object suppression: the object's ratio lies below 1 / `FACTOR`, its contrast below 0: it looks elsewhere

    and "none" otherwise. The names follow the NOTICE paper, the rule is this project's own. To ask for a factor
    and not just for a difference keeps heads from being named for effects that are certain and small.

    Args:
        attention: from `head_attention`; a column task may have been added
        token_roles: query tokens to average over, within a pair first; None: all
    Returns:
        one row a head and region ("object", "distractor", "elsewhere", "outlier", "class_token"): block, module,
        layer, head, region, n (pairs), area, share, ci_low, ci_high, ratio, ratio_low, ratio_high, contrast,
        contrast_low, contrast_high, function (the same for all regions of a head). Ratio is missing for the
        class token, and for outliers where no image has any (its interval also where hardly any image has)
    Raises:
        VlmtraceError: a column is missing, or no token has one of the roles
    """
    check_columns(attention, ["sample_id", *HEAD, "token_role", *REGIONS, "class_token"], "attention")
    if token_roles is not None:
        known = attention["token_role"].unique()
        attention = attention[attention["token_role"].isin(token_roles)]
        if attention.empty:
            raise VlmtraceError(
                f"No token of the attention table is {' or '.join(map(repr, token_roles))}: "
                f"choose token_roles among {', '.join(known)}."
            )
    keys = [key for key in ("task", "sample_id") if key in attention]
    areas = [f"{region}_area" for region in REGIONS]
    means = attention.groupby([*keys, *HEAD], observed=True)[[*REGIONS, "class_token", *areas]].mean()
    tables = []
    for region in (*REGIONS, "class_token"):
        share = means[region].unstack(HEAD)
        area = means[f"{region}_area"].unstack(HEAD) if region in REGIONS else share * np.nan
        even = (1 - means["class_token"].unstack(HEAD)) * area
        scores = _scores(share.to_numpy(), even.to_numpy(), level, n_boot, seed)
        table = share.columns.to_frame(index=False).assign(region=region, n=len(share), area=area.mean().to_numpy())
        tables.append(table.assign(**scores))
    functions = pd.concat(tables, ignore_index=True)
    return _name_functions(functions)


def _scores(share: stats.Array, even: stats.Array, level: float, n_boot: int, seed: int) -> dict[str, stats.Array]:
    """Share, ratio and contrast of each head, with intervals, from (pair, head) shares and evenly spread shares."""
    n_heads = share.shape[1]

    def statistics(both: stats.Array) -> dict[str, stats.Array]:
        share, even = both[:, :n_heads], both[:, n_heads:]
        ratio = np.divide(share, even, out=np.full_like(share, np.nan), where=even > 0)
        return {"share": share, "ratio": ratio, "contrast": share - share.mean(axis=1, keepdims=True)}

    both = np.hstack([share, np.nan_to_num(even)])
    means = statistics(both.mean(axis=0, keepdims=True))
    resamples = statistics(stats.resampled_means(both, n_boot, seed))
    scores: dict[str, stats.Array] = {}
    for name, prefix in (("share", "ci"), ("ratio", "ratio"), ("contrast", "contrast")):
        low, high = stats.percentile_interval(resamples[name], level)
        scores |= {name: means[name][0], f"{prefix}_low": low, f"{prefix}_high": high}
    return scores


def _name_functions(functions: pd.DataFrame) -> pd.DataFrame:
    by_region = {region: part.set_index(HEAD) for region, part in functions.groupby("region")}

    def attracts(region: pd.DataFrame) -> pd.Series:
        return (region["ratio_low"] > FACTOR) & (region["contrast_low"] > 0)

    found = by_region["object"]
    repels = (found["ratio_high"] < 1 / FACTOR) & (found["contrast_high"] < 0)
    names = np.select(
        [attracts(found), attracts(by_region["outlier"].loc[found.index]), repels],
        ["object detection", "outlier suppression", "object suppression"],
        "none",
    )
    return functions.join(pd.Series(names, found.index, name="function"), on=HEAD)


# From images to shares ----------------------------------------------------------------------


def _with_masks(pairs: pd.DataFrame) -> pd.DataFrame:
    check_columns(pairs, ["sample_id", "clean_image", "clean_prompt", MASKS[0]], "pairs")
    usable = pairs[pairs[MASKS[0]].notna()].reset_index(drop=True)
    if usable.empty:
        raise VlmtraceError(
            "No pair has an object mask: fill the column clean_object_mask, or leave attention unscored."
        )
    if len(usable) < len(pairs):
        missing = len(pairs) - len(usable)
        warnings.warn(f"{missing} of {len(pairs)} pairs have no object mask and are left out.", stacklevel=3)
    return usable


def _batches(model: VLM, pairs: pd.DataFrame, batch_size: int) -> Iterator[list[int]]:
    """Rows of pairs whose prompts have equally many tokens, so that no batch is padded."""
    lengths = pairs["clean_prompt"].map(model.count_tokens)
    for _, rows in sorted(pairs.groupby(lengths.to_numpy()).indices.items()):
        for start in range(0, len(rows), batch_size):
            yield rows[start : start + batch_size].tolist()


def _regions(model: VLM, pairs: pd.DataFrame, inputs: Inputs) -> stats.Array:
    """How much of each image patch belongs to each of `REGIONS`: (pair, patch, region)."""
    grid = model.patch_grid(inputs)
    masks = np.stack([[_mask_grid(pair, column, grid) for column in MASKS] for pair in pairs.to_dict("records")])
    found, distractor = masks[:, 0], masks[:, 1]
    # Where both masks claim the same part of a patch, the object has it.
    distractor = np.minimum(distractor, 1 - found)
    elsewhere = 1 - found - distractor
    outlier = elsewhere * outlier_patches(_patch_norms(model, inputs))
    return np.stack([found, distractor, elsewhere, outlier], axis=-1)


def _patch_norms(model: VLM, inputs: Inputs) -> stats.Array:
    site = Site("vision_encoder", "residual", model.blocks["vision_encoder"].n_layers - 1)
    embeddings = model.trace(inputs, [site])[site][:, 1:]
    return torch.linalg.vector_norm(embeddings.double(), dim=-1).cpu().numpy()


def _mask_grid(pair: dict, column: str, grid: tuple[int, int]) -> stats.Array:
    """One mask of a pair on the grid of patches, flattened row by row; empty where the pair has no such mask."""
    path = pair.get(column)
    if not isinstance(path, str):
        return np.zeros(grid[0] * grid[1])
    try:
        with Image.open(resolve(path)) as mask, Image.open(resolve(pair["clean_image"])) as image:
            if mask.size != image.size:
                raise VlmtraceError(
                    f"The mask {path} of pair {pair['sample_id']!r} is {mask.width} × {mask.height} pixels and its "
                    f"image {image.width} × {image.height}: both must be of the same size."
                )
            return mask_to_grid(mask, grid).ravel()
    except (OSError, SyntaxError) as error:
        raise VlmtraceError(
            f"The mask {path} of pair {pair['sample_id']!r} cannot be read ({error}): correct {column} or empty it."
        ) from error


def _tidy(tokens: pd.DataFrame, shares: stats.Array, class_token: stats.Array) -> pd.DataFrame:
    """One row a layer, head and query, from shares (layer, head, query, region) and those of the class token."""
    layer, head, query = (index.ravel() for index in np.indices(class_token.shape))
    table = pd.DataFrame({"layer": layer, "head": head})
    for name in ("position", "token", "token_role"):
        table[name] = tokens[name].to_numpy()[query]
    table[list(REGIONS)] = shares.reshape(-1, len(REGIONS))
    return table.assign(class_token=class_token.ravel())
