"""Families that are refused by name, with the reason: what no question can be put to, or read in the way of others."""

from vlmtrace.models.families.spec import UnsupportedFamily

UNSUPPORTED = [
    UnsupportedFamily(
        "diffusion_gemma", "Diffusion Gemma", "which writes an answer in many passes instead of token by token"
    ),
    UnsupportedFamily("evolla", "Evolla", "which answers about proteins, and reads no image"),
    UnsupportedFamily("pi0", "π₀", "which moves a robot, and gives no words"),
    UnsupportedFamily("mistral4", "Mistral 4", "which reads no image"),
    UnsupportedFamily("shieldgemma2", "ShieldGemma 2", "which classifies images, and gives no words"),
    UnsupportedFamily("pp_formulanet", "PP-FormulaNet", "which writes down formulas, and is asked nothing"),
    UnsupportedFamily(
        "vilt",
        "ViLT",
        "which chooses among labels of its own, so that no answer has tokens, and puts an image's patches in another "
        "order in every run",
    ),
]
