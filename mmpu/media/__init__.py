"""Pictures: opened, bounded, hashed, sent and fetched."""

from mmpu.media.download import local
from mmpu.media.images import (
    data_uri,
    fingerprint,
    image_size,
    inline_uri,
    load_image,
    named,
    named_picture,
    prompt_key,
    thumbnail,
)

__all__ = [
    "data_uri",
    "fingerprint",
    "image_size",
    "inline_uri",
    "load_image",
    "local",
    "named",
    "named_picture",
    "prompt_key",
    "thumbnail",
]
