"""SVO-Probes: photographs of a sentence, and of the sentence with its subject, verb or object changed.

pairs     minimal pairs of the published table; images from a folder or by URL
rows      which word of a row is changed, and whether a fair question can be asked about it
grammar   the question, from a subject, a verb and an object
"""

from __future__ import annotations

import pandas as pd

from vlmtrace.tasks.declaration import Request, Source, Task

SOURCE = Source(
    "SVO-Probes",
    url="https://github.com/google-deepmind/svo_probes",
    licence="see the source; the photographs belong to those who published them on the web",
    citation="Hendricks and Nematzadeh (2021): Probing Image-Language Transformers for Verb Understanding. "
    "Findings of ACL",
    needs="svo_probes.csv of the repository; images are downloaded as they are needed",
)


def make_pairs(request: Request) -> pd.DataFrame:
    """Minimal pairs: see `vlmtrace.tasks.svo_probes.pairs.make_pairs`.

    Args:
        request: its root is the published CSV, or the folder that holds it

    Returns:
        up to n rows of a pairs table

    Raises:
        VlmtraceError: there is no such CSV, no row of it can be used, or no image can be had
    """
    # English morphology and HTTP take a while to import, and only this data set needs them.
    from vlmtrace.tasks.svo_probes import pairs

    return pairs.make_pairs(request)


DECLARED = (Task("svo_probes", SOURCE, pairs=make_pairs),)
