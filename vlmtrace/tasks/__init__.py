"""Data sets: what each becomes, a table of minimal pairs or of questions.

loading       `load_pairs` and `load_questions`, by the name of a data set; `prepare_pairs` also accounts for every row
declaration   what a data set declares of itself
registry      all that are declared, here and in packages beside this one
building/     what data sets share: reading files, drawing a balanced sample, replacing words
download/     images by URL
rendered/ …   one file or folder for each data set

To add a data set is to add one file that declares it: see `vlmtrace.tasks.declaration`.
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
