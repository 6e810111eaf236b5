"""Make short encoded clips whose frames carry a machine-readable number.

Each clip is encoded once and kept in a cache directory. The picture pans over a noisy background,
so that the bit rate is that of a camera, and repeats one band of blocks at the top, in the middle
and at the bottom. The band holds the number, a check sum and reference blocks, with all of them
inverted in its second row. A smeared or partly lost picture therefore reads as None, not as
another number.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

FPS = 25
CACHE_DIR = Path(__file__).resolve().parent.parent / ".cache" / "clips"
FFMPEG = "/usr/bin/ffmpeg"
ENCODE_TIMEOUT_S = 300

_MAKE_VERSION = 3  # raise when clips are made in another way: cached ones are made anew

# The code band, in units of 1/32 of the width and 1/24 of the height.
_COLUMNS, _ROWS = 32, 24
_LEFT_COLUMN = 3
_BAND_TOPS = (0, 11, 22)
_NUMBER_BITS, _CHECK_BITS = 16, 8
_BAND_COLUMNS = _NUMBER_BITS + _CHECK_BITS + 2  # one reference block at each end
_BLACK, _WHITE = 16, 235  # luma, video range

_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class ClipSpec:
    """Describe one clip; `encoder` holds ffmpeg's output options except size and rate.

    With `sharp_every` only every so many frames are in focus, from the first.
    """

    codec: str
    width: int
    height: int
    gop: int
    encoder: tuple[str, ...]
    bit_rate_kbit: int = 0  # 0: constant quality
    pixels: str = "yuv420p"
    frames: int = 200
    sharp_every: int = 1

    @property
    def duration_s(self) -> float:
        """Return the length of one loop."""
        return self.frames / FPS


def _x264(gop: int, *more: str) -> tuple[str, ...]:
    keys = ("-g", str(gop), "-keyint_min", str(gop), "-sc_threshold", "0", "-flags", "+cgop")
    return ("-c:v", "libx264", "-preset", "veryfast", *keys, *more)


def _x265(gop: int, *more: str) -> tuple[str, ...]:
    keys = f"keyint={gop}:min-keyint={gop}:scenecut=0:open-gop=0:bframes=0:log-level=error"
    return ("-c:v", "libx265", "-preset", "veryfast", "-x265-params", ":".join((keys, *more)))


_NO_B = ("-bf", "0")
_B = ("-bf", "2", "-b_strategy", "0")
_SLICES = ("-tune", "zerolatency", "-threads", "4", "-x264-params", "sliced-threads=1:slices=4")
# RTP carries quantisation tables but no Huffman tables: they must be the standard ones.
_JPEG = ("-c:v", "mjpeg", "-huffman", "default", "-force_duplicated_matrix", "1", "-q:v", "8")

# fmt: off
SPECS: dict[str, ClipSpec] = {
    "h264-1080p25-gop50": ClipSpec("h264", 1920, 1080, 50, _x264(50, *_NO_B), 3000),
    "h264-720p25-gop25": ClipSpec("h264", 1280, 720, 25, _x264(25, *_NO_B), 2000),
    "h264-720p25-gop50-zerolatency": ClipSpec("h264", 1280, 720, 50, _x264(50, *_SLICES), 2000),
    "h264-720p25-gop50-bframes": ClipSpec("h264", 1280, 720, 50, _x264(50, *_B), 2000),
    "h265-1080p25-gop50": ClipSpec("hevc", 1920, 1080, 50, _x265(50), 2500),
    "h265-720p25-gop50": ClipSpec("hevc", 1280, 720, 50, _x265(50), 1500),
    "h264-720p25-gop125": ClipSpec("h264", 1280, 720, 125, _x264(125, *_NO_B), 2000, frames=250),
    "h264-720p25-gop300": ClipSpec("h264", 1280, 720, 300, _x264(300, *_NO_B), 2000, frames=300),
    "h264-720p25-gop25-focus": ClipSpec(
        "h264", 1280, 720, 25, _x264(25, *_NO_B), 2000, sharp_every=5
    ),
    "h264-360p25-gop25": ClipSpec("h264", 640, 360, 25, _x264(25, *_NO_B), 800),
    "h265-360p25-gop25": ClipSpec("hevc", 640, 360, 25, _x265(25), 600),
    "mjpeg-360p25": ClipSpec("mjpeg", 640, 360, 1, _JPEG, pixels="yuvj420p"),
    "h265-720p25-gop50-slices": ClipSpec("hevc", 1280, 720, 50, _x265(50, "slices=4"), 1500),
    "mjpeg-720p25": ClipSpec("mjpeg", 1280, 720, 1, _JPEG, pixels="yuvj420p"),
}
# fmt: on


def clip(name: str, cache_dir: Path = CACHE_DIR) -> Path:
    """Return the clip's Matroska file, encoding it first when it is not in the cache.

    Raises:
        KeyError: no clip has this name.
        RuntimeError: ffmpeg failed.
    """
    spec = SPECS[name]
    key = hashlib.sha256(f"{_MAKE_VERSION} {spec}".encode()).hexdigest()[:8]
    path = cache_dir / f"{name}-{key}.mkv"
    if not path.exists():
        cache_dir.mkdir(parents=True, exist_ok=True)
        # Parallel runs may encode the same clip twice, but each sees only whole files.
        handle, temporary = tempfile.mkstemp(dir=cache_dir, prefix=f"{name}-", suffix=".part")
        os.close(handle)
        try:
            _encode(spec, Path(temporary))
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
    return path


def read_frame_number(bgr: _Bytes) -> int | None:
    """Return the number drawn into a picture of any size, or None when it is damaged.

    bgr: uint8 (H, W, 3), the whole picture in its own aspect ratio, at least 320 wide.
    """
    numbers = {_read_band(bgr, top) for top in _BAND_TOPS}
    return numbers.pop() if len(numbers) == 1 else None


def _check_sum(number: int) -> int:
    """Return the CRC-8 (polynomial 0x07) of the 16-bit number."""
    crc = number << 8
    for bit in range(23, 7, -1):
        if crc >> bit & 1:
            crc ^= 0x107 << (bit - 8)
    return crc & 0xFF


def _blocks(number: int) -> npt.NDArray[np.bool_]:
    """Return the band as (2, columns); True is white."""
    word = number << _CHECK_BITS | _check_sum(number)
    bits = [bool(word >> bit & 1) for bit in range(_NUMBER_BITS + _CHECK_BITS - 1, -1, -1)]
    row = np.array([True, *bits, False])
    return np.stack([row, ~row])


def _read_band(bgr: _Bytes, top: int) -> int | None:
    height, width = bgr.shape[:2]
    levels = np.empty((2, _BAND_COLUMNS))
    for row in range(2):
        # The middle of a block: its edges blur into each other.
        y0, y1 = (round(height * (top + row + part) / _ROWS) for part in (0.3, 0.7))
        for column in range(_BAND_COLUMNS):
            left = _LEFT_COLUMN + column
            x0, x1 = (round(width * (left + part) / _COLUMNS) for part in (0.3, 0.7))
            levels[row, column] = bgr[y0:y1, x0:x1].mean()
    white = levels[0, 0], levels[1, -1]
    black = levels[1, 0], levels[0, -1]
    if min(white) - max(black) < 120:
        return None
    shade = (levels - np.mean(black)) / (np.mean(white) - np.mean(black))
    if bool(((shade > 0.25) & (shade < 0.75)).any()):
        return None
    word = 0
    for bit in shade[0, 1:-1] > 0.5:
        word = word << 1 | int(bit)
    number = word >> _CHECK_BITS
    return number if np.array_equal(shade > 0.5, _blocks(number)) else None


def _raw_frames(spec: ClipSpec) -> Iterator[bytes]:
    """Yield planar YUV 4:2:0 frames in video range."""
    rng = np.random.default_rng(7)
    width, height = spec.width, spec.height
    luma = _texture(rng, width, height, 40, 200)
    chroma = [_texture(rng, width // 2, height // 2, 100, 156).tobytes() for _ in range(2)]
    grain = rng.normal(0, 2.5, (height + 64, width + 64)).astype(np.int16)
    car = _texture(rng, width // 4, height // 4, 20, 230)
    for number in range(spec.frames):
        picture = luma.astype(np.int16)  # a gate's camera does not move
        car_x = _there_and_back(number * width // 160, width - car.shape[1])
        car_y = height // 2 + height // 12
        picture[car_y : car_y + car.shape[0], car_x : car_x + car.shape[1]] = car
        grain_x, grain_y = rng.integers(0, 64, 2)
        picture += grain[grain_y : grain_y + height, grain_x : grain_x + width]
        frame = picture.clip(_BLACK, _WHITE).astype(np.uint8)
        _draw_number(frame, number)
        if number % spec.sharp_every:
            frame = np.asarray(cv2.GaussianBlur(frame, (0, 0), 3), np.uint8)
        yield b"".join((frame.tobytes(), *chroma))


def _there_and_back(position: int, length: int) -> int:
    return length - abs(position % (2 * length) - length)


def _texture(rng: np.random.Generator, width: int, height: int, low: int, high: int) -> _Bytes:
    """Return smooth noise of several grain sizes, stretched to low..high."""
    total = np.zeros((height, width), np.float32)
    for cell, weight in ((160, 1.0), (40, 0.5), (10, 0.2), (3, 0.05)):
        coarse = rng.random((height // cell + 2, width // cell + 2), np.float32)
        total += weight * cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    total = (total - total.min()) / (total.max() - total.min())
    stretched: _Bytes = (low + (high - low) * total).astype(np.uint8)
    return stretched


def _draw_number(luma: _Bytes, number: int) -> None:
    height, width = luma.shape
    for (row, column), white in np.ndenumerate(_blocks(number)):
        x0, x1 = (round(width * (_LEFT_COLUMN + column + end) / _COLUMNS) for end in (0, 1))
        for top in _BAND_TOPS:
            y0, y1 = (round(height * (top + row + end) / _ROWS) for end in (0, 1))
            luma[y0:y1, x0:x1] = _WHITE if white else _BLACK


def _encode(spec: ClipSpec, path: Path) -> None:
    rate: tuple[str, ...] = ()
    if spec.bit_rate_kbit:
        kbit = spec.bit_rate_kbit
        rate = ("-b:v", f"{kbit}k", "-maxrate", f"{kbit * 5 // 4}k", "-bufsize", f"{kbit}k")
    # Parameter sets before every keyframe, as cameras send them, and not in the header alone.
    sets = () if spec.codec == "mjpeg" else ("-bsf:v", "dump_extra=freq=keyframe")
    # fmt: off
    command = [
        FFMPEG, "-nostdin", "-loglevel", "error", "-y",
        "-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", f"{spec.width}x{spec.height}",
        "-r", str(FPS), "-i", "pipe:0",
        *spec.encoder, *rate, *sets, "-pix_fmt", spec.pixels, "-f", "matroska", str(path),
    ]
    # fmt: on
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=errors)
        assert process.stdin is not None
        try:
            # When ffmpeg ends early, its exit code and words tell why.
            with contextlib.suppress(BrokenPipeError), process.stdin:
                for frame in _raw_frames(spec):
                    process.stdin.write(frame)
            code = process.wait(ENCODE_TIMEOUT_S)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        if code != 0:
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip()
            raise RuntimeError(f"ffmpeg could not encode {path.name} (exit {code}): {text}")
