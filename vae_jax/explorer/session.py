"""What one user of the page has done so far: steps there and back, without a page."""

import dataclasses
from dataclasses import dataclass

from vae_jax.explorer.looks import Look
from vae_jax.explorer.source import Picture, Source, plain

# Looks that can be gone back to.
MOST_STEPS = 200


# Compared by identity: it holds arrays.
@dataclass(frozen=True, eq=False)
class Session:
    """A look with those before it.

    Attributes:
      look: the look that is shown; None before a face is chosen.
      picture: the picture of the look.
      start: the picture of the face with nothing changed.
      history: earlier looks, the last one last, without their pictures.
      touched: the controls that made the last step, by name. What is done by one
        control before another one is used is one step, such as a drag of a slider.
    """

    look: Look | None = None
    picture: Picture | None = None
    start: Picture | None = None
    history: tuple["Session", ...] = ()
    touched: tuple[str, ...] = ()

    def to(
        self, source: Source, look: Look, touched: tuple[str, ...] = ()
    ) -> "Session":
        """Returns the session with another look.

        Args:
          source: source of the pictures.
          look: the look that is shown from now on.
          touched: the controls that were used; none for what is a step of its own.
        """
        history = self.history
        if self.look is not None and (not touched or touched != self.touched):
            here = Session(self.look, start=self.start)
            history = (*history, here)[-MOST_STEPS:]
        # By identity, because pictures of one name may be two.
        is_same = (
            self.look is not None
            and self.look.face is look.face
            and self.look.sampler == look.sampler
        )
        start = self.start if is_same else None
        if start is None:
            untouched = plain(source, look.face)
            start = source.picture(dataclasses.replace(untouched, sampler=look.sampler))
        return Session(look, source.picture(look), start, history, touched)

    def undone(self, source: Source) -> "Session":
        """Returns the session one step before; the same where there is none."""
        if not self.history:
            return self
        *history, before = self.history
        assert before.look is not None
        picture = source.picture(before.look)
        return Session(before.look, picture, before.start, tuple(history))
