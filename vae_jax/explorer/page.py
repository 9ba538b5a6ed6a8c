"""The page itself, by gradio: controls around a picture, and what each of them does."""

import base64
import dataclasses
import functools
import html
import importlib
import io
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from vae_jax.errors import UserError
from vae_jax.explorer import controls
from vae_jax.explorer.looks import Face, Look
from vae_jax.explorer.session import Session
from vae_jax.explorer.source import Picture, Source, first_look, plain
from vae_jax.report import grids

SCRIPT = Path(__file__).with_name("page.js")
# The change of a pixel at which the heat map is brightest.
LARGEST_CHANGE = 0.5
# Seconds until what users sent is deleted, and between looks for it.
KEPT_FOR = 600
SLOTS = {"the face": "face", "a second face": "goal"}
NO_FACE = "Drop in a picture of a face to begin."


def gradio() -> ModuleType:
    """Returns the library of the page, or raises UserError where it is absent."""
    # Read as it is imported.
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    try:
        return importlib.import_module("gradio")
    except ImportError as error:
        raise UserError(
            'gradio is not installed: pip install -e ".[explorer]"'
        ) from error


def _png(image: np.ndarray) -> str:
    """Returns [H,W,C] 8-bit levels as an address that holds them."""
    file = io.BytesIO()
    grids.to_picture(image).save(file, "PNG")
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def heat_of(picture: Picture, start: Picture) -> Picture:
    """Returns how far two pictures differ, as colours, see `LARGEST_CHANGE`."""
    change = np.abs(picture.astype(np.float32) - start) / 255
    return grids.to_levels(grids.heat(change, LARGEST_CHANGE))


def pictures(picture: Picture, start: Picture, name: str) -> str:
    """Returns the part of the page with the picture, and what changed beside it.

    Args:
      picture: the picture that is shown.
      start: the face with nothing changed.
      name: name of the face.
    """
    heat, shown = heat_of(picture, start), _png(picture)
    change = np.mean(np.abs(picture.astype(np.float32) - start)) / 255
    return f"""\
<div class="faces">
<img id="picture" src="{shown}" alt="the picture">
<div class="beside">
<figure><img id="start" src="{_png(start)}" alt="the face as it is">
<figcaption>{html.escape(name)}, as it is</figcaption></figure>
<figure><img id="heat" src="{_png(heat)}" alt="what changed">
<figcaption>What changed, on the average {change:.3f}
<span class="bar"></span><span class="ends"><span>0</span>
<span>{LARGEST_CHANGE:g} or more</span></span></figcaption></figure>
<a class="download" download="face.png" href="{shown}">Download</a>
</div></div>"""


def build(source: Source) -> Any:
    """Returns the page of a model, as gradio's Blocks.

    What a user does is kept with gradio's sessions, for each user apart; all share the
    model and its compiled programs.
    """
    gr = gradio()
    begun = first_look(source)
    at_first = Session() if begun is None else Session().to(source, begun)
    with gr.Blocks(
        title=f"vae_jax: {source.title}",
        analytics_enabled=False,
        fill_width=True,
        delete_cache=(KEPT_FOR, KEPT_FOR),
    ) as blocks:
        session = gr.State(at_first)
        gr.HTML(html.escape(source.title), elem_id="title")
        with gr.Row(elem_id="page"):
            with gr.Column(scale=2, min_width=220, elem_id="choose"):
                which = gr.Radio(
                    [*SLOTS], value=next(iter(SLOTS)), label="Choose", elem_id="which"
                )
                numbers, file = _choosers(gr, source)
                told = gr.HTML("" if begun else NO_FACE, elem_id="told")
            with gr.Column(scale=5, min_width=560, elem_id="middle"):
                shown = gr.HTML(_shown(at_first))
                with gr.Row(elem_id="buttons"):
                    undo = gr.Button("Undo", size="sm", elem_id="undo")
                    reset = gr.Button("Reset", size="sm", elem_id="reset")
                command = gr.Textbox(
                    "" if begun is None else begun.command(source.opened),
                    label="The command that makes this picture",
                    buttons=["copy"],
                    interactive=False,
                    lines=3,
                    max_lines=3,
                    elem_id="command",
                )
            with gr.Column(scale=4, min_width=330, elem_id="sliders"):
                sliders = gr.HTML(
                    controls.to_text(begun),
                    html_template=controls.markup(source),
                    js_on_load=SCRIPT.read_text(),
                    apply_default_css=False,
                    elem_id="controls",
                )
        do = _Doings(source)
        outputs = [session, shown, command, told]
        everything = [*outputs, sliders]
        # What is dragged meanwhile is passed over, but for where it ends.
        live = {"show_progress": "hidden", "trigger_mode": "always_last"}
        once = {"show_progress": "hidden", "outputs": everything}
        # By the queue a step would take half as long again.
        sliders.input(
            do.step, [session, sliders], outputs, api_name="step", queue=False, **live
        )
        for kind, (number, following) in numbers.items():
            chosen = functools.partial(do.by_number, kind)
            given = [session, which, number]
            number.submit(chosen, given, api_name=kind, **once)
            following.click(_next, number, number, show_progress="hidden").then(
                chosen, given, **once
            )
        # Emptied, so that the next picture can be dropped there.
        file.upload(do.sent, [session, which, file], api_name="picture", **once).then(
            lambda: None, None, file, show_progress="hidden", api_visibility="private"
        )
        undo.click(do.undo, session, api_name="undo", **once)
        reset.click(do.reset, session, api_name="reset", **once)
    return blocks


def _next(number: float | None) -> int:
    return int(number or 0) + 1


def _shown(session: Session) -> str:
    if session.look is None or session.start is None or session.picture is None:
        return f'<div class="faces">{NO_FACE}</div>'
    return pictures(session.picture, session.start, str(session.look.face))


def _choosers(gr: ModuleType, source: Source) -> tuple[dict[str, tuple[Any, Any]], Any]:
    """Returns numbers, each with a button for the next one, by kind, and a file."""
    numbers = {}
    kinds = {
        "seed": ("sample", bool(source.samplers)),
        "test": ("test image", source.test is not None),
    }
    for kind, (label, there) in kinds.items():
        if not there:
            continue
        with gr.Row(elem_classes="number"):
            number = gr.Number(
                0, label=label, precision=0, minimum=0, min_width=90, elem_id=kind
            )
            button = gr.Button("Next", size="sm", min_width=60, elem_id=f"next_{kind}")
        numbers[kind] = (number, button)
    file = gr.File(label="a picture of your own", height=78, elem_id="file")
    return numbers, file


@dataclasses.dataclass(frozen=True)
class _Doings:
    """What the controls do: from a session and their values to what is shown.

    Attributes:
      source: source of the pictures.
    """

    source: Source

    def step(self, before: Session, values: str) -> list[Any]:
        """Shows what the controls say."""
        if before.look is None:
            return self._told(before, NO_FACE)
        try:
            look = controls.to_look(self.source, before.look, values)
        except UserError as error:
            return self._told(before, str(error))
        touched = _touched(before.look, look)
        # A control of another sampler than the chosen one makes no step.
        return self._told(before.to(self.source, look, touched) if touched else before)

    def by_number(
        self, kind: str, before: Session, slot: str, number: Any
    ) -> list[Any]:
        """Shows a sample or a test image."""
        try:
            face = self.source.face(kind, int(number or 0))
        except UserError as error:
            return self._all(before, str(error))
        return self._chosen(before, slot, face)

    def sent(self, before: Session, slot: str, file: str) -> list[Any]:
        """Shows a picture of the user's."""
        path = Path(file)
        try:
            face = self.source.face("picture", path.name, path)
        except UserError as error:
            return self._all(before, str(error))
        return self._chosen(before, slot, face)

    def undo(self, before: Session) -> list[Any]:
        """Shows what was shown before."""
        return self._all(before.undone(self.source))

    def reset(self, before: Session) -> list[Any]:
        """Shows the face with nothing changed."""
        if before.look is None:
            return self._all(before, NO_FACE)
        look = plain(self.source, before.look.face)
        return self._all(before.to(self.source, look))

    def _chosen(self, before: Session, slot: str, face: Face) -> list[Any]:
        look = before.look
        if look is None:
            look = plain(self.source, face)
        elif SLOTS[slot] == "face":
            look = dataclasses.replace(look, face=face)
        else:
            look = dataclasses.replace(look, goal=face, share=look.share or 0.5)
        return self._all(before.to(self.source, look))

    def _told(self, now: Session, said: str = "") -> list[Any]:
        command = "" if now.look is None else now.look.command(self.source.opened)
        return [now, _shown(now), command, html.escape(said)]

    def _all(self, now: Session, said: str = "") -> list[Any]:
        return [*self._told(now, said), controls.to_text(now.look)]


def _touched(before: Look, after: Look) -> tuple[str, ...]:
    """Returns the controls by which two looks differ."""
    were, are = (json.loads(controls.to_text(look)) for look in (before, after))
    return tuple(n for n in sorted({*were, *are}) if were.get(n) != are.get(n))
