from .boxes import fill_box
from .corruption import CORRUPTIONS, run_inputs
from .image_regions import coverage, image_regions, on_image
from .pair_rows import by_corruption
from .rewording import reword
from .same_size import same_size
from .saved_images import save_images
from .token_roles import token_table
from .units import with_units

__all__ = [
    "CORRUPTIONS",
    "by_corruption",
    "coverage",
    "fill_box",
    "image_regions",
    "on_image",
    "reword",
    "run_inputs",
    "same_size",
    "save_images",
    "token_table",
    "with_units",
]
