"""Where the datasets come from. Recorded in run.json of every run that uses one, and listed in the README.

Licences are stated where the publishers state them; for everything else the source is the place to look.
"""

from __future__ import annotations

from vlmtrace.core import paths

#: Task → name, url, licence, citation, and what to put where.
SOURCES: dict[str, dict[str, str]] = {
    "rendered": {
        "name": "the rendered world of vlmtrace",
        "url": "vlmtrace/tasks/rendered",
        "licence": "MIT, as vlmtrace",
        "citation": "see CITATION.cff",
    },
    "svo_probes": {
        "name": "SVO-Probes",
        "url": "https://github.com/google-deepmind/svo_probes",
        "licence": "see the source; the photographs belong to those who published them on the web",
        "citation": "Hendricks and Nematzadeh (2021): Probing Image-Language Transformers for Verb Understanding. "
        "Findings of ACL",
        "needs": "svo_probes.csv of the repository; images are downloaded as they are needed",
    },
    "mit_states": {
        "name": "MIT-States",
        "url": "http://web.mit.edu/phillipi/Public/states_and_transformations/index.html",
        "licence": "see the source; the photographs were collected from the web",
        "citation": "Isola, Lim and Adelson (2015): Discovering States and Transformations in Image Collections. CVPR",
        "needs": "the unpacked archive, whose images lie in folders named 'adjective noun'",
    },
    "facial_expressions": {
        "name": "facial expressions, any collection in folders named by emotion",
        "url": "the collection's own",
        "licence": "the collection's own: photographs of faces often may not be shown or passed on",
        "citation": "the collection's own",
        "needs": "folders angry, disgust, fear, happy, neutral, sad, surprise with images of faces",
    },
    "coco_qa": {
        "name": "COCO-QA",
        "url": "https://www.cs.toronto.edu/~mren/research/imageqa/data/cocoqa",
        "licence": "see the source; the photographs are those of MS COCO, under the licences of their Flickr owners",
        "citation": "Ren, Kiros and Zemel (2015): Exploring Models and Data for Image Question Answering. NeurIPS",
        "needs": "a CSV of image_id, question, answer (or the published text files) and a folder of COCO's images",
    },
    "clevr": {
        "name": "CLEVR",
        "url": "https://cs.stanford.edu/people/jcjohns/clevr",
        "licence": "CC BY 4.0",
        "citation": "Johnson et al. (2017): CLEVR: A Diagnostic Dataset for Compositional Language and Elementary "
        "Visual Reasoning. CVPR",
        "needs": "a CSV of image_id, question, answer and a folder with the images",
    },
    "csv": {
        "name": "your own table of pairs",
        "url": "your own",
        "licence": "your own",
        "citation": "your own",
        "needs": "a CSV with the columns of a pairs table",
    },
    "folder": {
        "name": "your own images in folders by label",
        "url": "your own",
        "licence": "your own",
        "citation": "your own",
        "needs": "a folder of images for each label",
    },
}


def how_to_get(task: str) -> str:
    """The end of a sentence: what to fetch where, and where to put it."""
    source = SOURCES[task]
    whence = f" ({source['url']})" if source["url"].startswith("http") else ""
    place = paths.relative(paths.RAW / task)
    return f"get {source['needs']}{whence}, and name the place as root (ROOT), or put it into {place}"
