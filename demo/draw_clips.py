"""Draw the demo's clips anew: `python -m demo.draw_clips` (needs ffmpeg with libx264)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Final

from demo.frame_number import HEIGHT, WIDTH
from demo.gates import FPS, GATES, Gate, GatePainter

FOLDER: Final = Path(__file__).with_name("clips")
_GOP: Final = FPS
_QUALITY: Final = 30


def describe(gate: Gate) -> dict[str, object]:
    """Return what a simulated camera must know about a clip."""
    return {
        "label": gate.label,
        "fps": FPS,
        "width": WIDTH,
        "height": HEIGHT,
        "gop": _GOP,
        "frames": gate.frames,
        "cars": [
            {
                "plate": visit.car.plate,
                "stops_at_frame": visit.stops_at_frame,
                "leaves_at_frame": visit.leaves_at_frame,
            }
            for visit in gate.visits
        ],
    }


def encode(gate: Gate) -> Path:
    """Draw and encode one clip as a raw H.264 stream, with its description beside it.

    Raises:
        RuntimeError: ffmpeg failed.
    """
    path = FOLDER / f"{gate.name}.h264"
    keys = f"keyint={_GOP}:min-keyint={_GOP}:scenecut=0:open-gop=0:bframes=0:aud=1"
    # fmt: off
    command = [
        "ffmpeg", "-nostdin", "-loglevel", "error", "-y",
        "-f", "rawvideo", "-pix_fmt", "bgr24", "-s", f"{WIDTH}x{HEIGHT}", "-r", str(FPS),
        "-i", "pipe:0", "-c:v", "libx264", "-preset", "slow", "-crf", str(_QUALITY),
        "-x264-params", keys, "-pix_fmt", "yuv420p", "-f", "h264", str(path),
    ]
    # fmt: on
    painter = GatePainter(gate)
    with tempfile.TemporaryFile() as raw:
        for number in range(gate.frames):
            raw.write(painter.frame(number).tobytes())
        raw.seek(0)
        if subprocess.run(command, stdin=raw, check=False).returncode != 0:
            raise RuntimeError(f"ffmpeg could not encode {path.name}")
    description = json.dumps(describe(gate), indent=2) + "\n"
    path.with_suffix(".json").write_text(description, encoding="utf-8")
    return path


def main() -> None:
    """Draw all clips and say how large they are."""
    FOLDER.mkdir(exist_ok=True)
    with ProcessPoolExecutor(max_workers=2) as pool:
        for path in pool.map(encode, GATES):
            sys.stdout.write(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB\n")


if __name__ == "__main__":
    main()
