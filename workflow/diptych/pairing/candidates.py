"""Candidate findings of the pairing: features without a match in the other model's dictionary."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import h5py
import numpy as np

from diptych.candidates import proposer
from diptych.candidates.candidate import Candidate, SideName, counted
from diptych.candidates.proposer import Clause, Files, Judged
from diptych.dictionaries import sae
from diptych.storage import artifacts
from diptych.text import contexts


def candidates(files: Files) -> list[Candidate]:
    """The unmatched features of either side, with the gain of their activation as effect.

    The gain is (own - other) / (own + other) of the feature's summed activations on its own model and on the other: 1
    if only in its own model, 0 if equal in both. Negative for features of A.
    """
    with artifacts.read(files["pairing"], "pairing") as file:
        return [*_features(file, files, "A", -1.0), *_features(file, files, "B", 1.0)]


def untestable(files: Files) -> str:
    """Why no unmatched feature could be tested, or ""."""
    with artifacts.read(files["pairing"], "pairing") as file:
        is_tested = "gain_a" in file or "gain_b" in file
    return "" if is_tested else "neither dictionary was read on the other model, whose width or site is another"


def _features(file: h5py.File, files: Files, side: SideName, sign: float) -> list[Candidate]:
    name = side.lower()
    if f"gain_{name}" not in file:
        return []
    gain = artifacts.read_table(file, f"gain_{name}")
    if not len(gain["latent"]):
        return []
    directions = sae.Decoder(Path(files[f"dictionary_{name}"]).parent).rows(gain["latent"])
    strongest = contexts.Codes(files[f"features_{name}"]).tops(gain["latent"])
    bounds = np.sort(sign * np.stack([gain["lo"], gain["hi"]], axis=1), axis=1)
    return [
        Candidate(
            kind="feature",
            id=str(latent),
            side=side,
            effect=sign * float(gain["fitted"][k]),
            held_out=sign * float(gain["held_out"][k]),
            lo=float(bounds[k, 0]),
            hi=float(bounds[k, 1]),
            p=float(gain["p"][k]),
            direction=directions[k].astype(np.float64),
            rows=strongest[k][0],
        )
        for k, latent in enumerate(gain["latent"])
    ]


def _matched_clause(files: Files) -> Clause:
    name = "no eligible feature is unmatched"
    if not files.get("pairing"):
        return Clause(name, None, "no features were paired")
    with artifacts.read(files["pairing"], "pairing") as file:
        summary = artifacts.read_json(file, "summary")
    unmatched = [summary[f"status_{side}"]["unmatched"] for side in ("a", "b")]
    text = f"{unmatched[0]} of A and {unmatched[1]} of B unmatched, {counted(summary['matched'], 'pair')} matched"
    return Clause(name, sum(unmatched) == 0, text)


class Proposer(proposer.Proposer):
    """Candidates and control clause of the pairing."""

    def candidates(self, files: Files) -> list[Candidate]:
        """The unmatched features of either side."""
        return candidates(files)

    def runs(self, files: Files) -> Mapping[str, Sequence[Files]]:
        """The cell through the dictionaries of each seed."""
        return {"dictionaries": [files, *({**files, **repeat} for repeat in files.get("repeats", ()))]}

    def untestable(self, files: Files) -> str:
        """Why no unmatched feature could be tested, or ""."""
        return untestable(files)

    def judged(self, files: Files) -> Sequence[Judged]:
        """The dictionaries on the rows of the map by which they are paired."""
        return [Judged("pairing", proposer.n_rows(files["linear_map"], "linear_map"))]

    def control(self, files: Files) -> Sequence[Clause]:
        """Clause of the control (a model against itself): no eligible feature is unmatched."""
        return [_matched_clause(files)]


PROPOSER = Proposer()
