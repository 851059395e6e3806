"""The bundled world: scenes drawn from a seed, in true minimal pairs.

canvas      draws, and remembers which part of the scene every pixel shows
states      two things, each with a color, a shape and a texture
faces       a face with an emotion, something beside it
svo, props  somebody doing something with something, before some scenery
questions   what can be asked about a scene, and what is true of it
pairs       minimal pairs as a table with images and masks; open questions likewise
words       the vocabulary, the options, the held-out combinations
"""

from vlmtrace.tasks.rendered.pairs import OPEN, SPLITS, load, open_questions
from vlmtrace.tasks.rendered.words import OPTIONS, SYNONYMS, TASKS

__all__ = ["OPEN", "OPTIONS", "SPLITS", "SYNONYMS", "TASKS", "load", "open_questions"]
