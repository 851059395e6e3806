"""The stages of the pipeline and what each writes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


#: The stages in the order of the road, and what each writes.
STAGES = {
    "01_preprocess": ("pairs", "filters", "set_aside"),
    "02_evaluate": ("evaluated",),
    "03_select_samples": ("selected",),
    "04_module_patching": ("module_patching",),
    "05_head_patching": ("head_patching",),
    "06_circuit_analysis": ("heads", "universal_heads"),
}

#: Beside the road: each takes single images and questions, and needs no other stage.
EXPLORERS = {
    "07_causal_tracing": ("causal_tracing", "noise_curve"),
    "08_visual_lens": ("lens_contributions", "map_scores", "maps", "patch_words", "head_agreement", "lens_knockouts"),
}

#: A stage and the stages whose tables it reads must agree on these: parameter and its name in a sentence.
SHARED = {"seed": "seed", "model": "model", "fingerprint": "model weights"}
