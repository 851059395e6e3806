"""What other libraries are given to do is what the sweep does, wherever one of them is installed."""

import pandas as pd
import pytest
import torch
from torch import nn

from vlmtrace.benchmarks import libraries
from vlmtrace.benchmarks.libraries import LIBRARIES, AnswerOfEmbeddings, patch_with_libraries
from vlmtrace.inputs.corruption import run_inputs
from vlmtrace.methods.patching.sweeps import patch_heads
from vlmtrace.models import Site
from vlmtrace.models.hooks import attach_hooks


class Hooked(libraries.Library):
    """A library that is always there: a hook on the projection's input."""

    package = "torch"

    def start(self, clean, corrupt):
        site = Site(self.block.name, self.model.image_module, 0)
        sites = [site._replace(layer=layer) for layer in range(self.block.n_layers)]
        return self.model.trace(clean, sites), corrupt

    def patch(self, started, layer, sites):
        clean, corrupt = started
        site = Site(self.block.name, self.model.image_module, layer)
        projection = self.answer.get_submodule(self.projections[layer])
        assert projection is self.model.hook_point(site).module and isinstance(projection, nn.Module)
        logits = []
        for head, position in sites:
            columns = slice(head * self.width, (head + 1) * self.width)

            def patched(value, columns=columns, position=position):
                value = value.clone()
                value[:, position, columns] = clean[site][:, position, columns]
                return value

            with attach_hooks([(self.model.hook_point(site), patched)]):
                logits.append(self.answer(**corrupt)[0])
        return torch.stack(logits)


@pytest.fixture
def one_library(monkeypatch):
    monkeypatch.setattr(libraries, "LIBRARIES", {"hooked": Hooked})


@pytest.mark.usefixtures("one_library")
def test_a_library_is_asked_for_the_patches_of_the_sweep(random_blip, random_pairs):
    pair = random_pairs.iloc[[0]]
    table = patch_heads(random_blip, pair, modules=["cross_attention"], positions=["correct"])
    found = patch_with_libraries(random_blip, pair, table, lambda work: (1.0, work()))
    per_patch, values = found["hooked"]
    assert per_patch == 1 / len(values)
    both = table.merge(values, on=["layer", "head", "position"])
    assert len(both) == len(values) > 0
    assert (both["logit_diff"] - both["value"]).abs().max() <= 1e-4 < both["logit_diff"].abs().max()


@pytest.mark.parametrize("name", list(LIBRARIES))
@pytest.mark.parametrize("family", ["random_blip", "llava"])
@pytest.mark.medium
def test_installed_libraries_give_the_numbers_of_the_sweep(name, family, model_store, random_pairs, monkeypatch):
    model = model_store.shared(family)
    if not LIBRARIES[name].knows(model):
        pytest.skip(f"{name} is not installed or does not know {family}")
    monkeypatch.setattr(libraries, "LIBRARIES", {name: LIBRARIES[name]})
    pair = random_pairs.iloc[[0]]
    table = patch_heads(model, pair, modules=[model.image_module], positions=["correct"])
    _, values = patch_with_libraries(model, pair, table, lambda work: (1.0, work()))[name]
    both = table.merge(pd.DataFrame(values), on=["layer", "head", "position"])
    assert len(both) == len(values)
    assert (both["logit_diff"] - both["value"]).abs().max() <= 1e-4


def test_answers_of_embeddings_are_those_of_the_whole_model(model_store, random_pairs):
    model = model_store.shared("llava")
    inputs = run_inputs(model, random_pairs.iloc[[0]], "clean")
    entering = model.trace(inputs, [Site("language_model", "residual", 0)]).layer_inputs["language_model"]
    found = AnswerOfEmbeddings(model)(entering, inputs["attention_mask"])
    assert (found - model.answer_logits(inputs)).abs().max() <= 1e-4
