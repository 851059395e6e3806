"""Folders of models with one fault each: one sentence, or the numbers of the intact model, and nothing else."""

import shutil
from collections import Counter

import pytest
from fixtures.broken_folders import ACCEPTED, attempt, cases, logits

#: Each with the family whose files are put in the place of its own.
FAMILIES = {"random_blip": "llava", "llava": "qwen2_5_vl", "qwen2_5_vl": "random_blip"}


def check(name, model_store, tmp_path, chosen, record):
    folder, other = model_store.path(name), model_store.path(FAMILIES[name])
    intact = logits(model_store.shared(name))
    counts, wrong = Counter(), []
    for case in cases(folder)[chosen]:
        work = shutil.copytree(folder, tmp_path / "folder")
        case.change(work, other)
        found, said = attempt(work, intact)
        shutil.rmtree(work)
        counts[found] += 1
        if found not in ACCEPTED[case.expects]:
            wrong.append(f"{case.name} (expected: {case.expects}): {found} {said}")
    record("outcomes", dict(counts))
    assert not wrong, f"{len(wrong)} of {counts.total()} broken folders of {name}:\n" + "\n".join(wrong[:20])


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_broken_folder_is_one_sentence_or_does_not_matter(name, model_store, tmp_path, record_property):
    check(name, model_store, tmp_path, slice(None), record_property)


@pytest.mark.medium
@pytest.mark.parametrize("name", FAMILIES)
def test_a_sample_of_broken_folders(name, model_store, tmp_path, record_property):
    check(name, model_store, tmp_path, slice(7, None, 37), record_property)


def test_there_are_many_faults_and_no_two_of_one_name(model_store):
    for name in FAMILIES:
        names = [case.name for case in cases(model_store.path(name))]
        assert len(names) >= 400 and len(set(names)) == len(names), name
