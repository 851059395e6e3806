"""Models with a planted prior, so that the truth is known: `python -m vlmtrace.training.prior`.

A copy of a bundled model is trained further in a world in which nine of ten crosses are pink. Another copy, the
control, is trained for as long and in the same way in a world in which every thing has every color equally often. A
study of language priors should find the first one's and none in the second.

- `world`: how often which thing has which color
- `stream`: pictures of such a world, some of them faded, and questions about them
- `further`: the training
- `card`: what the model answers where nothing can be seen, and what is saved
"""
