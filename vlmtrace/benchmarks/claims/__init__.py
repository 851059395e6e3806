"""Claims of published work on vision-language models, measured on the bundled ones, each beside its control."""
