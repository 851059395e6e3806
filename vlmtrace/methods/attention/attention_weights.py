"""What heads look at, scored with the masks of the rendered scenes.

The masks say where the object that the question asks about is, and where the distractor. So "this head finds the
object" is a number here: the share of its attention that falls on the object, against the share of the image that the
object covers and against what heads do on average. Attention says where a head reads; what it does with what it reads
is found by patching it.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from scipy.stats import false_discovery_control

from vlmtrace.core import stats
from vlmtrace.core.arguments import Count, NonEmpty, Probability, Seed, checked
from vlmtrace.core.caller import warn
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.progress import progress
from vlmtrace.core.schema import HEAD, MASK_LISTS, UNIT, check_columns, validate_pairs
from vlmtrace.core.types import Array
from vlmtrace.inputs.batching import clean_batches
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.inputs.image_regions import MASKS, mask_coverage
from vlmtrace.inputs.pictures import by_image, given_images
from vlmtrace.inputs.token_roles import token_table
from vlmtrace.methods.attention.attended import on_regions, pair_by_pair, tidy
from vlmtrace.models import VLM, Inputs, Site
from vlmtrace.models.vlm import inputs_of_pair

#: Parts of the image; a patch that a mask covers by half counts half for it. `outlier` is a part of `background`.
ATTENDED_REGIONS = ("object", "distractor", "background", "outlier")

#: The norm of an outlier patch lies so many standard deviations above the mean over the image's patches.
OUTLIER_SD = 3.0

#: How much denser (or thinner) than its area alone explains attention must be to name a head's function.
DENSITY_FACTOR = 1.5


@checked
def head_attention(model: VLM, pairs: pd.DataFrame, batch_size: Count = 32) -> pd.DataFrame:
    """Measure where each head that can look at the clean image does look, from every token of the prompt.

    These are the heads of `VLM.image_module`: the cross-attention of a question encoder, the self-attention of a
    language model whose sequence holds the image's tokens.

    Args:
        model: the model to run, clean
        pairs: a pairs table with the column clean_object_mask, and clean_distractor_mask if scenes have one; pairs
            without an object mask are left out, with a warning
        batch_size: at most so many pairs in one forward pass; results do not depend on it

    Returns:
        one row per pair, head and query token: sample_id, block, module, layer, head, position, token, token_role;
        shares of the attention (0 to 1) on object, distractor, background (the rest of the image) and off_image (the
        vision encoder's [CLS], or the text), which sum to 1, and on outlier, the part of background that falls on
        outlier patches (see `outlier_patches`); object_area, distractor_area, background_area, outlier_area: shares of
        the image's tokens (0 to 1); unit, if pairs have it

    Raises:
        VlmtraceError: the masks' column is missing, the table breaks the contract, a mask is unreadable or not of its
            image's size, or no image token stands for a place in the image
    """
    block, module = model.head_block, model.image_module
    pairs = _with_masks(validate_pairs(pairs))
    tables: dict[int, pd.DataFrame] = {}
    images = [given_images(pair) for pair in pairs.to_dict("records")]
    batches = clean_batches(model, pairs, batch_size)
    for rows in progress(batches, f"attention of {len(pairs)} pairs"):
        batch = pairs.iloc[rows]
        inputs = run_inputs(model, batch, "clean")
        attended = pair_by_pair(model, inputs, [images[row] for row in rows])
        norms = _image_norms(model, inputs)  # (B, I)
        for i, (row, weights) in enumerate(zip(rows, attended, strict=True)):
            pair, one = pairs.iloc[row].to_dict(), inputs_of_pair(inputs, i, len(rows))
            tokens = token_table(model, pair, block.name, one)
            boxes = model.image_cells(images[row], one, model.image_block)
            placed = ~np.isnan(boxes).any(axis=1)
            if not placed.any():
                raise VlmtraceError(f"No image token of {model.name} has a place in the image: leave it unscored.")
            numbers = model.image_numbers(images[row], one, model.image_block)
            regions = _regions(pair, boxes[placed], norms[i][placed], numbers[placed])
            at_image = model.image_positions(one, model.image_block, images[row])
            shares, off_image = on_regions(weights, np.flatnonzero(at_image)[placed], regions)
            areas = dict(zip([f"{region}_area" for region in ATTENDED_REGIONS], regions.mean(axis=0), strict=True))
            table = tidy(tokens, shares, off_image, ATTENDED_REGIONS).assign(**areas)
            table.insert(0, "sample_id", pairs["sample_id"].iloc[row])
            if UNIT in pairs:
                table[UNIT] = pairs[UNIT].iloc[row]
            table.insert(1, "block", block.name)
            table.insert(2, "module", module)
            tables[row] = table
    return pd.concat([tables[row] for row in range(len(pairs))], ignore_index=True)


@checked
def has_masks(pairs: pd.DataFrame) -> bool:
    """Say whether any pair has a mask of the object that its question asks about; photographs seldom do.

    Args:
        pairs: a pairs table

    Returns:
        whether `head_attention` can score these pairs
    """
    return MASKS["object"] in pairs and bool(pairs[MASKS["object"]].notna().any())


def outlier_patches(norms: Array) -> Array:
    """Say which patches of an image are outliers by the norm of their embedding.

    Trained vision encoders keep global information in a few background patches, whose embeddings stand out by their
    norm (Darcet et al. 2024, "Vision Transformers Need Registers", https://arxiv.org/abs/2309.16588). Here a patch is
    an outlier if the norm of its final embedding, before the last LayerNorm, exceeds the mean over the image's patches
    by `OUTLIER_SD` standard deviations; by Cantelli's inequality that is at most one patch in ten. In the shares of
    `head_attention` only what lies outside both masks counts.

    Args:
        norms: (…, patch)

    Returns:
        (…, patch), bool

    Example:
        >>> import numpy as np
        >>> from vlmtrace.methods.attention.attention_weights import outlier_patches
        >>> outlier_patches(np.r_[np.ones(15), 9.0]).nonzero()[0].tolist()
        [15]
    """
    norms = np.asarray(norms, dtype=float)
    spread = norms.std(axis=-1, keepdims=True)
    return (norms - norms.mean(axis=-1, keepdims=True) > OUTLIER_SD * spread) & (spread > 0)


@checked
def head_functions(
    attention: pd.DataFrame,
    token_roles: NonEmpty[str] | None = ("correct", "incorrect"),
    level: Probability = 0.95,
    n_boot: Count = 10_000,
    seed: Seed = 0,
    alpha: Probability = 0.05,
) -> pd.DataFrame:
    """Name what each head looks for, over pairs.

    For each head and region, share is the mean attention on it. Ratio is that share over what would fall on the region
    if the head's attention on the image were spread evenly: share / ((1 − off_image) · area), a ratio of means over
    pairs. Contrast is the share less the mean share over all heads on the same pair. Pairs of one unit (that share an
    image or mirror each other) are averaged first. A head's function is the first that fits of

    - object detection: the ratio of the object is above `DENSITY_FACTOR`, its contrast above 0
    - outlier suppression: the same holds for outliers, so that attention goes to patches without content
    - object suppression: the object's ratio is below 1 / `DENSITY_FACTOR`, its contrast below 0

    and "none" otherwise. Both conditions are tested (`core.stats.mean_test`, two-sided), and the larger p-value counts,
    since both must hold. The p-values of three functions of each head are corrected together, at a false discovery rate
    of `alpha` (Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x). The names follow the
    NOTICE paper (Golovanevsky et al. 2025, https://arxiv.org/abs/2406.16320), the rule is this package's own. To ask
    for a factor and not just for a difference keeps heads from being named for effects that are certain and small.

    Args:
        attention: from `head_attention`; columns task and unit may have been added
        token_roles: query tokens to average over, within a pair first; None: all
        level: of the intervals, 0 to 1
        n_boot: bootstrap resamples of units
        seed: of the bootstrap
        alpha: the false discovery rate, 0 to 1

    Returns:
        one row per head and region ("object", "distractor", "background", "outlier", "off_image"): block, module,
        layer, head, region, n (pairs), n_units, area, share, ci_low, ci_high, ratio, ratio_low, ratio_high, contrast,
        contrast_low, contrast_high, p_value, q_value (corrected; both of the function, for "none" those of the function
        that came closest), function (these three the same for all regions of a head). Ratio is missing for off_image,
        and for outliers where no image has any (its interval also where hardly any image has)

    Raises:
        VlmtraceError: a column is missing, or no token has one of the roles
    """
    check_columns(attention, ["sample_id", *HEAD, "token_role", *ATTENDED_REGIONS, "off_image"], "attention")
    if token_roles is not None:
        known = attention["token_role"].unique()
        attention = attention[attention["token_role"].isin(token_roles)]
        if attention.empty:
            raise VlmtraceError(
                f"No token of the attention table is {' or '.join(map(repr, token_roles))}: "
                f"choose token_roles among {', '.join(known)}."
            )
    means, n_pairs = _unit_attention(attention)
    off_image = means["off_image"].unstack(HEAD)
    heads = off_image.columns.to_frame(index=False)
    shares, even = {}, {}
    tables = []
    for region in (*ATTENDED_REGIONS, "off_image"):
        share = means[region].unstack(HEAD)
        area = means[f"{region}_area"].unstack(HEAD) if region in ATTENDED_REGIONS else share * np.nan
        shares[region], even[region] = share.to_numpy(), np.nan_to_num(((1 - off_image) * area).to_numpy())
        table = heads.assign(region=region, n=n_pairs, n_units=len(share), area=area.mean().to_numpy())
        tables.append(table.assign(**_scores(shares[region], even[region], level, n_boot, seed)))
    functions = pd.concat(tables, ignore_index=True)
    return functions.merge(heads.assign(**_named(shares, even, alpha, seed)), on=HEAD)


def _unit_attention(attention: pd.DataFrame) -> tuple[pd.DataFrame, int]:
    """Mean attention and areas by unit and head, pairs averaged first, and the number of pairs."""
    unit = [key for key in ("task", UNIT if UNIT in attention else "sample_id") if key in attention]
    pair = list(dict.fromkeys([*unit, "sample_id"]))
    values = [*ATTENDED_REGIONS, "off_image", *(f"{region}_area" for region in ATTENDED_REGIONS)]
    by_pair = attention.groupby([*pair, *HEAD], observed=True)[values].mean()
    return by_pair.groupby(level=[*unit, *HEAD], observed=True).mean(), len(attention[pair].drop_duplicates())


def _scores(share: Array, even: Array, level: float, n_boot: int, seed: int) -> dict[str, Array]:
    """Share, ratio and contrast of each head, with intervals, from (unit, head) shares and evenly spread shares."""
    contrast = _contrast(share)
    expected = even.mean(0)
    ratio = np.divide(share.mean(0), expected, out=np.full_like(expected, np.nan), where=expected > 0)
    scores: dict[str, Array] = {}
    for name, prefix, value, (low, high) in (
        ("share", "ci", share.mean(0), stats.mean_interval(share, level, n_boot, seed)),
        ("ratio", "ratio", ratio, stats.ratio_interval(share, even, level, n_boot, seed)),
        ("contrast", "contrast", contrast.mean(0), stats.mean_interval(contrast, level, n_boot, seed)),
    ):
        scores |= {name: value, f"{prefix}_low": low, f"{prefix}_high": high}
    # Shares lie between 0 and 1, which a symmetric interval does not know.
    return scores | {
        "ci_low": np.maximum(scores["ci_low"], 0),
        "ci_high": np.minimum(scores["ci_high"], 1),
        "ratio_low": np.maximum(scores["ratio_low"], 0),
    }


def _contrast(share: Array) -> Array:
    """Shares less their mean over heads, (unit, head); what rounding leaves where all heads are alike is 0."""
    contrast = share - share.mean(axis=1, keepdims=True)
    return np.where(np.abs(contrast) < 1e-12, 0.0, contrast)


def _named(shares: dict[str, Array], even: dict[str, Array], alpha: float, seed: int) -> dict[str, Array]:
    """p_value, q_value and function of each head, from (unit, head) shares by region."""
    rules = {
        "object detection": ("object", DENSITY_FACTOR, 1),
        "outlier suppression": ("outlier", DENSITY_FACTOR, 1),
        "object suppression": ("object", 1 / DENSITY_FACTOR, -1),
    }
    n_heads = shares["object"].shape[1]
    # So many resamples that a single head can pass the correction.
    n_resamples = max(10_000, int(np.ceil(2 * len(rules) * n_heads / alpha)))
    found = np.zeros((len(rules), n_heads))
    for row, (region, factor, sign) in enumerate(rules.values()):
        for values in (shares[region] - factor * even[region], _contrast(shares[region])):
            fits = sign * values.mean(0) > 0
            p_value = np.where(fits, stats.mean_test(values, n_resamples, seed), 1.0)
            found[row] = np.maximum(found[row], p_value)  # both must hold
    corrected = false_discovery_control(found.ravel()).reshape(found.shape)
    holds = corrected < alpha
    first = np.where(holds.any(0), holds.argmax(0), found.argmin(0))
    heads = np.arange(n_heads)
    return {
        "p_value": found[first, heads],
        "q_value": corrected[first, heads],
        "function": np.where(holds.any(0), np.array(list(rules))[first], "none"),
    }


def _with_masks(pairs: pd.DataFrame) -> pd.DataFrame:
    check_columns(pairs, ["sample_id", "clean_image", "clean_prompt", MASKS["object"]], "pairs")
    masked = pairs[MASKS["object"]].notna()
    if MASK_LISTS[MASKS["object"]] in pairs:
        masked |= pairs[MASK_LISTS[MASKS["object"]]].notna()
    usable = pairs[masked].reset_index(drop=True)
    if usable.empty:
        raise VlmtraceError(
            "No pair has an object mask: fill the column clean_object_mask, or leave attention unscored."
        )
    if len(usable) < len(pairs):
        missing = len(pairs) - len(usable)
        warn(f"{missing} of {len(pairs)} pairs have no object mask and are left out.")
    return usable


def _regions(pair: dict, boxes: Array, norms: Array, numbers: Array) -> Array:
    """How much of each image position belongs to each of `ATTENDED_REGIONS`: (position, region).

    Of several images each position is compared with the masks of its own, whose number is given.
    """
    covered = np.zeros((len(MASKS), len(boxes)))
    for i, one in enumerate(by_image(pair)):
        for row, column in enumerate(MASKS.values()):
            covered[row, numbers == i] = mask_coverage(one, column, boxes[numbers == i])
    found, distractor = covered
    # Where both masks claim the same part of a patch, the object has it.
    distractor = np.minimum(distractor, 1 - found)
    background = 1 - found - distractor
    return np.stack([found, distractor, background, background * outlier_patches(norms)], axis=-1)


def _image_norms(model: VLM, inputs: Inputs) -> Array:
    """(pair, image position): norms before the last LayerNorm, or of the tokens that enter the language model."""
    if model.image_block == "vision_encoder":
        site = Site("vision_encoder", "residual", model.blocks["vision_encoder"].n_layers - 1)
        embeddings = model.trace(inputs, [site])[site]
    else:
        with torch.no_grad():
            embeddings = model.image_embeddings(inputs)
    return torch.linalg.vector_norm(embeddings.double(), dim=-1).cpu().numpy()
