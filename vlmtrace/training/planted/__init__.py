"""Models whose circuit is known, since their weights were set by hand: `python -m vlmtrace.training.planted`.

They answer "Is this circle red or blue?" about the bundled world's pictures with two things: read the color at the
named thing, and say it if it is one of the two options, "neither" if it is not. The eyes are a bundled model's trained
vision encoder; everything behind the image's tokens is set by hand. Nodes that are not in the circuit look at the same
places as those that are, and write where nobody reads.

stream   which rows of the residual stream carry what
plan     heads and mlps as what they look for and what they move; what distracts
circuits the three circuits: a chain, a backup, a head that works against
words    embeddings of words, and the rows that make logits
eyes     what tells noun and color of a patch, from the vision encoder's embeddings
llava    weights of a LLaVA from a circuit
blip     weights of a BLIP from a circuit
meaning  what a circuit answers, and what where one of its variables is another run's
proof    interchange accuracy of planted nodes, effects of all others
known    circuit.json
card     what lies beside the weights: the processor, circuit.json and the model card
"""
