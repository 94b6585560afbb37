"""LIMe in a model that is there already: `attach` puts routers into a Hugging Face decoder, `detach` takes them out."""

from limelm.adapters.attachment import attach, detach

__all__ = ["attach", "detach"]
