"""The model card of an exported model, as model hubs show it."""

from tabulate import tabulate

from vae_jax.commands import abilities, captions, recorded, samples
from vae_jax.errors import UserError
from vae_jax.models.build import label_names
from vae_jax.report.words import figure, meaning
from vae_jax.run import Run

NAME, PICTURE = "README.md", "samples.png"
# The licence that a card names, and what it says of it, by data set.
LICENCES = {
    "celeb_a": (
        "other",
        "The model was trained on CelebA, which is for non-commercial research only; "
        "its images are not to be passed on. Use this model for nothing else, and do "
        "not identify people with it.",
    ),
    "synthetic_faces": ("apache-2.0", "The model was trained on drawn faces."),
}
OWN = ("other", "The licence of the images that the model was trained on holds.")


def _metrics(run: Run) -> str:
    """Returns a table of the metrics of the test split; empty without eval.json."""
    try:
        figures = recorded.evaluation_of(run)["test"]["ema"]
    except UserError as error:
        print(f"note: the card has no metrics: {error}")
        return ""
    rows = [
        [
            name,
            figure(mean, error),
            meaning(name).unit,
            meaning(name).words,
        ]
        for name, mean, error in recorded.means_of(figures)
    ]
    table = tabulate(rows, ["metric", "test split", "unit", "meaning"], "github")
    return f"\n## Metrics\n\nMeans with their standard errors.\n\n{table}\n"


def text(run: Run, name: str, sampler: str | None, programs: list[str]) -> str:
    """Returns the model card, in which no path of this machine is.

    Args:
      run: the run whose model it is.
      name: name of the folder.
      sampler: the sampler that drew the picture; None where there is none.
      programs: files that are beside it.
    """
    picture, use = "", "exported.model"
    if sampler is not None:
        told = samples.said_of(run, sampler)
        picture = f"\n![samples]({PICTURE})\n\nSamples, codes from {told}.\n"
        use = "exported.sample(16)  # [16,H,W,C] in [0, 1]"
    if abilities.can_decode(run):
        use += """
code = exported.model.encode(images)  # float32 [B,H,W,C] in [0, 1]
exported.model.decode(code).mean"""
    licence, note = LICENCES.get(run.recipe["name"], OWN)
    facts, command = recorded.facts_of(run)
    table = [(each, fact) for each, fact in facts if each != "workdir"]
    command = captions.without_paths(command or "")
    trained = f"\n```\n{command}\n```\n" if command else ""
    return f"""\
---
library_name: vae_jax
license: {licence}
tags: [jax, flax, vae, faces]
---

# {recorded.title_of(run)}

{recorded.about(run)}
{picture}
## Use

With the project `vae_jax`, installed with its extra `export`:

```python
import vae_jax

exported = vae_jax.load("{name}")
{use}
```
{_use_of(run, programs)}
## Data and training

{note}

{tabulate(table, ["", ""], "github")}
{trained}{_metrics(run)}"""


def _use_of(run: Run, programs: list[str]) -> str:
    """Returns what a card says of programs, which is nothing where there are none."""
    if not programs:
        return ""
    name, kind = programs[-1].split(".")
    model = run.model()
    takes = ["images" if name == "encoder" else "numbers"]
    names, told = ", ".join(label_names(run.config.model)), ""
    if getattr(model, "num_told", 0):
        takes.append("labels")
        told = f" Labels are 1, -1, or 0 where unknown, [B,A]: {names}."
    if name == "encoder":
        told = f" The result is the log-odds, [B,A], of {names}."
    needed, use = {
        "onnx": (
            "onnxruntime",
            f"""\
import onnxruntime

{name} = onnxruntime.InferenceSession("{programs[-1]}")
{name}.run(None, {{{", ".join(f'"{each}": {each}' for each in takes)}}})[0]""",
        ),
        "stablehlo": (
            "JAX",
            f"""\
from jax import export

{name} = export.deserialize(bytearray(open("{programs[-1]}", "rb").read()))
{name}.call({", ".join(takes)})""",
        ),
    }[kind]
    needs = "needs" if len(programs) == 1 else "need"
    return f"""
{" and ".join(f"`{each}`" for each in programs)} {needs} {needed} alone; every array is
float32, and the first axis counts images.{told}

```python
{use}
```
"""
