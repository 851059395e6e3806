"""Model folders that were damaged on their way: files cut, emptied, replaced; configurations and weights changed."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from torture.outcome import Case

import vlmtrace as vt

#: Values that somebody's configuration may hold where a number, a text or an object belongs.
VALUES: tuple[Any, ...] = (None, 0, -1, 1, 3, 2.5, 10**9, "x", "", [], {}, True, [1, 2], "cuda", float("nan"))

#: Keys whose values are a matter of taste: with another value it is another model, which nobody can tell.
TASTE = ("eps", "act", "rope", "dropout", "range", "factor", "token_id", "std", "mean", "heads", "beta", "theta",
         "scaling", "window", "layer_types", "feature_select", "feature_layer", "projection_dim", "logit_scale",
         "head_dim", "do_", "resample", "size", "layers_block_type", "init", "bias")  # fmt: skip

WEIGHTS = "model.safetensors"

#: What may have happened to a tensor.
DAMAGES = (
    "dropped", "renamed", "transposed", "cut", "nan", "inf", "one nan", "half", "one more", "none left", "empty",
)  # fmt: skip


class FolderCases:
    """Cases about `vt.load_model` on damaged folders.

    Args:
        folder: where to write them
        intact: directories of small models, as `save_pretrained` writes them
    """

    kind = "model"

    def __init__(self, folder: Path, intact: list[Path]):
        self.folder, self.intact = folder, intact
        self.number = itertools.count()
        self.expected = {path: self._logits(vt.load_model(path, check=False)) for path in intact}

    def cases(self) -> st.SearchStrategy[Case]:
        """Draw a case."""
        return st.composite(self._case)()

    def _logits(self, model: vt.VLM) -> torch.Tensor:
        image = Image.linear_gradient("L").convert("RGB").resize((48, 48))
        return model.answer_logits(model.encode([image], [model.prompt_text("is this circle red or blue?")]))

    def _case(self, draw: Any) -> Case:
        source = draw(st.sampled_from(self.intact))
        damage = draw(st.sampled_from((self._file, self._file, self._config, self._config, self._weights)))
        change, said = damage(draw, source)

        def act() -> Any:
            copy = self.folder / f"{next(self.number)}-{source.name}"
            shutil.copytree(source, copy)
            try:
                change(copy)
                return self._logits(vt.load_model(copy))
            finally:
                shutil.rmtree(copy)

        def check(logits: torch.Tensor) -> str | None:
            if not torch.isfinite(logits).all():
                return "its logits are not finite"
            there = self.expected[source]
            if logits.shape != there.shape or not torch.allclose(logits, there, atol=1e-4):
                return "it answers otherwise than the intact model, and nothing said so"
            return None

        return Case(f"{source.name}: {said}", act, check)

    def _file(self, draw: Any, source: Path) -> tuple[Any, str]:
        files = sorted(path.name for path in source.iterdir() if path.is_file())
        # Without its chat template a model is another one, which nobody can tell.
        name = draw(st.sampled_from([name for name in files if not name.startswith("chat_template")]))
        how = draw(
            st.sampled_from(
                ("removed", "empty", "half", "pointer", "html", "garbage", "folder", "list", "of the other")
            )
        )
        share = draw(st.floats(0.0, 0.99))
        other = next(path for path in self.intact if path != source)

        def change(copy: Path) -> None:
            path = copy / name
            content = path.read_bytes()
            path.unlink()
            if how == "folder":
                path.mkdir()
            elif how == "of the other":
                if (other / name).is_file():
                    shutil.copy(other / name, path)
                else:
                    path.write_bytes(content)
            elif how != "removed":
                path.write_bytes(
                    {
                        "empty": b"",
                        "half": content[: int(len(content) * share)],
                        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1234\n",
                        "html": b"<!doctype html><title>404</title>",
                        "garbage": bytes(range(256)) * 4,
                        "list": b"[]",
                    }[how]
                )

        return change, f"{name} {how}" + (f" ({share:.2f})" if how == "half" else "")

    def _config(self, draw: Any, source: Path) -> tuple[Any, str]:
        files = [name for name in ("config.json", "config.json", "processor_config.json") if (source / name).is_file()]
        name = draw(st.sampled_from(files))
        found = list(_keys(json.loads((source / name).read_text())))
        keys = [key for key in found if not any(word in str(key[-1]) for word in TASTE)]
        key = draw(st.sampled_from(keys))
        value = draw(st.sampled_from(("gone", *VALUES)))

        def change(copy: Path) -> None:
            content = json.loads((copy / name).read_text())
            place = content
            for part in key[:-1]:
                place = place[part]
            if value == "gone":
                del place[key[-1]]
            else:
                place[key[-1]] = value
            (copy / name).write_text(json.dumps(content))

        return change, f"{name}: {'.'.join(map(str, key))} = {value!r}"

    def _weights(self, draw: Any, source: Path) -> tuple[Any, str]:
        names = sorted(load_file(source / WEIGHTS))
        name, how = draw(st.sampled_from(names)), draw(st.sampled_from(DAMAGES))

        def change(copy: Path) -> None:
            weights = load_file(copy / WEIGHTS)
            tensor = weights.pop(name)
            if how == "renamed":
                weights[f"{name}_renamed"] = tensor
            elif how == "transposed":
                # A square one would be another model of the same form, which nobody can tell.
                tall = tensor.ndim == 2 and tensor.shape[0] != tensor.shape[1]
                weights[name] = tensor.T.contiguous() if tall else tensor[None]
            elif how == "cut":
                weights[name] = tensor[:-1].contiguous()
            elif how in ("nan", "inf"):
                weights[name] = torch.full_like(tensor, float(how)) if tensor.is_floating_point() else tensor[:0]
            elif how == "one nan":
                weights[name] = tensor.clone()
                if tensor.is_floating_point():
                    weights[name].view(-1)[0] = float("nan")
            elif how == "half":
                weights[name] = (tensor * 1e6).half() if tensor.is_floating_point() else tensor
            elif how == "one more":
                weights |= {name: tensor, "something.else.weight": torch.ones(2, 2)}
            elif how == "none left":
                weights.clear()
            elif how == "empty":
                weights[name] = tensor[:0].contiguous()
            save_file(weights, copy / WEIGHTS, metadata={"format": "pt"})

        return change, f"tensor {name} {how}"


def _keys(content: Any, before: tuple = ()) -> Any:
    for key, value in content.items():
        yield (*before, key)
        if isinstance(value, dict):
            yield from _keys(value, (*before, key))
