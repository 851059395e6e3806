"""How the bundled models were trained. `python -m vlmtrace.training tiny-blip`"""
