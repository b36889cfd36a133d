"""Image files for prediction."""

import io
import os
import re
import signal
import struct
import threading
import time
import tracemalloc
import warnings
import zlib
from contextlib import suppress

import numpy as np
import pytest
from PIL import Image, ImageOps

from bitnet.datasets import DataError, images, load_svhn, prepare_for, prepare_image
from bitnet.datasets.images import fitted, open_rgb, resize, square_crop


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)


def save(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.filterwarnings("ignore:.*a subset")
def test_a_crop_becomes_what_training_sees(tmp_path, write_mat):
    images = write_mat(tmp_path)
    digits = load_svhn(tmp_path, "train")
    path = save(tmp_path, Image.fromarray(images[4]))
    assert np.array_equal(prepare_image(path), digits.images[4])
    assert np.array_equal(prepare_image(str(path)), digits.images[4])


def test_larger_pictures_go_through_32(tmp_path):
    large = Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 90, 3), np.uint8))
    expected = large.resize((32, 32), Image.Resampling.BICUBIC).resize((40, 40), Image.Resampling.BILINEAR)
    assert np.array_equal(prepare_image(save(tmp_path, large)), expected)


def test_prepared_pictures_stay(tmp_path, picture):
    prepared = resize(picture[None], 40)[0]
    assert np.array_equal(prepare_image(save(tmp_path, Image.fromarray(prepared))), prepared)
    assert np.array_equal(prepare_image(save(tmp_path, Image.fromarray(picture)), size=32), picture)


def test_nothing_is_stretched(tmp_path):
    tall = np.zeros((64, 20, 3), np.uint8)
    tall[:, :, 0] = 50
    tall[24:40, 2:18, 1] = 255  # a square of 16 x 16, a quarter of the height
    green = prepare_image(save(tmp_path, Image.fromarray(tall)))[..., 1] > 127
    assert green.any(0).sum() == green.any(1).sum() == 10
    assert np.array_equal(green, green[:, ::-1])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "I;16", "F"])
def test_any_mode(tmp_path, mode):
    grey = np.tile(np.where(np.arange(40) < 20, 0, 255).astype(np.uint8), (40, 1))
    if mode in ("I", "I;16"):
        image = Image.fromarray(np.where(grey, 65535, 0).astype({"I": np.int32, "I;16": np.uint16}[mode]))
    elif mode == "F":
        image = Image.fromarray((grey / 255).astype(np.float32))
    else:
        image = Image.fromarray(grey).convert("RGB").convert(mode)
    assert image.mode == mode
    path = save(tmp_path, image, "a.tif" if mode in ("F", "I", "CMYK", "YCbCr") else "a.png")
    pixels = prepare_image(path)
    assert pixels.shape == (40, 40, 3) and pixels.dtype == np.uint8
    assert pixels[:, :18].max() <= 2 and pixels[:, 22:].min() >= 253


def test_transparency_lies_on_white(tmp_path):
    image = Image.new("RGBA", (40, 40), (0, 0, 0, 0))
    assert prepare_image(save(tmp_path, image)).min() == 255


def test_exif_orientation(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    path = save(tmp_path, Image.fromarray(picture), exif=exif)
    turned = save(tmp_path, Image.fromarray(np.rot90(picture, -1).copy()), "b.png")
    assert np.array_equal(prepare_image(path), prepare_image(turned))


def test_not_an_image(tmp_path, picture):
    with pytest.raises(DataError, match="expected an image file, found nothing"):
        prepare_image(tmp_path / "none.png")
    with pytest.raises(DataError, match="expected an image file, found a folder"):
        prepare_image(tmp_path)
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    whole = save(tmp_path, Image.fromarray(picture)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[:500])
    for name in ("text.png", "empty.png", "cut.png"):
        with pytest.raises(DataError, match=f"{name}: expected an image that Pillow can read"):
            prepare_image(tmp_path / name)


# --- any shape, any size -------------------------------------------------------------------------------------------


def padded_crop(image, left, top, width, height):
    """square_crop, with the whole square in memory."""
    side = max(width, height)
    columns, rows = left + (width - side + 1) // 2 + np.arange(side), top + (height - side + 1) // 2 + np.arange(side)
    square = image[rows.clip(0, image.shape[0] - 1)[:, None], columns.clip(0, image.shape[1] - 1)]
    return np.asarray(Image.fromarray(square).resize((32, 32), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(("height", "width", "box"), [
    (30, 50, (0, 0, 50, 30)), (50, 31, (0, 0, 31, 50)), (30, 50, (-7, 3, 20, 11)), (30, 50, (40, 20, 30, 45)),
    (700, 900, (0, 0, 900, 700)), (20, 3000, (0, 0, 3000, 20)), (50, 6000, (0, 0, 6000, 50)),
    (3000, 21, (0, 0, 21, 3000)), (5, 5, (2, 2, 1, 1)),
])  # fmt: skip
def test_ordinary_pictures_keep_their_bits(height, width, box):
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    assert np.array_equal(square_crop(image, *box), padded_crop(image, *box))


@pytest.mark.parametrize("size", [(40_000, 20), (20, 40_000), (20_000, 300)])
def test_a_long_picture_costs_no_more_than_a_square_one(tmp_path, size):
    path = save(tmp_path, Image.linear_gradient("L").resize(size))
    tracemalloc.start()  # 4.8 GB for the square of 40,000
    start = time.perf_counter()
    pixels = prepare_image(path, 32)
    assert time.perf_counter() - start < 10 and tracemalloc.get_traced_memory()[1] < 300e6
    tracemalloc.stop()
    side, column = max(size), np.asarray(Image.open(path).convert("RGB"))[:, :1]  # all columns are equal
    rows = ((size[1] - side + 1) // 2 + np.arange(side)).clip(0, size[1] - 1)
    assert np.array_equal(pixels, Image.fromarray(column[rows]).resize((32, 32), Image.Resampling.BICUBIC))


def test_a_long_picture_that_stands_is_a_rounding_apart():
    image = np.random.default_rng(0).integers(0, 256, (6000, 50, 3), np.uint8)
    assert np.abs(square_crop(image, 0, 0, 50, 6000).astype(int) - padded_crop(image, 0, 0, 50, 6000)).max() <= 1


def test_boxes_of_any_size_cost_little():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    assert square_crop(image, -500_000, 7, 1_000_000, 5).shape == (32, 32, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_photograph_of_200_megapixels(tmp_path, suffix):
    image = Image.new("L", (20_000, 10_000), 200)
    image.paste(30, (0, 0, 10_000, 10_000))
    path = save(tmp_path, image, f"a.{suffix}", **({"compress_level": 1} if suffix == "png" else {}))
    del image
    limit = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pixels = prepare_image(path)
    assert Image.MAX_IMAGE_PIXELS == limit
    assert (np.abs(pixels[:, :18].astype(int) - 30) <= 2).all() and (np.abs(pixels[:, 22:].astype(int) - 200) <= 2).all()


def chunk(name, content):
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def test_a_picture_that_claims_to_be_larger_is_not_decoded(tmp_path):
    head = struct.pack(">2I5B", 100_000, 100_000, 8, 2, 0, 0, 0)
    packed = zlib.compress(bytes(10_000_000))
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"a.png: expected .*found .*"):
        prepare_image(tmp_path / "a.png")


@pytest.mark.parametrize("mode", ["1", "P", "RGBA", "I;16", "F", "CMYK", "RGB"])
@pytest.mark.parametrize("pixels", [None, 500])
def test_bands_of_a_picture_make_the_whole(tmp_path, monkeypatch, mode, pixels):
    grey = np.random.default_rng(0).integers(0, 256, (90, 70))
    image = Image.fromarray(grey.astype({"I;16": np.uint16, "F": np.float32}.get(mode, np.uint8)))
    path = save(tmp_path, image if mode in ("I;16", "F") else image.convert(mode), "a.tif")
    whole = np.asarray(open_rgb(path, pixels=pixels))
    monkeypatch.setattr(images, "_BAND", 1000)
    assert np.array_equal(open_rgb(path, pixels=pixels), whole)
    assert whole.shape == ((90, 70, 3) if pixels is None else (23, 18, 3))


def test_large_pictures_are_refused_where_they_are_not_made_smaller(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_LARGE", 5000)
    for suffix, part in (("png", "90 x 70"), ("webp", "90 x 70")):
        path = save(tmp_path, Image.new("RGB", (90, 70)), f"a.{suffix}")
        with pytest.raises(DataError, match=f"expected at most 5,000 pixels, found {part}"):
            open_rgb(path)
    assert open_rgb(tmp_path / "a.png", pixels=1000).size == (30, 24)
    with pytest.raises(DataError, match="expected at most 5,000 pixels"):  # its decoder makes several copies
        open_rgb(tmp_path / "a.webp", pixels=1000)


# --- what is odd in a file -----------------------------------------------------------------------------------------


def exif(*entries):
    """EXIF with entries (tag, type, number, 4 or 8 bytes)."""
    entries, more = sorted(entries), b""
    table = struct.pack("<H", len(entries))
    for tag, kind, number, content in entries:
        place = struct.pack("<I", 14 + 12 * len(entries) + len(more)) if len(content) > 4 else content.ljust(4, b"\0")
        more += content if len(content) > 4 else b""
        table += struct.pack("<HHI", tag, kind, number) + place
    return b"Exif\0\0II*\0\x08\0\0\0" + table + bytes(4) + more


TURNED = (0x0112, 3, 1, b"\x06\0")


@pytest.mark.parametrize("odd", [
    (0x011A, 2, 4, b"abc\0"), (0x0213, 11, 1, b"\0\0\xc0\x7f"), (0x0213, 9, 1, b"\xfb\xff\xff\xff"),
    (0x011A, 10, 1, b"\xfd\xff\xff\xff\x02\0\0\0"), (0x8769, 4, 1, b"\xff\xff\xff\0"),
])  # fmt: skip
def test_odd_tags_beside_the_orientation(tmp_path, picture, odd):
    image = Image.fromarray(picture)
    path, plain = (save(tmp_path, image, name, exif=exif(TURNED, *more)) for name, more in [("a.jpg", [odd]), ("b.jpg", [])])
    assert np.array_equal(prepare_image(path), prepare_image(plain))
    assert not np.array_equal(prepare_image(path), prepare_image(save(tmp_path, image, "c.jpg")))


def test_all_orientations(tmp_path, picture):
    for value in range(10):
        path = save(tmp_path, Image.fromarray(picture[:20]), exif=exif((0x0112, 3, 1, bytes([value, 0]))))
        assert np.array_equal(open_rgb(path), ImageOps.exif_transpose(Image.open(path)))
        assert np.array_equal(open_rgb(path, upright=False), picture[:20])


def test_exif_that_is_junk_is_nobodys_business(tmp_path, picture):
    for junk in (b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0junk" * 9):
        path = save(tmp_path, Image.fromarray(picture), "a.jpg", exif=junk)
        assert np.array_equal(prepare_image(path), prepare_image(save(tmp_path, Image.fromarray(picture), "b.jpg")))


def test_damage_of_any_kind_is_one_sentence(tmp_path, picture):
    """Bits flipped and ends cut off, in every format: an image, or a DataError that names the file; never anything else."""
    random, failed = np.random.default_rng(0), 0
    for format in ("PNG", "JPEG", "GIF", "TIFF", "BMP", "WEBP", "PPM", "ICO", "TGA", "PCX", "SGI", "JPEG2000"):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, format)
        whole = buffer.getvalue()
        for _ in range(40):
            content = bytearray(whole[: random.integers(1, len(whole) + 1)] if random.random() < 0.5 else whole)
            for at in random.integers(0, min(len(content), 200), random.integers(1, 9)):
                content[at] = random.integers(256)
            (tmp_path / "a.png").write_bytes(content)
            try:
                assert prepare_image(tmp_path / "a.png", 32).shape == (32, 32, 3)
            except DataError as error:
                failed += 1
                assert str(error).startswith(str(tmp_path / "a.png")) and "\n" not in str(error)
    assert failed > 100


def test_exceptions_of_decoders_that_nobody_thought_of(tmp_path, picture, monkeypatch, capfd):
    path = save(tmp_path, Image.fromarray(picture))
    for kind in (struct.error, zlib.error, OverflowError, MemoryError, IndexError, EOFError, RecursionError, AssertionError):
        def fail(*_, kind=kind, **__):
            warnings.warn("a warning of Pillow", stacklevel=1)
            raise kind("one\ntwo \x1b[31m")

        monkeypatch.setattr(Image, "open", fail)
        with pytest.raises(DataError, match=re.escape(f"{path}: expected an image that Pillow can read, found none")) as caught:
            prepare_image(path)
        assert r"one\ntwo \x1b[31m" in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "nothing", "loop"])
def test_only_regular_files_are_opened(tmp_path, kind):
    path = tmp_path / "a.png"
    {"pipe": lambda: os.mkfifo(path), "device": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir,
     "nothing": lambda: None, "loop": lambda: path.symlink_to(path)}[kind]()  # fmt: skip
    found = {"folder": "a folder", "nothing": "nothing", "loop": "nothing"}.get(kind, "something that is no regular file")
    with pytest.raises(DataError, match=f"a.png: expected an image file, found {found}"):
        prepare_image(path)


def test_the_home_folder(tmp_path, picture, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path, Image.fromarray(picture))
    assert np.array_equal(prepare_image("~/a.png", 32), picture)
    with pytest.raises(DataError, match=r"~nobody-here/a.png: expected a path, found one whose home folder is unknown"):
        prepare_image("~nobody-here/a.png")


def test_a_program_is_no_picture(tmp_path, picture, monkeypatch):
    path = save(tmp_path, Image.fromarray(picture), "a.eps")
    with pytest.raises(DataError, match=r"a.eps: expected a picture of pixels, found PostScript, which is a program"):
        prepare_image(path)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_deflate", "group4"])
def test_the_library_of_tiff_writes_nothing_of_its_own(tmp_path, picture, capfd, compression):
    image = Image.fromarray(picture).convert("1" if compression == "group4" else "RGB")
    path = save(tmp_path, image, "a.tif", compression=compression)
    content = bytearray(path.read_bytes())
    content[20:60] = bytes(range(200, 240))
    path.write_bytes(content)
    with suppress(DataError):
        prepare_image(path)
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_fork_while_another_thread_reads_a_picture(tmp_path, picture):
    path, inside, release = save(tmp_path, Image.fromarray(picture)), threading.Event(), threading.Event()

    def stay():
        with images._quiet():
            inside.set()
            release.wait(0.3)

    limit, other = Image.MAX_IMAGE_PIXELS, threading.Thread(target=stay)
    other.start()
    assert inside.wait(20)
    if not (child := os.fork()):
        signal.alarm(20)  # a child that waits for the other thread must not outlive the test
        os._exit(not (prepare_image(path).shape == (40, 40, 3) and Image.MAX_IMAGE_PIXELS == limit))
    assert os.waitpid(child, 0)[1] == 0
    other.join()


# --- depth of grey -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "top", "bright"), [
    (np.float32, 1.0, 255), (np.float32, 255.0, 255), (np.float32, 65535.0, 255), (np.float32, 0.5, 127),
    (np.float32, 128.0, 128), (np.float32, 32768.0, 127),
    (np.uint16, 65535, 255), (np.uint16, 255, 0), (np.uint16, 512, 2), (np.int32, 255, 255),
    (np.int32, 65535, 255), (np.int32, 2**31 - 1, 255),
])  # fmt: skip
def test_depth_is_decided_by_type_and_range(tmp_path, dtype, top, bright):
    grey = np.zeros((40, 40), dtype)
    grey[:, 20:] = top
    pixels = prepare_image(save(tmp_path, Image.fromarray(grey), "a.tif"))
    assert pixels[:, :20].max() == 0 and (pixels[:, 20:] == bright).all()


@pytest.mark.parametrize(("value", "found"), [(np.nan, "nan"), (np.inf, "inf"), (-np.inf, "-inf"), (1e9, r"1e\+09"),
                                              (-3.0, "-3")])
def test_floats_that_are_no_grey(tmp_path, value, found):
    grey = np.full((40, 40), 0.5, np.float32)
    grey[3, 3] = value
    path = save(tmp_path, Image.fromarray(grey), "a.tif")
    with pytest.raises(DataError, match=f"a.tif: expected grey values from 0 to 65,535, found .*{found}"):
        prepare_image(path)


# --- as in a folder of images --------------------------------------------------------------------------------------


def test_fitted_covers_and_cuts(tmp_path):
    image = np.zeros((20, 60, 3), np.uint8)
    image[:, 20:40] = 255
    path = save(tmp_path, Image.fromarray(image))
    assert (fitted(path, 20, 20) == 255).all() and fitted(path, 10, 30).shape == (10, 30, 3)
    assert np.array_equal(fitted(path, 20, 60), image)


def test_one_call_for_any_network(tmp_path, picture):
    path = save(tmp_path, Image.fromarray(picture))
    assert np.array_equal(prepare_for(path, "photo", (40, 40, 3)), prepare_image(path))
    assert prepare_for(path, "photo", (40, 40, 1)).shape == (40, 40, 1)
    assert np.array_equal(prepare_for(path, "fit", (20, 10, 3)), fitted(path, 20, 10))
    assert prepare_for(path, "ink", (28, 28, 1)).shape == (28, 28, 1) and prepare_for(path, "ink", (28, 28, 3)).shape[2] == 3
    with pytest.raises(ValueError, match="expected the kind photo, ink, fit or crop, found 'digit'"):
        prepare_for(path, "digit", (28, 28, 1))


def test_a_part_that_claims_more_bytes_than_the_file_has_takes_no_memory(tmp_path):
    path = tmp_path / "damaged.png"
    Image.new("RGB", (40, 50)).save(path)
    content = path.read_bytes()
    length = content.index(b"IDAT") - 4
    path.write_bytes(content[:length] + b"\xff\xff\x00\x50" + content[length + 4:])  # 4 GB of pixels
    tracemalloc.start()
    try:
        assert open_rgb(path).size == (40, 50)  # its pixels are all there
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()
