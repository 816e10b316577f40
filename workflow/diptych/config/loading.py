"""Loading of a config into a checked `Study`.

study = loading.load(yaml.safe_load(open("config/config.yaml")))
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from diptych.config import checks
from diptych.config.sections.strict import ConfigError, first_error
from diptych.config.study import Study
from diptych.config.sweeps import expand


def load(config: Mapping[str, Any]) -> Study:
    """The study of a config, with types and references checked and sweeps over crosscoder settings expanded.

    Raises:
        ConfigError: naming the first key that is wrong, and what to do.
    """
    try:
        study = Study.model_validate(config)
    except ValidationError as error:
        raise ConfigError(first_error(error, Study)) from None
    checks.check(study)
    return study.model_copy(update={"crosscoders": expand(study.crosscoders)})
