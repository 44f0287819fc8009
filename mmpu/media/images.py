"""Images: one place that loads, bounds and fingerprints them.

An image is named by a path, which may lead into a zip file (`pictures.zip/7.png`), or by a `data:` URI. Its size is
read from the header and checked before a pixel is decoded, so a decompression bomb costs nothing but an error.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import math
import zipfile
from collections.abc import Generator, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mmpu import files
from mmpu.core import Message, Sample, UserError

if TYPE_CHECKING:
    from PIL.Image import Image

MAX_BYTES = 64 * 2**20
"""Largest file that is opened."""
MAX_PIXELS = 50_000_000
"""Largest picture that is decoded."""
MAX_ASPECT = 200
"""Longest side over shortest; beyond it image processors refuse or produce nonsense."""
THUMBNAIL = 320
"""Longest side of a picture on a page."""
ORIENTATION = 0x0112
"""The EXIF tag."""
BITS, SAMPLE_FORMAT = 258, 339
"""Tags of a TIFF: bits per sample, and 1 for whole numbers without a sign."""
FORMATS = ("PNG", "JPEG", "MPO", "WEBP", "GIF", "BMP", "DIB", "TIFF", "PPM", "AVIF", "ICO")
"""What is opened. Others are read by code that few look at, or by another program: of EPS, by Ghostscript."""
SIGNATURES = {b"\x89PNG": "png", b"\xff\xd8": "jpeg", b"GIF8": "gif", b"RIFF": "webp"}
"""How the files begin that endpoints read."""
STARTS = (*SIGNATURES, b"II*\0", b"MM\0*", b"BM")
"""How the files begin that the binary cells of a row may hold."""
SCALES = (1.0, 2.0**8 - 1, 2.0**16 - 1, 2.0**31 - 1, 2.0**32 - 1)
"""What is white in a picture of whole or real numbers: the least of these that holds them all."""


def image_bytes(data: str) -> bytes:
    """The file behind an image part; errors name the image (shortened, if it is inline)."""
    name = data if len(data) < 120 else f"{data[:60]}… ({len(data)} characters)"
    if data.startswith("data:"):
        header, _, body = data.partition(",")
        if not header.endswith(";base64"):
            raise UserError(f"image {name}: only base64 data URIs are read")
        if len(body) * 3 // 4 > MAX_BYTES:
            raise UserError(f"image {name}: larger than {MAX_BYTES >> 20} MiB")
        return _unwrapped(body, f"image {name}")
    if data.startswith(("http://", "https://")):
        raise UserError(f"image {name}: URLs are only fetched with --allow-urls; or download it and give its path")
    path = Path(data)
    member = ""
    archive = next((p for p in path.parents if p.suffix == ".zip" and files.is_file(p)), None)
    try:
        if archive is None:
            size = path.stat().st_size
        else:
            member = path.relative_to(archive).as_posix()
            size = _archive(str(archive)).getinfo(member).file_size
        if size > MAX_BYTES:
            raise UserError(f"image {name}: {size >> 20} MiB, more than {MAX_BYTES >> 20} MiB; shrink it")
        return files.content(path, MAX_BYTES) if archive is None else _archive(str(archive)).read(member)
    except (OSError, KeyError):
        raise UserError(f"image {name}: no such file; check the task's image path") from None
    except Exception as error:  # damaged, encrypted, packed in a way that zipfile does not read, a name that is none
        broken = f"{archive} is not a readable zip file" if archive else "not a file's name"
        raise UserError(f"image {name}: {broken} ({error})") from None


def _unwrapped(text: str, where: str) -> bytes:
    """What base64 stands for; MIME breaks it into lines."""
    try:
        return base64.b64decode("".join(text.split()), validate=True)
    except ValueError as error:
        raise UserError(f"{where}: not base64 ({error})") from None


@lru_cache(maxsize=16)
def _archive(path: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


def load_image(data: str) -> Image:
    """An RGB image, upright by its EXIF orientation; transparency is laid on white."""
    return _decode(image_bytes(data), data if len(data) < 120 else f"{data[:60]}…")[0]


def _decode(raw: bytes, name: str) -> tuple[Image, bool]:
    """The picture in a file, and whether any reader would see the same one."""
    try:
        image = _opened(raw)
        return normalised(image, name), _plain(image)
    except UserError:
        raise
    except Exception as error:  # whatever a decoder makes of a damaged file
        raise UserError(f"image {name}: not readable as a picture ({error}); replace or remove it") from None


def _opened(raw: bytes) -> Image:
    """A picture before it is decoded; only formats that Pillow itself reads, whatever the file's name is."""
    import warnings

    from PIL import Image

    Image.init()
    with warnings.catch_warnings():
        # Pillow warns near its own bomb limit; ours is lower and an error.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(raw), formats=[name for name in FORMATS if name in Image.OPEN])


def _plain(image: Image) -> bool:
    """Upright, opaque, one frame, eight bits of what screens show: of an animation readers take other frames, and of
    ink (CMYK) other colours."""
    upright = image.getexif().get(ORIENTATION, 1) == 1
    moving = getattr(image, "is_animated", False)
    return upright and not moving and not _transparent(image) and image.mode in ("1", "L", "P", "RGB")


def _transparent(image: Image) -> bool:
    return image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info


def normalised(image: Image, name: str) -> Image:
    """A picture as models see it: within our bounds, upright, RGB, on white. The bounds are checked before decoding.

    Raises:
        UserError: it is too large or too elongated.
        OSError: it cannot be decoded.
    """
    from PIL import Image, ImageOps

    width, height = image.size
    if width * height > MAX_PIXELS:
        raise UserError(f"image {name}: {width}×{height} pixels, more than {MAX_PIXELS:,}; shrink it")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"image {name}: {width}×{height} is too elongated; crop it")
    tags: Mapping[int, Any] = getattr(image, "tag_v2", {})
    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = _eight_bits(image, unsigned=tags.get(BITS) == (32,) and tags.get(SAMPLE_FORMAT, (1,)) == (1,))
    if _transparent(image):
        rgba = image.convert("RGBA")
        image = Image.new("RGB", rgba.size, (255, 255, 255))
        image.paste(rgba, mask=rgba.getchannel("A"))
    return image.convert("RGB")


def _eight_bits(image: Image, *, unsigned: bool) -> Image:
    """A grey picture of 16 or 32 bits, whole or real numbers, scaled to 8; Pillow would clip it.

    Sixteen bits are scaled by their range. Wider ones do not say what is white, so that is the least of `SCALES` that
    holds all they hold.

    Args:
        unsigned: Whether the file's whole numbers of 32 bits have no sign, which Pillow has no mode for.
    """
    import numpy as np
    from PIL import Image

    found = np.asarray(image)
    values = np.nan_to_num((found.view(np.uint32) if unsigned and image.mode == "I" else found).astype(np.float64))
    low = min(0.0, float(values.min()))
    span = float(values.max()) - low
    usual = (SCALES[2],) if image.mode.startswith("I;16") else SCALES[1:] if image.mode == "I" else SCALES
    white = next((scale for scale in usual if span <= scale), span)
    scaled = (values - low) * (256 / (white + 1) if white > 1 else 255)
    return Image.fromarray(np.minimum(scaled, 255).astype(np.uint8))


def image_size(data: str) -> tuple[int, int]:
    """Width and height of an image file in pixels, from its header."""
    raw = image_bytes(data)
    try:
        with _opened(raw) as image:
            return image.size
    except Exception as error:  # whatever a decoder makes of a damaged file
        name = data if len(data) < 120 else f"{data[:60]}…"
        raise UserError(f"image {name}: not readable as a picture ({error}); replace or remove it") from None


def pixels(data: str) -> int:
    """Width times height as the file's header says, 0 if it says nothing; whoever loads it says what is wrong."""
    try:
        width, height = image_size(data)
    except UserError:
        return 0
    return width * height


def data_uri(image: Image) -> str:
    """A picture as a lossless PNG data URI."""
    return _uri("png", _encoded(normalised(image, "in memory"), "PNG"))


@lru_cache(maxsize=1024)
def thumbnail(data: str, side: int = THUMBNAIL) -> str:
    """A small copy of a picture for pages, at most `side` pixels high and wide, as a WebP data URI.

    Raises:
        UserError: it cannot be read.
    """
    image = load_image(data)
    image.thumbnail((side, side))
    return _uri("webp", _encoded(image, "WEBP", quality=80))


def named_picture(value: object, where: str) -> object:
    """A picture as a row may hold it, as something that a part can name: PIL's, the bytes of a file, or `{bytes, path}`
    as the datasets library has it undecoded (in JSON, bytes are base64); anything else as it is.

    Raises:
        UserError: names `where`.
    """
    if isinstance(value, bytes) and value.startswith(STARTS):
        return _uri(_kind(value) or "unknown", value)
    fields = cast(dict[str, Any], value) if isinstance(value, dict) else {}
    if set(fields) == {"bytes", "path"}:
        raw = fields["bytes"]
        if isinstance(raw, str):  # JSON holds no bytes
            raw = image_bytes(raw) if raw.startswith("data:") else _unwrapped(raw, where)
        if raw is not None and not isinstance(raw, bytes):
            raise UserError(f"{where}: `bytes` of a picture are base64, not {raw!r:.80}")
        return fields["path"] if raw is None else _uri(_kind(raw) or "unknown", raw)
    if type(value).__module__.startswith("PIL."):
        try:
            return data_uri(cast("Image", value))
        except (UserError, OSError, ValueError, SyntaxError) as error:
            raise UserError(f"{where}: not usable as a picture ({error})") from None
    return value


def _kind(raw: bytes) -> str | None:
    return next((name for start, name in SIGNATURES.items() if raw.startswith(start)), None)


def inline_uri(data: str, most: int) -> tuple[str, bool]:
    """An image part as a data URI that every endpoint reads alike, of at most `most` bytes before base64.

    The file itself where it will do; else a PNG; else a JPEG of quality 90, scaled down as far as needed.

    Returns:
        The URI, and whether the picture lost something.
    """
    return _inline_uri(data, most, _stamp(data))


@lru_cache(maxsize=16)
def _inline_uri(data: str, most: int, stamp: tuple[int, int] | None) -> tuple[str, bool]:
    raw = image_bytes(data)
    image, plain = _decode(raw, data if len(data) < 120 else f"{data[:60]}…")
    kind = _kind(raw)
    if kind and plain and len(raw) <= most:
        return _uri(kind, raw), False
    if len(png := _encoded(image, "PNG")) <= most:
        return _uri("png", png), False
    while len(jpeg := _encoded(image, "JPEG", quality=90)) > most:
        scale = min(0.9, math.sqrt(most / len(jpeg)))
        image = image.resize((max(1, int(image.width * scale)), max(1, int(image.height * scale))))
    return _uri("jpeg", jpeg), True


def _encoded(image: Image, kind: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


def _uri(kind: str, raw: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(raw).decode()


@contextlib.contextmanager
def named(sample: Sample) -> Generator[None]:
    """Puts a sample's id in front of what is wrong with its images."""
    try:
        yield
    except UserError as error:
        raise UserError(f"sample {sample.id!r}: {error}") from None


def _stamp(data: str) -> tuple[int, int] | None:
    """Changes when a file does; None for what is inline or inside an archive."""
    if data.startswith("data:"):
        return None
    try:
        stat = Path(data).stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size


@lru_cache(maxsize=65536)
def _fingerprint(data: str, stamp: tuple[int, int] | None) -> str:
    return hashlib.sha256(image_bytes(data)).hexdigest()[:16]


def fingerprint(data: str) -> str:
    """The content hash of an image file; re-read only if the file changed."""
    return _fingerprint(data, _stamp(data))


def prompt_key(prompt: Iterable[Message]) -> list[object]:
    """The canonical form of a prompt for hashing; images enter by content, not by name."""

    def key(m: Message) -> list[object]:
        parts = [[p.kind, p.data if p.kind == "text" else fingerprint(p.data)] for p in m.parts]
        return [m.role, parts, *([m.more] if m.more else [])]

    return [key(message) for message in prompt]
