"""A vision-language model, whatever its family: what follows from the interface that every family's class provides."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from vlmtrace.core.arguments import Count, Natural, checked
from vlmtrace.core.errors import VlmtraceError, one_of
from vlmtrace.models.finite import check_finite
from vlmtrace.models.hooks import MODEL_LOCK, attach_hooks
from vlmtrace.models.input_limits import holds_image, processor_refusals
from vlmtrace.models.interface import ModelInterface
from vlmtrace.models.layer_kinds import check_has_weights
from vlmtrace.models.types import Block, Inputs, Site, Trace
from vlmtrace.models.weight_values import computing_devices, weight_digests


class VLM(ModelInterface):
    """One loaded vision-language model, as `load_model` gives it. It holds no state between calls.

    The attributes of `ModelInterface` describe it, above all `blocks`.

    Example:
        >>> import vlmtrace as vt
        >>> model = vt.load_model("tiny-blip")
        >>> isinstance(model, vt.VLM), list(model.blocks)
        (True, ['vision_encoder', 'text_encoder', 'text_decoder'])
    """

    @property
    def device(self) -> torch.device:
        """Where it takes its inputs and gives its logits; of a model on several devices, the first that computes."""
        return computing_devices(self.hf)[0]

    @property
    def devices(self) -> list[torch.device]:
        """All on which it computes, `device` first."""
        return computing_devices(self.hf)

    @property
    def dtype(self) -> torch.dtype:
        """The number type that it computes in: that of its parameters, but for codes of quantized weights."""
        return next(value.dtype for value in self.hf.parameters() if value.is_floating_point())

    @property
    def loading(self) -> str:
        """How it was loaded, as far as that decides about numbers, for records: "bfloat16, bitsandbytes-4bit"."""
        return str(self.load_options.with_dtype(self.dtype))

    def __repr__(self) -> str:
        """Name, and layers × heads of each block."""
        blocks = ", ".join(
            f"{b.name} {b.n_layers}×{f'{min(b.heads)}–{b.n_heads}' if b.heads else b.n_heads}"
            for b in self.blocks.values()
        )
        return f"<{type(self).__name__} {self.name}: layers × heads: {blocks}>"

    # Blocks and sites --------------------------------------------------------

    @property
    def head_block(self) -> Block:
        """The block that reads the question: the first whose heads a sweep knows. `patch_heads` goes through them."""
        return next(block for block in self.blocks.values() if block.head_modules)

    @property
    def question_block(self) -> str:
        """The name of the block that reads the question's words: the head block, but where they are drawn."""
        return self.head_block.name

    @property
    def image_block(self) -> str:
        """The block whose sequence holds the image tokens that the language side reads."""
        return self.head_block.name if self.image_module == "self_attention" else "vision_encoder"

    @property
    def injects_image_features_later(self) -> bool:
        """Whether later layers of the language model receive image features, too."""
        return any(map(self.adds_image_features_after, range(self.head_block.n_layers)))

    @checked
    def sites(self, blocks: Sequence[str] | None = None) -> list[Site]:
        """Every site that can be patched, in the order of blocks, layers, modules."""
        return [
            Site(block.name, module, layer)
            for block in self.blocks.values()
            if blocks is None or block.name in blocks
            for layer in range(block.n_layers)
            for module in block.modules
            if block.has(module, layer)
        ]

    @checked
    def check_site(self, site: Site) -> Site:
        """Return the site.

        Args:
            site: block, module and layer

        Returns:
            the same

        Raises:
            VlmtraceError: there is no such site; the sentence says which exist
        """
        block = self.blocks[one_of(site.block, self.blocks, f"block of {self.name}")]
        one_of(site.module, dict.fromkeys((*block.modules, *block.hooked_modules)), f"module of {block.name}")
        if not 0 <= site.layer < block.n_layers:
            raise VlmtraceError(
                f"Layer {site.layer} does not exist: {block.name} of {self.name} has layers 0 to {block.n_layers - 1}."
            )
        if not block.has(site.module, site.layer):
            there = ", ".join(map(str, block.layers_with(site.module)))
            raise VlmtraceError(
                f"Layer {site.layer} of {block.name} of {self.name} has no {site.module}: choose among the layers that "
                f"have one ({there})."
            )
        return site

    @checked
    def check_attention_is_followed(self, method: str) -> None:
        """Refuse models that neither answer in one sequence with the image nor are made as BLIP is.

        Args:
            method: what follows attention from the answer to the image, for the sentence

        Raises:
            VlmtraceError: it is such a model
        """
        in_one_block = self.head_block.name == self.answer_block
        if in_one_block != (self.image_module == "self_attention"):
            raise VlmtraceError(
                f"{method} follows attention back from an answer in one sequence with the image, or as in BLIP, and "
                f"{self.name} reads its question in its {self.question_block} and answers in its {self.answer_block}: "
                "use patching, or another model."
            )

    # Prompts and answers --------------------------------------------------------

    @checked
    def prompt_text(self, prompt: str, n_images: Count = 1) -> str:
        """The exact text handed to the processor, after a chat template where the model has one.

        Args:
            prompt: what is asked
            n_images: how many images it is asked about

        Raises:
            VlmtraceError: the family is one of which one image in a prompt is taken, and several are asked about
        """
        self.check_n_images(n_images)
        return prompt

    @checked
    def check_n_images(self, n: Count) -> None:
        """Check that the model takes so many images in one prompt.

        Args:
            n: how many

        Raises:
            VlmtraceError: it takes one, and `n` is more
        """
        if n > 1 and not self.family.several_images:
            why = self.family.one_image or "several were never tried"
            raise VlmtraceError(
                f"{self.name} is of a family of which vlmtrace takes one image in a prompt, not {n} ({why}): ask "
                "about one image at a time, or use a model of a family that takes several, see "
                "vlmtrace.models.families_table()."
            )

    @checked
    def count_tokens(self, prompt: str) -> int:
        """Number of tokens of a prompt, special tokens included."""
        with processor_refusals(self, prompt):
            return len(self.tokenizer(self.prompt_text(prompt)).input_ids)

    @checked
    def tokenizer_options(self, text: str) -> dict[str, Any]:
        """How the tokenizer is called for a text that `prompt_text` gave."""
        return {}

    @checked
    def encode_image(self, image: Image.Image) -> Inputs:
        """Inputs of an image with a prompt that does not matter."""
        return self.encode([image], [self.prompt_text("?")])

    @checked
    def spell_answer(self, answer: str, prefix: str = "", blank: bool | None = None) -> list[int]:
        """The ids of the tokens of an answer, as the model gives it.

        Args:
            answer: a word, or several
            prefix: the beginning of the answer, which is given and behind which the model goes on
            blank: whether a blank stands before the answer, where that makes another token; None: as the model's
                tokenizer writes text that goes on

        Returns:
            the ids, one at least

        Raises:
            VlmtraceError: the answer is empty, a token of it is unknown to the tokenizer, or one stands for an image
        """
        return self._known(answer, self.tokenizer(answer, add_special_tokens=False).input_ids)

    def _known(self, answer: str, ids: list[int]) -> list[int]:
        if not answer.strip() or not ids or self.tokenizer.unk_token_id in ids:
            raise VlmtraceError(
                f"The answer {answer!r} cannot be written in tokens of {self.name}'s vocabulary: use another word."
            )
        if self.image_ids.intersection(ids):
            raise holds_image("answer", answer, "a token that stands for an image")
        return ids

    @checked
    def answer_token(self, answer: str) -> int:
        """The id of the first token of an answer; see `spell_answer`."""
        return self.spell_answer(answer)[0]

    @checked
    def check_tokens(self, ids: Sequence[Natural]) -> list[int]:
        """Return ids of tokens.

        Args:
            ids: of tokens of the vocabulary

        Returns:
            the same

        Raises:
            VlmtraceError: there is no such token; the sentence says which ids exist
        """
        known = len(self.tokenizer)
        for token in ids:
            if token >= known:
                raise VlmtraceError(f"Token {token} does not exist: those of {self.name} are 0 to {known - 1}.")
        return list(ids)

    @checked
    def answer_ids(self, correct: Sequence[str], incorrect: Sequence[str]) -> Tensor:
        """Ids of the options' first tokens, as they are written; see `vlmtrace.inputs.answers` for what is measured.

        Args:
            correct: the correct answer of each pair
            incorrect: the other option of each pair

        Returns:
            (pair, 2): correct, incorrect

        Raises:
            VlmtraceError: an answer is unknown, or two options share their first token
        """
        rows = []
        for right, wrong in zip(correct, incorrect, strict=True):
            row = [self.spell_answer(right)[0], self.spell_answer(wrong)[0]]
            if row[0] == row[1]:
                raise VlmtraceError(
                    f"The options {right!r} and {wrong!r} share their first token under {self.name}'s tokenizer, "
                    "so their first logits cannot be told apart: replace one of them."
                )
            rows.append(row)
        return torch.tensor(rows, device=self.device)

    @property
    def stop_ids(self) -> set[int]:
        """The tokens that end an answer."""
        ids = self.hf.generation_config.eos_token_id
        ids = self.tokenizer.eos_token_id if ids is None else ids
        return {ids} if isinstance(ids, int) else set(ids or ())

    @property
    def image_ids(self) -> set[int]:
        """Tokens that stand for an image: an answer ends before one, since no image comes with it."""
        return set()

    # Runs --------------------------------------------------------

    @checked
    def answer_logits(self, inputs: Inputs, image: Tensor | None = None) -> Tensor:
        """Logits (batch, vocabulary), float32, of the first answer token, by one forward pass; see `last_logits`.

        Raises:
            NotFinite: a row holds NaN or infinity
        """
        with MODEL_LOCK:
            return check_finite(self.name, self.last_logits(inputs, 1, image)[:, 0])

    @checked
    @torch.no_grad()
    def greedy_ids(
        self, inputs: Inputs, max_new_tokens: Count = 8, image: Tensor | None = None, begun: Tensor | None = None
    ) -> list[list[int]]:
        """Ids of the answers that the model itself gives: at each step the token of the largest logit.

        These are the very logits that are measured. A checkpoint's generation settings (beams, penalties, suppressed
        tokens) have no part in it: they would let another answer be judged than the one whose logits are read.

        Args:
            inputs: a batch
            max_new_tokens: at most so many
            image: (batch, image position, width), which replaces the `image_embeddings`
            begun: (batch, token), the first tokens of the answers, where they are known already

        Returns:
            the ids of each answer, without the token that ends it
        """
        if image is None and self.skips_vision_encoder:
            image = self.image_embeddings(inputs)
        found = inputs["input_ids"].new_empty(len(inputs["input_ids"]), 0) if begun is None else begun  # (batch, token)
        ends, images = self.stop_ids | self.image_ids, torch.tensor(sorted(self.image_ids), device=found.device)
        stop = torch.tensor(sorted(ends), device=found.device)
        other = next(token for token in (*sorted(self.stop_ids), *range(len(ends) + 1)) if token not in self.image_ids)
        while found.shape[1] < max_new_tokens and not torch.isin(found, stop).any(1).all():
            # Answers that have ended run on with the others of their batch.
            read = found.masked_fill(torch.isin(found, images), other)
            token = self.answer_logits(self.extend(inputs, read), image=image).argmax(-1, keepdim=True)
            found = torch.cat([found, token], dim=1)
        return [list(itertools.takewhile(lambda token: token not in ends, row)) for row in found.tolist()]

    @checked
    def answer_tokens(self, inputs: Inputs, max_new_tokens: Count = 8, image: Tensor | None = None) -> list[int]:
        """Ids of the answer that the model itself gives to one question: `greedy_ids` of a batch of 1."""
        return self.greedy_ids(inputs, max_new_tokens, image)[0]

    @checked
    def generate(self, inputs: Inputs, max_new_tokens: Count = 8) -> list[str]:
        """The answers of a batch by `greedy_ids`, as text without special tokens."""
        return self.spell_out(self.greedy_ids(inputs, max_new_tokens))

    @checked
    def spell_out(self, ids: Sequence[Sequence[int]]) -> list[str]:
        """The text of several answers' tokens, without special tokens and blanks around it."""
        return [text.strip() for text in self.tokenizer.batch_decode(list(map(list, ids)), skip_special_tokens=True)]

    @checked
    def trace(self, inputs: Inputs, sites: Sequence[Site] | None = None, image: Tensor | None = None) -> Trace:
        """Run one forward pass and keep activations.

        Args:
            inputs: a batch
            sites: whose activations are kept; None: all
            image: (batch, image position, width), which replaces the `image_embeddings`

        Returns:
            what the run left behind

        Raises:
            VlmtraceError: a site does not exist, or the forward pass does not reach it
        """
        trace = Trace(logits=torch.empty(0), image=image)
        sites = self.sites() if sites is None else [self.check_site(site) for site in sites]

        def keep(site: Site) -> Callable[[Tensor], None]:
            return lambda value: trace.activations.__setitem__(site, value.detach())

        def keep_input(block: str) -> Callable[[Tensor], None]:
            return lambda value: trace.layer_inputs.__setitem__(block, value.detach())

        points = [(self.hook_point(site), keep(site)) for site in sites]
        points += [(self.entry_point(block), keep_input(block)) for block in {s.block for s in sites}]
        with torch.no_grad(), attach_hooks(points, len(inputs["input_ids"])):
            trace.logits = self.answer_logits(inputs, image)
        missing = [site for site in sites if site not in trace.activations]
        if missing:
            raise VlmtraceError(
                f"The forward pass of {self.name} never reached {missing[0]}: this model is not supported."
            )
        return trace

    @checked
    def attention(self, inputs: Inputs, block: str, module: str) -> Tensor:
        """Attention weights of a block's module.

        Args:
            inputs: a batch
            block: its name
            module: "self_attention" or "cross_attention"

        Returns:
            (layer, batch, head, query, key), float32; rows sum to 1. Where a vision encoder works on tiles, the batch
            is that of all tiles

        Raises:
            VlmtraceError: the block does not exist, or its module gives no attention weights
        """
        found = self.blocks[one_of(block, self.blocks, f"block of {self.name}")]
        check_has_weights(self.name, found)
        one_of(module, found.attention_modules, f"attention of {block}")
        weights: list[Tensor] = []
        with MODEL_LOCK, torch.no_grad(), self.eager(), contextlib.ExitStack() as stack:
            for layer in range(found.n_layers):
                handle = self.attention_module(Site(block, module, layer)).register_forward_hook(
                    lambda _module, _args, output: weights.append(output[1].float().to(self.device))
                )
                stack.callback(handle.remove)
            self.answer_logits(inputs)
        return torch.stack(weights)

    def fingerprint(self) -> str:
        """Identifies the weights: a digest over every one's name, shape and all of its values.

        Two models that differ in one number have two fingerprints. It is the same wherever the parts of the model lie,
        and in every number type that holds the values as they are. Of quantized weights the values are those that
        their codes stand for. Reading all of them takes about a second for 10⁸ parameters, or a fraction of it
        where the processor has instructions for it.
        """
        digest = hashlib.sha256()
        for name, shape, values in weight_digests(self.hf):
            digest.update(f"{name} {shape}".encode())
            digest.update(values)
        return digest.hexdigest()[:16]


def inputs_of_pair(inputs: Inputs, pair: int, n_pairs: int) -> Inputs:
    """One pair's share of a batch.

    Some families lay the patches of all images in one row, so a share is more than one row of a tensor.

    Args:
        inputs: of a batch
        pair: its index in the batch
        n_pairs: how many the batch has

    Returns:
        what the model takes for this pair alone
    """
    return {
        name: value[pair * len(value) // n_pairs : (pair + 1) * len(value) // n_pairs] for name, value in inputs.items()
    }


def inputs_of_pairs(inputs: Inputs, pairs: Sequence[int], n_pairs: int) -> Inputs:
    """Some pairs' share of a batch, as `inputs_of_pair` for each.

    Args:
        inputs: of a batch
        pairs: their indices in the batch
        n_pairs: how many the batch has

    Returns:
        what the model takes for these pairs
    """
    if list(pairs) == list(range(n_pairs)):
        return inputs
    parts = [inputs_of_pair(inputs, pair, n_pairs) for pair in pairs]
    return {name: torch.cat([part[name] for part in parts]) for name in inputs}


def repeat_inputs(inputs: Inputs, n: int) -> Inputs:
    """The inputs of one pair or question n times: (1, …) becomes (n, …).

    Args:
        inputs: of batch 1
        n: how many times

    Returns:
        a batch of n
    """
    return {name: value.repeat(n, *[1] * (value.ndim - 1)) for name, value in inputs.items()}
