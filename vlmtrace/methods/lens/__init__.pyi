from .contributions import lens_contributions
from .decomposition import open_lens, token_text
from .explorers import patch_explorer, word_explorer
from .figures import lens_heads, map_curves, map_measures, patch_maps, visual_against_textual
from .head_ablation import ablate_heads, ablation_table
from .map_comparison import map_table
from .map_scores import image_maps, score_maps
from .modality import agreement, shared_heads
from .questions import lens_of, right_answers
from .randomization import randomization_control, randomization_table
from .sentences import describe_contributions, describe_maps, describe_shared_heads, describe_words
from .word_figures import word_grid, words_by_layer
from .words import decode_to_words, image_boxes, stream_vectors, word_layers

__all__ = [
    "ablate_heads",
    "ablation_table",
    "agreement",
    "decode_to_words",
    "describe_contributions",
    "describe_maps",
    "describe_shared_heads",
    "describe_words",
    "image_boxes",
    "image_maps",
    "lens_contributions",
    "lens_heads",
    "lens_of",
    "map_curves",
    "map_measures",
    "map_table",
    "open_lens",
    "patch_explorer",
    "patch_maps",
    "randomization_control",
    "randomization_table",
    "right_answers",
    "score_maps",
    "shared_heads",
    "stream_vectors",
    "token_text",
    "visual_against_textual",
    "word_explorer",
    "word_grid",
    "word_layers",
    "words_by_layer",
]
