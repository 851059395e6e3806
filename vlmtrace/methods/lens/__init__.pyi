from .contributions import lens_contributions, lens_of, open_lens, word
from .explorers import patch_explorer, word_explorer
from .figures import lens_heads, map_curves, map_measures, patch_maps, visual_against_textual
from .map_scores import image_maps, map_table, score_maps
from .modality import agreement, knock_out_heads, knockout_table, shared_heads
from .word_figures import word_grid, words_by_layer
from .words import image_boxes, side, top_words, word_layers

__all__ = [
    "agreement",
    "image_boxes",
    "image_maps",
    "knock_out_heads",
    "knockout_table",
    "lens_contributions",
    "lens_heads",
    "lens_of",
    "map_curves",
    "map_measures",
    "map_table",
    "open_lens",
    "patch_explorer",
    "patch_maps",
    "score_maps",
    "shared_heads",
    "side",
    "top_words",
    "visual_against_textual",
    "word",
    "word_explorer",
    "word_grid",
    "word_layers",
    "words_by_layer",
]
