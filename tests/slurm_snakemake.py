"""Snakemake that asks SLURM every second how its jobs are.

    python tests/slurm_snakemake.py --workflow-profile profiles/slurm

On a shared cluster the plugin asks 40 s after a job ended and ever more rarely while none ends, up to every 3 minutes.
A private queue may be asked often, and its tests wait for little else.
"""

import asyncio

from snakemake import cli
from snakemake_interface_executor_plugins.executors.remote import RemoteExecutor

SECONDS = 1.0


async def sleep(self: RemoteExecutor) -> None:
    """Stands in for the plugin's own wait between two questions."""
    await asyncio.sleep(SECONDS)


if __name__ == "__main__":
    RemoteExecutor.sleep = sleep
    cli.main()
