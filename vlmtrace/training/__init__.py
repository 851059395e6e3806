"""How the bundled models were trained, from random weights: `python -m vlmtrace.training tiny-blip`.

- `recipe`: which models there are, and what their training depends on
- `loop`: the training itself
- `tiny_blip`, `tiny_llava`: architecture, tokens and a fast forward pass of each, as `trainable` asks for them
- `data`, `losses`, `score`, `model_card`: what is learnt from, what is minimised, what is measured, what is saved
- `smol`: a pretrained language model that learns to see
- `planted`: models whose circuit is known
- `prior`: models with a planted prior, trained further from bundled ones

Nothing else imports this room: a bundled model is used from its saved weights.
"""
