"""Models with a planted prior, so that the truth is known: `python -m vlmtrace.training.prior`.

A copy of a bundled model is trained further in a world in which nine of ten crosses are pink. Another copy, the
control, is trained for as long and in the same way in a world in which every thing has every color equally often. A
study of language priors should find the first one's and none in the second.

- `world`: how often which thing has which color
- `stream`: pictures of such a world, some of them faded, and questions about them
- `further`: the training of the small models
- `card`: what they answer where nothing can be seen, and what is saved
- `smol`: the training of smol-llava, by an adapter of its upper layers
- `smol_card`: what is measured and saved of it
"""
