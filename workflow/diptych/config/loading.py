"""A config, checked and loaded.

study = loading.load(yaml.safe_load(open("config/config.yaml")))
"""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from diptych.config import checks
from diptych.config.sections.strict import ConfigError, first_line
from diptych.config.study import Study
from diptych.config.sweeps import expand


def load(config: Mapping[str, Any]) -> Study:
    """The study of a config: types and references checked, sweeps over crosscoder settings written out.

    Raises:
        ConfigError: naming the first key that is wrong, and what to do.
    """
    try:
        study = Study.model_validate(config)
    except ValidationError as error:
        raise ConfigError(first_line(error, Study)) from None
    checks.check(study)
    return study.model_copy(update={"crosscoders": expand(study.crosscoders)})
