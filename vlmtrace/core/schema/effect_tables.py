"""The contract of effects and of what follows from them: notebooks 04 to 06."""

from __future__ import annotations

from vlmtrace.core.schema.columns import Column, Table
from vlmtrace.core.schema.pair_tables import UNIT

SAMPLE = Column("sample_id", "text", "name of the pair, unique in the task")
TASK = Column("task", "text", "the data set")
CORRUPTION = Column("corruption", "text", "image: the corrupt image; text: the corrupt prompt",
                    values=("image", "text"))  # fmt: skip
BLOCK = Column("block", "text", "stack of layers: vision_encoder, text_encoder, text_decoder or language_model",
               values=("vision_encoder", "text_encoder", "text_decoder", "language_model"))  # fmt: skip
MODULE = Column("module", "text", "residual, mlp, self_attention or cross_attention",
                values=("residual", "mlp", "self_attention", "cross_attention"))  # fmt: skip
LAYER = Column("layer", "integer", "index of the layer in its block, from 0", least=0)
HEAD_INDEX = Column("head", "integer", "index of the head in its layer, from 0", least=0)
TOKEN = Column("token", "text", "the token at this position")
TOKEN_ROLE = Column("token_role", "text", "what the token is in the prompt: correct, incorrect, noun, ?, image, …")
UNIT_OF_PAIR = Column(UNIT, "text", "the unit that the pair belongs to, as in `pairs`", optional=True)
POSITION = Column("position", "integer", "index in the sequence that the block sees, special tokens included, from 0",
                  least=0)  # fmt: skip
DIRECTIONS = ("denoising", "noising")

#: Columns that name a task under a corruption, and those that name a head.
CELL = ["task", "corruption"]
HEAD = ["block", "module", "layer", "head"]

#: What an intervention was made on, and the layer that it was made in.
_INTERVENTION = (*CELL, "sample_id", "direction", "block", "module", "layer")

_NO_CONTRAST = "clean and corrupt run do not differ"


def _no_position(meaning: str) -> Column:
    return Column("position", "integer", meaning, missing="always: many positions at once")


def _readout(run: str, base: str, effect: str) -> tuple[Column, ...]:
    """What an intervention did at the first answer position."""
    return (
        Column("p_correct", "number", f"probability of the correct answer in the {run} run", "probability"),
        Column("p_diff", "number", f"p_correct less that of the {base} run", "probability"),
        Column("logit_diff", "number", f"LD of the {run} run less LD of the {base} run; LD is logit(correct) − "
               "logit(contrast), or the difference of their log-probabilities where an answer has several tokens",
               "logits"),
        Column("patching_effect", "number", effect, "share of LD_clean − LD_corrupt", missing=_NO_CONTRAST),
        Column("contrast_token", "text", "the answer that the correct one is compared with: under image corruption the "
               "incorrect option, under text corruption the corrupt run's own answer", optional=True),
    )  # fmt: skip


_SHARE_OF_GAP = "logit_diff / (LD_clean − LD_corrupt): "
PATCHED = _readout("patched", "corrupt", f"{_SHARE_OF_GAP}0 nothing, 1 the clean answer is back")
DIRECTION = Column(
    "direction",
    "text",
    "denoising: from the clean into the corrupt run; noising: from the corrupt into "
    "the clean run, where p_diff and logit_diff are less the clean run's and patching_effect is 1 where "
    "as much is lost as the corruption takes; denoising where the column is missing",
    optional=True,
    values=DIRECTIONS,
)
_KNOCKED = _readout("changed", "clean", f"{_SHARE_OF_GAP}−1 as much is lost as the corruption takes")

MODULE_PATCHING = Table(
    "module_patching",
    "One row per pair, corruption, module, layer and position: a module's activation copied from the clean run into "
    "the corrupt run.",
    (SAMPLE, UNIT_OF_PAIR, CORRUPTION, BLOCK, MODULE, LAYER, POSITION, TOKEN, TOKEN_ROLE, *PATCHED, DIRECTION),
    "04_module_patching",
    per_task=True,
    key=(*_INTERVENTION, "position"),
    needs_rows=True,
)

REGIONS = Table(
    "regions",
    "One row per pair, corruption, module, layer and region of the image: as module_patching, at all positions of the "
    "region at once.",
    (
        SAMPLE, UNIT_OF_PAIR, CORRUPTION, BLOCK, MODULE, LAYER,
        _no_position("no single position"),
        Column("token", "text", "how many positions were patched at once"),
        Column("token_role", "text", "the region: object, distractor, background (by the clean image's masks), "
               "changed, unchanged (by the pixels of both images) or image (all of it)"),
        *PATCHED, DIRECTION,
    ),
    "04_module_patching",
    per_task=True,
    key=(*_INTERVENTION, "token_role"),
)  # fmt: skip

KNOCKOUTS = Table(
    "knockouts",
    "One row per pair and intervention in the clean run: attention knocked out between two sets of positions, or image "
    "tokens replaced by the mean image token.",
    (
        SAMPLE, UNIT_OF_PAIR, CORRUPTION, BLOCK,
        Column("module", "text", "the attention that is knocked out, or image_embeddings where tokens are replaced"),
        Column("layer", "integer", "the middle layer of the window; 0 where tokens are replaced"),
        _no_position("no single position"),
        Column("token", "text", "how many layers lose the attention (and which, in a model of which others have none), "
               "or how many tokens are replaced"),
        Column("token_role", "text", "the edge, as `source → target`, or the region that is replaced"),
        *_KNOCKED,
    ),
    "04_module_patching",
    per_task=True,
    key=(*_INTERVENTION, "token", "token_role"),
)  # fmt: skip

HEAD_PATCHING = Table(
    "head_patching",
    "One row per pair, corruption, head and position: a head's output copied from the clean run into the corrupt run.",
    (
        SAMPLE,
        UNIT_OF_PAIR,
        CORRUPTION,
        BLOCK,
        MODULE,
        LAYER,
        HEAD_INDEX,
        POSITION,
        TOKEN,
        TOKEN_ROLE,
        *PATCHED,
        DIRECTION,
    ),
    "05_head_patching",
    per_task=True,
    key=(*_INTERVENTION, "head", "position"),
    needs_rows=True,
)

WHOLE_HEADS = Table(
    "whole_heads",
    "One row per pair, corruption, direction and head of every attention block: all positions of the head copied at "
    "once from the clean into the corrupt run (denoising), or from the corrupt into the clean run (noising).",
    (
        SAMPLE, UNIT_OF_PAIR, CORRUPTION,
        Column("direction", "text", "denoising or noising", values=DIRECTIONS),
        BLOCK, MODULE, LAYER, HEAD_INDEX,
        Column("p_correct", "number", "probability of the correct answer in the patched run", "probability"),
        Column("p_diff", "number", "p_correct less that of the run that was patched", "probability"),
        Column("logit_diff", "number", "LD of the patched run less LD of the run that was patched", "logits"),
        Column("patching_effect", "number", "1: denoising brings the clean answer back, noising loses as much as the "
               "corruption takes", "share of LD_clean − LD_corrupt", missing=_NO_CONTRAST),
        Column("contrast_token", "text", "the answer that the correct one is compared with, see head_patching",
               optional=True),
    ),
    "05_head_patching",
    per_task=True,
    key=(*_INTERVENTION, "head"),
)  # fmt: skip

_ONE_PAIR = "there is one pair only"
_EFFECT = "share of LD_clean − LD_corrupt"

_ONE_UNIT = "there is one unit only"
_N_UNITS = Column("n_units", "integer", "independent units that these pairs belong to", "units")

HEADS = Table(
    "heads",
    "One row per task, corruption and head: its mean effect over the pairs to discover on, and whether it matters.",
    (
        TASK, CORRUPTION, BLOCK, MODULE, LAYER, HEAD_INDEX,
        Column("n", "integer", "pairs averaged", "pairs", least=0),
        _N_UNITS,
        Column("n_missing", "integer", "pairs left out, whose clean and corrupt run do not differ", "pairs"),
        Column("mean_effect", "number", "mean over units of the head's effect, summed over positions", _EFFECT),
        Column("ci_low", "number", "lower end of its 95 % interval over units", _EFFECT, missing=_ONE_UNIT),
        Column("ci_high", "number", "upper end of that interval", _EFFECT, missing=_ONE_UNIT),
        Column("mean_abs_effect", "number", "mean over units of the effect's size, without its sign", _EFFECT),
        Column("abs_ci_low", "number", "lower end of its 95 % interval", _EFFECT, missing=_ONE_UNIT),
        Column("abs_ci_high", "number", "upper end of that interval", _EFFECT, missing=_ONE_UNIT),
        Column("sd_effect", "number", "standard deviation of the effect over units", _EFFECT, missing=_ONE_UNIT),
        Column("detectable_effect", "number", "the smallest mean effect that so many units find in 80 of 100 cases, "
               "if no other head matters", _EFFECT, missing=_ONE_UNIT),
        Column("p_value", "number", "of a two-sided test that the mean effect is 0", "probability", least=0, most=1),
        Column("q_value", "number", "p_value corrected for the false discovery rate over the heads of this task and "
               "corruption", "probability", least=0, most=1),
        Column("is_important", "boolean", "whether q_value is below 0.05 and the mean effect at least 0.02 in size"),
        Column("notice_score", "number", "mean over pairs of the size of the probability that patching the head at the "
               "correct option's token restores", "probability", optional=True),
        Column("is_important_notice", "boolean", "the rule of NOTICE as published: notice_score more than two standard "
               "deviations above the mean over the heads of the module", optional=True),
    ),
    "06_circuit_analysis",
    key=(*CELL, *HEAD),
    needs_rows=True,
)  # fmt: skip

UNIVERSAL_HEADS = Table(
    "universal_heads",
    "One row per head that is important for at least one task and corruption, or matters for all of them by the test.",
    (
        BLOCK, MODULE, LAYER, HEAD_INDEX,
        Column("cells", "text", "where it is important: `task/corruption`, joined by commas; empty: nowhere"),
        Column("n_cells", "integer", "how many those are"),
        Column("is_universal", "boolean", "whether it is important for every task and corruption of the run"),
        Column("mean_effect", "number", "mean over all tasks and corruptions", _EFFECT),
        Column("sign", "text", "sign of its mean effect in all tasks and corruptions: `+`, `-`, or `+/-`"),
        Column("p_value", "number", "that it has an effect of one sign for all tasks and corruptions "
               "(intersection-union test)", "probability", least=0, most=1),
        Column("q_value", "number", "p_value corrected for the false discovery rate over all heads", "probability",
               least=0, most=1),
        Column("is_universal_iut", "boolean", "whether q_value is below 0.05"),
    ),
    "06_circuit_analysis",
    key=tuple(HEAD),
)  # fmt: skip

_TEST = "criterion is the test"

UNIVERSALITY = Table(
    "universality",
    "One row per scope, criterion and k: how many heads matter in several tasks and under several corruptions, and "
    "how many would by chance.",
    (
        Column("scope", "text", "all: every task and corruption; image, text: every task under this corruption"),
        Column("criterion", "text", "important: in at least k of m cells; one-sign test: an effect of one sign in all"),
        Column("k", "integer", "cells (a task under a corruption) in which a head must be important"),
        Column("m", "integer", "cells of the scope"),
        Column("n_heads", "integer", "heads that are", "heads"),
        Column("n_tested", "integer", "heads in the table", "heads"),
        Column("expected", "number", "how many would be if in each cell as many heads of each module were important, "
               "but at random; of the test: how many of those named may be false on average", "heads"),
        Column("high", "number", "chance exceeds this number in at most 5 % of cases", "heads", missing=_TEST),
        Column("p_value", "number", "how often chance gives as many or more", "probability", missing=_TEST),
    ),
    "06_circuit_analysis",
)  # fmt: skip

_NO_AREA = "the region is no part of the image (off_image), or no image has it"
_SHARE = "share of the head's attention"

HEAD_FUNCTIONS = Table(
    "head_functions",
    "One row per head and region: how much of its attention from the option tokens falls there. Only of heads that can "
    "look at the image, and of pairs with masks.",
    (
        BLOCK, MODULE, LAYER, HEAD_INDEX,
        Column("region", "text", "object, distractor, background, outlier (a part of background) or off_image",
               values=("object", "distractor", "background", "outlier", "off_image")),
        Column("n", "integer", "pairs averaged", "pairs"),
        Column("n_units", "integer", "units that these pairs form: those that share an image or mirror each other are "
               "averaged first", "units", optional=True),
        Column("area", "number", "share of the image's tokens that belong to the region", "share", missing=_NO_AREA),
        Column("share", "number", "mean attention on the region", _SHARE),
        Column("ci_low", "number", "lower end of its 95 % interval over units", _SHARE, missing=_ONE_PAIR),
        Column("ci_high", "number", "upper end of that interval", _SHARE, missing=_ONE_PAIR),
        Column("ratio", "number", "share over what an even spread over the image would put there", "ratio",
               missing=_NO_AREA),
        Column("ratio_low", "number", "lower end of its 95 % interval", "ratio", missing=_NO_AREA),
        Column("ratio_high", "number", "upper end of that interval", "ratio", missing=_NO_AREA),
        Column("contrast", "number", "share less the mean share over all heads on the same pairs", _SHARE),
        Column("contrast_low", "number", "lower end of its 95 % interval", _SHARE, missing=_ONE_PAIR),
        Column("contrast_high", "number", "upper end of that interval", _SHARE, missing=_ONE_PAIR),
        Column("p_value", "number", "the larger of both tests (density, contrast) of the head's function; of `none`, "
               "that of the function that came closest", "probability", optional=True),
        Column("q_value", "number", "that p-value, corrected for three functions of all heads (Benjamini–Hochberg)",
               "probability", optional=True),
        Column("function", "text", "object detection, outlier suppression, object suppression or none; the same in all "
               "rows of a head", values=("object detection", "outlier suppression", "object suppression", "none")),
    ),
    "06_circuit_analysis",
    unless="no task has masks",
    key=(*HEAD, "region"),
)  # fmt: skip

_RUN = Column("run", "text", "frozen: every head's output is fixed; computed: the circuit's heads are computed from "
              "clean input", values=("frozen", "computed"))  # fmt: skip
_NONE = Column("logit_diff_none", "number", "LD of this pair and run with no head in the circuit", "logits")
_ALL = Column("logit_diff_all", "number", "LD of this pair and run with all heads in the circuit", "logits")

FAITHFULNESS = Table(
    "faithfulness",
    "One row per pair to verify on, corruption, run, direction, order, draw and k: the model run with a circuit of k "
    "heads, or without.",
    (
        SAMPLE, UNIT_OF_PAIR, CORRUPTION, _RUN,
        Column("direction", "text", "sufficiency: the k heads are the circuit; necessity: all others are",
               values=("sufficiency", "necessity")),
        Column("order", "text", "ranked: the k heads with the largest effects; random: as many of the same modules and "
               "layers", values=("ranked", "random")),
        Column("draw", "integer", "which random order, from 0; 0 for ranked"),
        Column("k", "integer", "number of heads ranked first", "heads", least=0),
        Column("logit_diff", "number", "LD of this run", "logits"),
        _NONE, _ALL,
        Column("patching_effect", "number", "0: the corrupt answer, 1: the clean one", _EFFECT, missing=_NO_CONTRAST),
        TASK,
    ),
    "06_circuit_analysis",
    key=(*CELL, "sample_id", "run", "direction", "order", "draw", "k"),
)  # fmt: skip

CIRCUIT_SUBSETS = Table(
    "circuit_subsets",
    "One row per pair to verify on, corruption and subset K of the important heads: the circuit and the model run "
    "without K.",
    (
        SAMPLE, UNIT_OF_PAIR, CORRUPTION,
        Column("removed", "text", "the heads of K, as `module layer.head`, joined by commas; empty: none"),
        Column("k", "integer", "heads of the circuit", "heads"),
        Column("logit_diff_circuit", "number", "LD of the circuit without K", "logits"),
        Column("logit_diff_model", "number", "LD of the model without K", "logits"),
        _NONE, _ALL, TASK,
    ),
    "06_circuit_analysis",
    unless="no head is important",
    key=(*CELL, "sample_id", "removed"),
)  # fmt: skip

_NO_GAP = "the mean LD with all heads may be that with none"
_NO_SUBSETS = "run is frozen, or no head is important"
_SHARE_OF_ALL = "share of m(all heads) − m(no head)"

CIRCUITS = Table(
    "circuits",
    "One row per task, corruption and run: what the important heads with a positive effect do together, on the pairs "
    "to verify on.",
    (
        TASK, CORRUPTION, _RUN,
        Column("k", "integer", "heads of the circuit", "heads"),
        Column("n_heads", "integer", "heads of the block", "heads"),
        Column("n", "integer", "pairs", "pairs"),
        _N_UNITS,
        Column("sufficiency", "number", "faithfulness of the circuit: (m(C) − m(no head)) / (m(all heads) − m(no "
               "head)), m is the mean LD", _SHARE_OF_ALL, missing=_NO_GAP),
        Column("sufficiency_low", "number", "lower end of its 95 % interval", _SHARE_OF_ALL, missing=_NO_GAP),
        Column("sufficiency_high", "number", "upper end of that interval", _SHARE_OF_ALL, missing=_NO_GAP),
        Column("sufficient", "text", "yes: the lower end is .8 or more; partly: above .2; no"),
        Column("left", "number", "faithfulness of all other heads: what is left without the circuit", _SHARE_OF_ALL,
               missing=_NO_GAP),
        Column("left_low", "number", "lower end of its 95 % interval", _SHARE_OF_ALL, missing=_NO_GAP),
        Column("left_high", "number", "upper end of that interval", _SHARE_OF_ALL, missing=_NO_GAP),
        Column("necessary", "text", "yes: that upper end is .2 or less; partly: below .8; no"),
        Column("incompleteness", "number", "largest difference that taking a subset from the circuit or from the model "
               "makes", _SHARE_OF_ALL, missing=_NO_SUBSETS),
        Column("complete", "text", "yes: incompleteness is .2 or less; no", missing=_NO_SUBSETS),
        Column("n_redundant", "integer", "heads of the circuit that change it by less than .02, whatever subset is "
               "taken out with them", "heads", missing=_NO_SUBSETS),
        Column("minimal", "text", "yes: there are none; no", missing=_NO_SUBSETS),
        Column("sufficiency_random", "number", "sufficiency of as many random heads of the same modules and layers",
               _SHARE_OF_ALL, missing="no random heads were run"),
        Column("left_random", "number", "what is left without these", _SHARE_OF_ALL,
               missing="no random heads were run"),
        Column("better_than_random", "boolean", "the control: whether the circuit restores more than random heads, and "
               "less is left without it (95 % intervals of both differences exclude 0)",
               missing="no random heads were run, or the circuit has no heads"),
    ),
    "06_circuit_analysis",
    key=(*CELL, "run"),
)  # fmt: skip

EFFECT_TABLES = (
    MODULE_PATCHING, REGIONS, KNOCKOUTS, HEAD_PATCHING, WHOLE_HEADS, HEADS, UNIVERSAL_HEADS, UNIVERSALITY,
    HEAD_FUNCTIONS, FAITHFULNESS, CIRCUIT_SUBSETS, CIRCUITS,
)  # fmt: skip
