"""Images: one place that loads, bounds and fingerprints them.

An image is named by a path, which may lead into a zip file (`pictures.zip/7.png`), or by a `data:` URI. Its size is
read from the header and checked before a pixel is decoded, so a decompression bomb costs nothing but an error.
"""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
import zlib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mmpu.core import Message, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 64 * 2**20
"""Largest file that is opened."""
MAX_PIXELS = 50_000_000
"""Largest picture that is decoded."""
MAX_ASPECT = 200
"""Longest side over shortest; beyond it image processors refuse or produce nonsense."""


def image_bytes(data: str) -> bytes:
    """The file behind an image part; errors name the image (shortened, if it is inline)."""
    name = data if len(data) < 120 else f"{data[:60]}… ({len(data)} characters)"
    if data.startswith("data:"):
        header, _, body = data.partition(",")
        if not header.endswith(";base64"):
            raise UserError(f"image {name}: only base64 data URIs are read")
        if len(body) * 3 // 4 > MAX_BYTES:
            raise UserError(f"image {name}: larger than {MAX_BYTES >> 20} MiB")
        try:
            return base64.b64decode(body, validate=True)
        except ValueError as error:
            raise UserError(f"image {name}: not base64 ({error})") from None
    if data.startswith(("http://", "https://")):
        raise UserError(f"image {name}: URLs are not fetched; download the file and give its path")
    path = Path(data)
    member = ""
    archive = next((p for p in path.parents if p.suffix == ".zip" and p.is_file()), None)
    try:
        if archive is None:
            size = path.stat().st_size
        else:
            member = path.relative_to(archive).as_posix()
            size = _archive(str(archive)).getinfo(member).file_size
        if size > MAX_BYTES:
            raise UserError(f"image {name}: {size >> 20} MiB, more than {MAX_BYTES >> 20} MiB; shrink it")
        return path.read_bytes() if archive is None else _archive(str(archive)).read(member)
    except (OSError, KeyError):
        raise UserError(f"image {name}: no such file; check the task's image path") from None
    except (zipfile.BadZipFile, zlib.error, RuntimeError) as error:  # the last where it is encrypted
        raise UserError(f"image {name}: {archive} is not a readable zip file ({error})") from None


@lru_cache(maxsize=16)
def _archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def load_image(data: str) -> Image:
    """An RGB image, upright by its EXIF orientation; transparency is laid on white."""
    import warnings

    from PIL import Image, ImageOps, UnidentifiedImageError

    name = data if len(data) < 120 else f"{data[:60]}…"
    raw = image_bytes(data)
    try:
        with warnings.catch_warnings():
            # Pillow warns near its own bomb limit; ours is lower and an error.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(raw))
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise UserError(f"image {name}: {width}×{height} pixels, more than {MAX_PIXELS:,}; shrink it")
        if max(width, height) > MAX_ASPECT * min(width, height):
            raise UserError(f"image {name}: {width}×{height} is too elongated; crop it")
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I;16"):  # Pillow would clip to 8 bits, not scale
            image = image.point(lambda value: value / 256).convert("L")
        if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
            rgba = image.convert("RGBA")
            image = Image.new("RGB", rgba.size, (255, 255, 255))
            image.paste(rgba, mask=rgba.getchannel("A"))
        return image.convert("RGB")
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise UserError(f"image {name}: not readable as a picture ({error}); replace or remove it") from None


def image_size(data: str) -> tuple[int, int]:
    """Width and height of an image file in pixels, from its header."""
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(image_bytes(data))) as image:
            return image.size
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        name = data if len(data) < 120 else f"{data[:60]}…"
        raise UserError(f"image {name}: not readable as a picture ({error}); replace or remove it") from None


def data_uri(image: Image) -> str:
    """A picture as a lossless PNG data URI."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=False)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


@lru_cache(maxsize=65536)
def _fingerprint(data: str, stamp: tuple[int, int] | None) -> str:
    return hashlib.sha256(image_bytes(data)).hexdigest()[:16]


def fingerprint(data: str) -> str:
    """The content hash of an image file; re-read only if the file changed."""
    if data.startswith("data:"):
        return _fingerprint(data, None)
    try:
        stat = Path(data).stat()
    except OSError:
        return _fingerprint(data, None)
    return _fingerprint(data, (stat.st_mtime_ns, stat.st_size))


def prompt_key(prompt: Iterable[Message]) -> list[object]:
    """The canonical form of a prompt for hashing; images enter by content, not by name."""
    return [[m.role, [[p.kind, p.data if p.kind == "text" else fingerprint(p.data)] for p in m.parts]] for m in prompt]
