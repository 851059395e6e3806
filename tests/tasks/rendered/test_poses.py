"""Verb pairs that differ in some parts of the pose: all else is the corrupt image, and all parts are the clean one."""

import numpy as np
import pytest

import vlmtrace as vt
from vlmtrace.core.errors import VlmtraceError
from vlmtrace.core.images import open_image
from vlmtrace.core.schema import validate_pairs
from vlmtrace.tasks import mixed_poses
from vlmtrace.tasks.rendered.poses import mixed
from vlmtrace.tasks.rendered.svo import _POSES, POSE_PARTS, _Pose

N = 6


def pixels(path):
    return np.asarray(open_image(path)).astype(int)


def test_every_field_of_a_pose_belongs_to_one_part():
    fields = [name for names in POSE_PARTS.values() for name in names]
    assert sorted(fields) == sorted(_Pose.__dataclass_fields__)


def test_all_parts_make_the_pairs_of_the_task_and_none_the_corrupt_image():
    task = vt.load_pairs("rendered_svo", n=6 * N)
    task = task[task["category"] == "verb"].reset_index(drop=True)
    every, none = mixed_poses(N), mixed_poses(N, parts=[])
    for row in range(N):
        assert every["clean_prompt"][row] == task["clean_prompt"][row]
        for name in ("clean_image", "corrupt_image"):
            assert (pixels(every[name][row]) == pixels(task[name][row])).all()
        assert (pixels(none["clean_image"][row]) == pixels(task["corrupt_image"][row])).all()


def test_legs_change_pixels_below_the_hips_alone():
    legs = validate_pairs(mixed_poses(N, parts=["legs"]))
    changed = [pixels(one) != pixels(other) for one, other in legs[["clean_image", "corrupt_image"]].to_numpy()]
    rows = np.any(np.stack(changed), axis=(0, 2, 3)).nonzero()[0]
    assert rows.min() >= 66 and rows.max() <= 93, "legs reach from the hip, at 70, to the shoes, at 88"
    assert all(one.any() for one in changed)


def test_a_mixed_scene_takes_each_part_from_its_verb():
    from vlmtrace.tasks.rendered.pairs import sample

    pairs = (sample("rendered_svo", 0, index) for index in range(30))
    pair = next(pair for pair in pairs if pair.category == "verb")
    pose, (right, wrong) = mixed(pair, ["arms", "place"])._pose(), (_POSES[option] for option in pair.options)
    assert (pose.arms, pose.lean, pose.actor_at) == (right.arms, right.lean, right.actor_at)
    assert (pose.legs, pose.object_at) == (wrong.legs, wrong.object_at)


def test_tables_of_unlike_parts_tell_their_rows_apart_and_share_units():
    legs, arms = mixed_poses(N, parts=["legs"]), mixed_poses(N, parts=["place", "arms"])
    assert not set(legs["sample_id"]) & set(arms["sample_id"]) and legs["unit"].tolist() == arms["unit"].tolist()
    assert set(arms["parts"]) == {"arms + place"}


def test_pairs_of_two_verbs_are_those_of_the_task_in_its_order():
    chosen, every = mixed_poses(3, verbs=["watching", "holding"]), mixed_poses(40)
    answers = every[["correct_answer", "incorrect_answer"]].agg(frozenset, axis=1)
    of_task = every[answers == {"holding", "watching"}]
    assert len(of_task) and chosen["unit"].tolist()[: len(of_task)] == of_task["unit"].tolist()[: len(chosen)]
    assert set(chosen["correct_answer"]) | set(chosen["incorrect_answer"]) == {"holding", "watching"}


@pytest.mark.parametrize(
    ("verbs", "said"),
    [(["running", "holding"], "running"), (["holding"], "two different"), (["holding"] * 2, "two different")],
)
def test_verbs_that_make_no_pair_are_refused(verbs, said):
    with pytest.raises(VlmtraceError, match=said):
        mixed_poses(2, verbs=verbs)


def test_an_unknown_part_is_named():
    with pytest.raises(VlmtraceError, match="feet"):
        mixed_poses(2, parts=["feet"])
