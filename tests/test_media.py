"""Images: whatever a file holds, the answer is an upright RGB picture or one clear error, and never much memory."""

from __future__ import annotations

import base64
import io
import struct
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mmpu.core import Message, Part, UserError, user
from mmpu.media.images import MAX_PIXELS, data_uri, fingerprint, image_bytes, inline_uri, load_image, prompt_key


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def uri(raw: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(raw).decode()


def gradient(width: int = 12, height: int = 8) -> Image.Image:
    return Image.merge("RGB", [Image.linear_gradient("L").rotate(90 * i).resize((width, height)) for i in range(3)])


def png_header(width: int, height: int) -> bytes:
    """A PNG whose header promises a size, with no more pixels behind it than fit in a line."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def test_a_picture_survives_the_trip_through_a_data_uri() -> None:
    image = gradient()
    loaded = load_image(data_uri(image))
    assert (loaded.mode, loaded.size, loaded.tobytes()) == ("RGB", image.size, image.tobytes())


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF"])
def test_common_formats_load(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "picture"
    file.write_bytes(encoded(gradient(), kind))
    assert (load_image(str(file)).size, load_image(str(file)).mode) == ((12, 8), "RGB")


def test_exif_orientation_is_applied() -> None:
    image = Image.new("RGB", (20, 10), "red")
    image.paste("blue", (0, 0, 10, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90° clockwise
    loaded = load_image(uri(encoded(image, "PNG", exif=exif)))
    assert loaded.size == (10, 20)
    assert (loaded.getpixel((5, 2)), loaded.getpixel((5, 17))) == ((0, 0, 255), (255, 0, 0))


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("RGBA", (4, 4), (255, 0, 0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (255, 0, 0, 255)), (255, 0, 0)),
        (Image.new("RGBA", (4, 4), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new("L", (4, 4), 90), (90, 90, 90)),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("I;16", (4, 4), 0x4000), (64, 64, 64)),
    ],
)
def test_every_mode_becomes_rgb_on_white(image: Image.Image, colour: tuple[int, int, int]) -> None:
    loaded = load_image(uri(encoded(image)))
    assert (loaded.mode, loaded.getpixel((1, 1))) == ("RGB", colour)


def test_a_transparent_palette_is_laid_on_white() -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 0, 0, 255, 0, 0])
    assert load_image(uri(encoded(image, "PNG", transparency=0))).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere/7.png", "image nowhere/7.png: no such file"),
        ("", "no such file"),
        ("https://example.org/7.png", "URLs are only fetched with --allow-urls"),
        ("data:image/png,abc", "only base64 data URIs are read"),
        ("data:image/png;base64,*", "not base64"),
        ("data:image/png;base64,é===", "not base64"),
        (uri(b"GIF8, but no more"), "not readable as a picture"),
        (uri(b""), "not readable as a picture"),
        (uri(encoded(gradient(40, 40))[:-30]), "not readable as a picture"),
        (uri(encoded(gradient(), "JPEG")[:200]), "not readable as a picture"),
        (uri(encoded(Image.new("L", (201, 1)))), "201×1 is too elongated"),
    ],
)
def test_what_is_no_picture_is_refused_and_named_briefly(data: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        load_image(data)
    assert message in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("side", [8_000, 60_000, 2**31 - 1])
def test_a_bomb_is_refused_by_its_header(side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("a pixel was decoded")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", decode)
    assert side * side > MAX_PIXELS
    with pytest.raises(UserError, match=r"more than 50,000,000|not readable as a picture"):
        load_image(uri(png_header(side, side)))


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="larger than 64 MiB"):
        image_bytes("data:image/png;base64," + "A" * 90_000_000)
    file = tmp_path / "huge.png"
    with file.open("wb") as stream:
        stream.truncate(65 * 2**20)
    with pytest.raises(UserError, match="65 MiB, more than 64 MiB"):
        image_bytes(str(file))


def test_a_member_of_a_zip_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/7.png", encoded(gradient()))
        archive.writestr("a/huge.png", bytes(65 * 2**20))
    assert load_image(f"{tmp_path}/all.zip/a/7.png").size == (12, 8)
    with pytest.raises(UserError, match=r"all\.zip/a/8\.png: no such file"):
        load_image(f"{tmp_path}/all.zip/a/8.png")
    with pytest.raises(UserError, match="more than 64 MiB"):
        load_image(f"{tmp_path}/all.zip/a/huge.png")


def test_a_broken_zip_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "not.zip").write_bytes(b"PK, but no more")
    with pytest.raises(UserError, match=r"not\.zip is not a readable zip file"):
        load_image(f"{tmp_path}/not.zip/7.png")
    with zipfile.ZipFile(tmp_path / "bad.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("7.png", encoded(Image.effect_noise((40, 40), 50)))
    raw = bytearray((tmp_path / "bad.zip").read_bytes())
    raw[60:90] = bytes(30)
    (tmp_path / "bad.zip").write_bytes(raw)
    with pytest.raises(UserError, match=r"bad\.zip is not a readable zip file"):
        load_image(f"{tmp_path}/bad.zip/7.png")


FILES = [encoded(gradient(), kind) for kind in ("PNG", "JPEG", "GIF", "WEBP", "BMP", "TIFF")]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.sampled_from(FILES),
    st.lists(st.tuples(st.integers(0, 200), st.integers(0, 255)), max_size=4),
    st.integers(0, 60),
)
def test_a_damaged_file_gives_a_picture_or_a_user_error(raw: bytes, changes: list[tuple[int, int]], cut: int) -> None:
    damaged = bytearray(raw)
    for place, value in changes:
        damaged[place % len(raw)] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on damage
        try:
            image = load_image(uri(bytes(damaged[: len(damaged) - cut])))
        except UserError:
            return
    assert image.mode == "RGB"
    assert image.width * image.height <= MAX_PIXELS


# -----------------------------------------------------------------------------------------------------------------
# what is sent to an endpoint


def ramp(mode: str, top: float, bottom: float = 0.0) -> Image.Image:
    """A row of four values of a mode, the last of them `top`."""
    kind = {"I": np.int32, "F": np.float32, "I;16": np.uint16}[mode]
    return Image.fromarray(np.linspace(bottom, top, 4).astype(kind).reshape(1, 4).repeat(2, axis=0))


MOVING = {"save_all": True, "append_images": [Image.new("RGB", (4, 4), "blue")], "duration": 100}


@pytest.mark.parametrize(
    ("raw", "colour"),
    [
        (encoded(Image.new("RGB", (4, 4), "red"), "GIF", **MOVING), (255, 0, 0)),
        (encoded(Image.new("RGB", (4, 4), "red"), "PNG", **MOVING), (255, 0, 0)),
        (encoded(Image.new("RGB", (4, 4), "red"), "WEBP", lossless=True, **MOVING), (255, 0, 0)),
        (encoded(Image.new("CMYK", (4, 4), (0, 200, 200, 0)), "JPEG", quality=100), (255, 55, 55)),
        (encoded(Image.new("L", (4, 4), 90), "TIFF"), (90, 90, 90)),
        (encoded(ramp("I;16", 65535), "PNG"), (255, 255, 255)),
        (encoded(ramp("I;16", 40000), "TIFF"), (156, 156, 156)),
        (encoded(ramp("I", 60000), "TIFF"), (234, 234, 234)),
        (encoded(ramp("I", 200), "TIFF"), (200, 200, 200)),
        (encoded(ramp("I", 2**30), "TIFF"), (128, 128, 128)),
        (encoded(ramp("I", 100, -100), "TIFF"), (200, 200, 200)),
        (encoded(ramp("F", 0.5), "TIFF"), (127, 127, 127)),
        (encoded(ramp("F", 1.0), "TIFF"), (255, 255, 255)),
        (encoded(ramp("F", 2.0), "TIFF"), (2, 2, 2)),
        (encoded(ramp("F", np.nan), "TIFF"), (0, 0, 0)),
    ],
)
def test_what_readers_show_differently_is_sent_as_a_png(raw: bytes, colour: tuple[int, int, int]) -> None:
    sent, lossy = inline_uri(uri(raw), 1 << 20)
    assert (sent[:22], lossy) == ("data:image/png;base64,", False)
    shown = load_image(sent)
    assert shown.tobytes() == load_image(uri(raw)).tobytes(), "a student sees the same"
    assert np.abs(np.subtract(shown.getpixel((3, 1)), colour)).max() <= 1, "JPEG rounds"


def test_whole_numbers_without_a_sign_keep_their_upper_half() -> None:
    signed = encoded(Image.fromarray(np.array([[0, 2**31, 2**32 - 1]], np.uint32).view(np.int32)), "TIFF")
    entry = struct.pack("<HHI", 339, 3, 1)  # the tag SampleFormat, one short number
    assert entry + b"\2" in signed
    raw = signed.replace(entry + b"\2", entry + b"\1")
    assert [load_image(uri(raw)).getpixel((x, 0)) for x in range(3)] == [(0,) * 3, (128,) * 3, (255,) * 3]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP"])
def test_what_all_show_alike_is_sent_as_it_is(kind: str) -> None:
    raw = encoded(gradient(), kind)
    assert inline_uri(uri(raw), 1 << 20) == (
        f"data:image/{kind.lower()};base64,{base64.b64encode(raw).decode()}",
        False,
    )


def test_base64_may_be_broken_into_lines() -> None:
    wrapped = "data:image/png;base64," + base64.encodebytes(encoded(gradient(60, 40))).decode().replace("\n", "\r\n")
    assert "\r\n" in wrapped[22:].strip()
    assert image_bytes(wrapped) == encoded(gradient(60, 40))
    assert "\n" not in inline_uri(wrapped, 1 << 20)[0]


# -----------------------------------------------------------------------------------------------------------------
# fingerprints


def test_a_prompt_is_known_by_its_content_not_by_its_file_names(tmp_path: Path) -> None:
    for name, colour in (("a.png", "red"), ("b.png", "red"), ("c.png", "blue")):
        (tmp_path / name).write_bytes(encoded(Image.new("RGB", (4, 4), colour)))
    a, b, c = (prompt_key(user(Part("image", str(tmp_path / name)), "q")) for name in ("a.png", "b.png", "c.png"))
    assert a == b != c
    assert a == prompt_key(user(Part("image", uri((tmp_path / "a.png").read_bytes())), "q"))
    assert a != prompt_key(user("q", Part("image", str(tmp_path / "a.png"))))
    assert a != prompt_key((Message("system", user(Part("image", str(tmp_path / "a.png")), "q")[0].parts),))


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(encoded(Image.new("RGB", (4, 4), "red")))
    before = fingerprint(str(file))
    file.write_bytes(encoded(Image.new("RGB", (8, 4), "red")))
    assert fingerprint(str(file)) != before
