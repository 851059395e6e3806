"""From a table's row to tensors.

corruption      which image and prompt each run of a pair has
pictures        the images of a pair: one, or several that its prompt asks about together
words           where words begin and end in a prompt, in any script
token_roles     what each token is in its prompt: the correct option, the noun, punctuation, …
image_regions   which image tokens show the object, the distractor or neither, and which differ within a pair
image_tokens    the mean image token
pair_rows       what a row says before a model looks at it: whether it can be a pair, and which corruptions it has
alignment       whether every position of a model stands for the same place in both images of a pair
rewording       the same pairs under other questions
same_size       the corrupt image in the size of the clean one
encodable       whether an image and a prompt can be a model's inputs
boxes           a box of the clean image, filled with what the corrupt image shows or covered
units           which pairs are independent of each other
pair_runs       clean and corrupt run of pairs, side by side
batching        pairs of equal shape go through the model together
"""

import lazy_loader as lazy

__getattr__, __dir__, __all__ = lazy.attach_stub(__name__, __file__)
