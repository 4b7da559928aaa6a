"""Video and sound files: those that name other files or addresses are refused, and nothing that they name is opened."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latentbank.errors import ImageError, LatentBankError, SoundError
from latentbank.models.audio.sounds import open_sound
from latentbank.models.vision import clips
from latentbank.models.vision.clips import open_clip

av = pytest.importorskip("av")

PLAYLISTS = {
    "concat": "ffconcat version 1.0\nfile {place}\n",
    "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n{place}\n#EXT-X-ENDLIST\n",
    "dash": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" profiles="urn:mpeg:dash:profile:'
    'isoff-on-demand:2011" type="static" mediaPresentationDuration="PT1S"><Period><AdaptationSet mimeType="video/mp4">'
    '<Representation id="1" bandwidth="1"><BaseURL>{place}</BaseURL></Representation></AdaptationSet></Period></MPD>',
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 50{place:.0s}04 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\n",
}
READ: list[tuple[Callable[..., Any], type[LatentBankError]]] = [
    (open_clip, ImageError),
    (open_sound, SoundError),
]


def film(path: Path) -> Path:
    """A film of three frames with a second of sound."""
    with av.open(str(path), "w", format="matroska") as file:
        video, audio = file.add_stream("mpeg4", rate=3), file.add_stream("pcm_s16le", rate=16000)
        video.width, video.height, video.pix_fmt, audio.layout = 32, 32, "yuv420p", "mono"
        frames = [
            av.VideoFrame.from_ndarray(np.full((32, 32, 3), 80 * number, np.uint8), format="rgb24")
            for number in range(3)
        ]
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 16000), np.int16), format="s16", layout="mono")
        sound.sample_rate = 16000
        for stream, given in ((video, frames), (audio, [sound])):
            for frame in (*given, None):
                for packet in stream.encode(frame):
                    file.mux(packet)
    return path


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8", ".txt", ".wav", ".sdp", ".mpd"])
def test_a_file_that_names_others_is_refused(tmp_path: Path, kind: str, suffix: str) -> None:
    film(tmp_path / "film.mkv")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        port = listening.getsockname()[1]
        for place in (
            "film.mkv",
            str(tmp_path / "film.mkv"),
            f"http://127.0.0.1:{port}/a.ts",
            f"tcp://127.0.0.1:{port}",
        ):
            path = tmp_path / f"list{suffix}"
            path.write_text(PLAYLISTS[kind].format(place=place))
            for read, error in READ:
                with pytest.raises(
                    error, match=r"cannot be read \(.*\); convert it to (MP4|WAV)\.$"
                ) as caught:
                    read(path)
                assert len(str(caught.value)) < 400 + len(str(path))
        with pytest.raises(BlockingIOError):  # nobody has called
            listening.accept()


def test_the_reason_is_said(tmp_path: Path) -> None:
    path = film(tmp_path / "film.mkv").with_name("list.m3u8")
    path.write_text(PLAYLISTS["hls"].format(place="film.mkv"))
    with pytest.raises(ImageError, match=r"list\.m3u8 cannot be read \(it is a list of other files, or in a"):
        open_clip(path)


@pytest.mark.parametrize(
    "name", ["http:", "concat:a|b", "pipe:0", "12:30.mkv", "fd:", "subfile,,start,0,end,9,,:a"]
)
def test_a_files_name_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "film.mkv").rename(name)
    assert open_clip(name, 2).total == 3
    assert open_sound(name).duration == 1.0
    for read, error in READ:
        with pytest.raises(error, match="does not exist"):
            read("http://127.0.0.1:9/a.mkv")


def test_frames_have_a_largest_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips, "MAX_PIXELS", 1000)
    with pytest.raises(ImageError, match=r"film\.mkv has frames of 32 x 32 pixels; make them smaller\.$"):
        open_clip(film(tmp_path / "film.mkv"))
