"""The card of a student, in Markdown: how it was made, and how far it is from its teacher on held-out text."""

from collections.abc import Iterator, Mapping
from typing import Any


def text(settings: Mapping[str, Any], report: Mapping[str, Any], reads: Mapping[str, Any], *, tied: bool) -> str:
    """The text of a card.

    Args:
        settings: of the distillation.
        report: training.json.
        reads: aliases of the teacher and of the corpora, as in the spec.
        tied: whether the unembedding is the embedding.
    """
    parent = reads.get("parent", "its parent")
    lines = [
        f"# A student of {parent}",
        "",
        "Made by Diptych (`kind: distill`); training.json holds the curves, manifest.json all settings.",
        "",
        f"- Blocks: {_blocks(settings, report, parent)}.",
        f"- {_frozen(parent, tied)}",
        f"- Loss: {_loss(settings['loss'])}.",
        f"- Trained on {reads.get('corpus', 'its corpus')}: {settings['steps']} steps of {settings['batch_sequences']} "
        f"sequences, AdamW with a peak learning rate of {settings['learning_rate']:g}, seed {settings['seed']}.",
        "",
        f"On held-out documents of {reads.get('evaluate_on', 'another corpus')}, before and after training:",
        "",
        *_distances(report),
    ]
    return "\n".join(lines) + "\n"


def _blocks(settings: Mapping[str, Any], report: Mapping[str, Any], parent: str) -> str:
    layers = report["layers"]
    named = ", ".join(map(str, layers))
    if settings["init"] == "parent":
        return f"{len(layers)}, copies of blocks {named} of {parent} (counted from 0) before training"
    return f"{len(layers)} with random weights before training, in the place of blocks {named} of {parent}"


def _frozen(parent: str, tied: bool) -> str:
    if tied:
        return f"Token embedding and unembedding are one matrix, that of {parent}, and were not trained; all else was."
    return f"The token embedding is that of {parent} and was not trained; all else was."


def _loss(loss: Mapping[str, Any]) -> str:
    terms = {
        "kl": f"KL to the teacher at temperature {loss['temperature']:g}",
        "jacobian": f"the Jacobian loss ({loss['probes']} probe(s) a step, {loss['probe']})",
        "hidden": "the relative distance of the hidden states",
    }
    return " + ".join(f"{loss[name]:g} x {term}" for name, term in terms.items() if loss[name])


def _distances(report: Mapping[str, Any]) -> Iterator[str]:
    """A line for each source with the held-out values before and after training."""
    names = {"kl": "KL to the teacher (nats)", "jacobian": "Jacobian loss", "loss": "next-token loss (nats)"}
    before, after = report["before"], report["after"]
    for source in after["loss"]:
        values = (f"{title} {before[name][source]:.4g} -> {after[name][source]:.4g}" for name, title in names.items())
        yield f"- {source}: " + ", ".join(values)
