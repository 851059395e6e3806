from .building.image_files import changed_share
from .building.row_audit import Prepared
from .declaration import Request, Source, Task
from .loading import find_root, load_pairs, load_questions, prepare_pairs
from .own_data import one_question
from .registry import QUESTIONS, ROOTED, TASKS, declared, task_table
from .rendered.poses import mixed_poses
from .rendered.usual import check_study

__all__ = [
    "QUESTIONS",
    "ROOTED",
    "TASKS",
    "Prepared",
    "Request",
    "Source",
    "Task",
    "changed_share",
    "check_study",
    "declared",
    "find_root",
    "load_pairs",
    "load_questions",
    "mixed_poses",
    "one_question",
    "prepare_pairs",
    "task_table",
]
