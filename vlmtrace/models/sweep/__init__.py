"""The exact fast sweep over many patches, its hooked reference, and the check when a model loads."""
