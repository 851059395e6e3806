"""Families of models, one file each: where a family keeps its submodules, and what is particular about it.

To add one, add a file with `FAMILIES = [FamilySpec(...)]`, or a package with an entry point of the group
`vlmtrace.families`. What differs is little: the paths of submodules, what stands around the image in a prompt where the
processor has no chat template, and how patches of the image become tokens.
"""

from vlmtrace.models.families.registry import families, families_table, family_of, unsupported_families
from vlmtrace.models.families.spec import CLIP_OR_SIGLIP, FamilySpec, StackSpec, UnsupportedFamily

__all__ = [
    "CLIP_OR_SIGLIP",
    "FamilySpec",
    "StackSpec",
    "UnsupportedFamily",
    "families",
    "families_table",
    "family_of",
    "unsupported_families",
]
