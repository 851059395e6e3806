"""Runs: notebooks as stages that `make all` and `make explore` drive, their tables, figures and report.

    stage = open_run("default").stage("04_module_patching", "rendered_svo", model=vlm, seed=0)
    selected = stage.read("selected")
    effects = stage.resume(vt.patch_modules, vlm, selected, corruption="image")
    stage.finish(module_patching=effects)

Which notebooks are stages, and what each reads and writes, stands in the notebooks' metadata (`stages`); what runs
again when something changes is decided by content (`schedule`, `dependencies`); several notebooks share what they
import by forking their kernels (`kernels`).
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
