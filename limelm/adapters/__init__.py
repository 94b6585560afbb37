"""LIMe routers in a pretrained model: attach them, train them, save and load them, and take them out again."""

from limelm.adapters.attachment import attach, attachment_of, detach
from limelm.adapters.files import load_adapter, save_adapter
from limelm.adapters.trainable import set_trainable

__all__ = ["attach", "attachment_of", "detach", "load_adapter", "save_adapter", "set_trainable"]
