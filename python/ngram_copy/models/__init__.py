"""Sequence models in torch; importing this needs the extra ``torch``."""
