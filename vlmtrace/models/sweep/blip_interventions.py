"""Patches of several positions, patches that act together, and attention knockouts in BLIP, all exact.

Shapes: P pairs of equal question length, S interventions per pair, T question positions, M image positions, U tokens
of the answer decoder, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vlmtrace.models.hooks import with_model_lock
from vlmtrace.models.interventions import Interventions
from vlmtrace.models.sweep.blip import CACHE, image_embeddings
from vlmtrace.models.sweep.blip_layers import AnswerLayers, QuestionLayers, read_answer
from vlmtrace.models.sweep.blip_stacks import QuestionStack, TextStack, VisionStack, repeated
from vlmtrace.models.sweep.blip_vision import CHEAPER_PROJECTION
from vlmtrace.models.sweep.chunking import in_chunks
from vlmtrace.models.types import AnswerIds, BothAnswers, Readout, Trace, positions_read
from vlmtrace.models.vlm import VLM


@with_model_lock
@torch.no_grad()
def intervene(
    model: VLM, source: Trace, base: Trace, given: Interventions, answer_ids: AnswerIds, memory: int
) -> Readout:
    """Answer every intervention in a batch of pairs; see `ModelInterface.intervene`."""
    vision, question, decoder = (given.starts(name) for name in ("vision_encoder", "text_encoder", "text_decoder"))
    sees = [i for i in range(len(given)) if vision[i] is not None]
    reads = [i for i in range(len(given)) if vision[i] is None and (question[i] is not None or decoder[i] is None)]
    answers = [i for i in range(len(given)) if vision[i] is None and question[i] is None and decoder[i] is not None]
    never = (1 << 30, 0)  # what acts nowhere in a block comes last
    run = _Interventions(model, source, base, answer_ids, memory)
    readouts, order = [], []
    for chosen, starts, answer, state_bytes, shared in (
        (sees, vision, run.from_vision, run.vision_bytes, 0),
        (reads, question, run.from_question, run.state_bytes, run.shared_bytes),
        (answers, decoder, run.from_answer, run.state_bytes, 0),
    ):
        if not chosen:
            continue
        chosen = sorted(chosen, key=lambda i: starts[i] or never)
        room = memory - shared
        if model.device.type == "cpu":
            room = min(room, CACHE)
        size = max(1, room // (len(answer_ids) * state_bytes))
        readouts.append(in_chunks(given.subset(chosen), size, answer))
        order += chosen
    found = Readout.cat(readouts, dim=1)
    back = torch.tensor(order, device=found.correct.device).argsort()
    return Readout(found.correct[:, back], found.incorrect[:, back], found.log_normalizer[:, back])


class _Interventions:
    """What the chunks of one call share.

    Attributes:
        state_bytes: what one state of one pair occupies at the peak of a layer
        vision_bytes: the same where it has an image of its own
        shared_bytes: keys and values of the image, kept for all states
    """

    def __init__(self, model: VLM, source: Trace, base: Trace, answer_ids: AnswerIds, memory: int):
        self.model, self.source, self.base, self.answer_ids, self.memory = model, source, base, answer_ids, memory
        text, vision = model.hf.config.text_config, model.hf.config.vision_config
        stream, image = base.layer_inputs["text_encoder"], base.layer_inputs.get("vision_encoder")
        length, width, element = stream.shape[1], text.hidden_size, stream.element_size()
        n_read = (
            max(answer_ids.correct.n_positions, answer_ids.contrast.n_positions)
            if isinstance(answer_ids, BothAnswers)
            else positions_read(answer_ids)
        )
        # Streams, contexts and their masks; the feed-forward's inner layer; or the logits and their log-softmax.
        layer = length * (12 * width + 2 * text.intermediate_size)
        readout = length * width + (n_read + 1) * (2 * text.vocab_size)
        self.state_bytes = max(layer, readout) * element
        seen = 0 if image is None else image.shape[1]
        inner = 8 * vision.hidden_size + 2 * vision.intermediate_size + 2 * width
        self.vision_bytes = self.state_bytes + seen * inner * element
        self.shared_bytes = 2 * seen * width * element * len(stream)
        self.n_layers = {name: model.blocks[name].n_layers for name in model.blocks}
        self._layers: QuestionLayers | None = None

    @property
    def question_layers(self) -> QuestionLayers:
        """The question encoder's layers over the base run's images."""
        if self._layers is None:
            keep = self.shared_bytes * self.n_layers["text_encoder"] <= self.memory // 2
            self._layers = QuestionLayers(self.model, image_embeddings(self.model, self.base), keep)
        return self._layers

    def from_vision(self, given: Interventions) -> Readout:
        """Readout (P, S) of interventions that change the image."""
        vision = self.model.hf.vision_model
        seen = VisionStack(self.source, self.base, given, vision).run(self.n_layers["vision_encoder"])
        question = self.base.layer_inputs["text_encoder"]
        length, width = question.shape[1:]
        cheaper = CHEAPER_PROJECTION if seen.device.type == "cpu" else 1
        unprojected = cheaper * length * self.model.blocks["text_encoder"].n_heads < width
        images = vision.post_layernorm(seen).flatten(0, 1)  # (P·S, M, D)
        layers = QuestionLayers(self.model, images, keep=False, unprojected=unprojected)
        stack = QuestionStack(self.source, self.base, given, layers, own=True)
        return self._read(stack.run(self.n_layers["text_encoder"], repeated(question, len(given))), given)

    def from_question(self, given: Interventions) -> Readout:
        """Readout (P, S) of interventions in the question encoder, and of none at all."""
        stack = QuestionStack(self.source, self.base, given, self.question_layers, own=False)
        return self._read(stack.run(self.n_layers["text_encoder"]), given)

    def from_answer(self, given: Interventions) -> Readout:
        """Readout (P, S) of interventions in the answer decoder alone."""
        questions = self.base["text_encoder", "residual", self.n_layers["text_encoder"] - 1]
        return self._decoded(questions, given, own=False)

    def _read(self, questions: Tensor, given: Interventions) -> Readout:
        if "text_decoder" in given.blocks:
            return self._decoded(questions, given, own=True)
        return read_answer(self.model, questions, self.base.layer_inputs["text_decoder"], self.answer_ids)

    def _decoded(self, questions: Tensor, given: Interventions, own: bool) -> Readout:
        """Run the answer decoder with interventions, over (P, S, T, D) or (P, T, D) final question states."""
        layers = AnswerLayers(self.model, questions.flatten(0, 1) if own else questions)
        stack = TextStack(self.source, self.base, given, layers, own)
        start = repeated(self.base.layer_inputs["text_decoder"], len(given)) if own else None
        return layers.read(stack.run(self.n_layers["text_decoder"], start), self.answer_ids)
