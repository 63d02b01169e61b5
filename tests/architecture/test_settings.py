"""The settings: each value stands in one part, its variable keeps its name, and only who composes takes them whole."""

import ast
import os
import sys
from pathlib import Path
from subprocess import run

import pytest

from inferlane.errors import ConfigurationError
from inferlane.runtime.config import Settings, load_settings, setting_fields, variable_of
from tests.architecture.test_modules import REPOSITORY, modules

VARIABLES = Path(__file__).with_name("setting_variables.txt")
# What composes a process or a stack, and the commands of an operator. All else takes its part of the settings.
COMPOSERS = frozenset(
    {
        "control_plane/kubernetes/deployment_plan.py",
        "control_plane/kubernetes/pod_settings.py",
        "control_plane/local/profile.py",
        "control_plane/local/version_pools.py",
        "control_plane/services.py",
        "dashboards/live/main.py",
        "inferlane/runtime/config.py",
        "producer_api/main.py",
        "producer_api/routes/dependencies.py",
        "router/main.py",
        "router/rollouts/composition.py",
        "webhook_sender/main.py",
        "workers/hosted_version.py",
        "workers/main.py",
        "workers/shared_worker.py",
        "workers/version_service.py",
        "workers/worker.py",
    }
)
COMMANDS = "control_plane/cli/"


def names_settings(path: Path) -> bool:
    """Whether an import, a name or an annotation in quotes of this module is `Settings`."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module="inferlane.runtime.config", names=names):
                if any(name.name == "Settings" for name in names):
                    return True
            case ast.Name(id="Settings") | ast.ClassDef(name="Settings"):
                return True
    return False


def test_only_who_composes_takes_the_settings_whole() -> None:
    whole = {str(path.relative_to(REPOSITORY)) for path in modules() if names_settings(path)}
    services = {name for name in whole if not name.startswith(COMMANDS)}
    assert services == COMPOSERS
    # The commands compose too; those that stand here are those that do.
    assert len(whole - services) <= 10


def test_each_value_stands_in_one_part() -> None:
    places = [
        (info.alias or field, part)
        for part, holder in Settings.model_fields.items()
        for field, info in holder.annotation.model_fields.items()  # type: ignore[union-attr]  # each is a model
    ]
    names = [name for name, _ in places]
    assert len(names) == len(set(names)) == len(setting_fields())
    # A part has its fields and nobody else's: none inherits from another.
    for holder in Settings.model_fields.values():
        assert holder.annotation is not None
        assert holder.annotation.__mro__[1].__name__ == "SettingsPart"


def test_the_variables_are_those_that_users_have_set() -> None:
    """A name that is missing here breaks a deployment that sets it; a new one is added to the file."""
    assert sorted(map(variable_of, setting_fields())) == VARIABLES.read_text().splitlines()


NUMBERS = sorted(name for name, info in setting_fields().items() if info.annotation in {int, float})


@pytest.mark.parametrize("value", ["inf", "nan", "1e30", "999999999999999999999999", "-1"])
def test_every_number_has_bounds_and_what_is_outside_is_refused_by_its_name(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    """Past its bounds a timer, the store or the broker failed later, without the name of the setting."""
    assert len(NUMBERS) > 45
    for name in NUMBERS:
        with monkeypatch.context() as context:
            context.setenv(variable_of(name), value)
            with pytest.raises(ConfigurationError) as caught:
                load_settings()
        assert f"{variable_of(name)}={value!r}: Input should be" in str(caught.value)


def test_a_lower_bound_of_its_own_wins_over_that_of_its_type() -> None:
    for name, value in {"kafka_request_timeout_ms": 50, "max_body_bytes": 100, "result_ttl_s": 0.5}.items():
        with pytest.raises(ConfigurationError, match=variable_of(name)):
            load_settings(**{name: value})


def test_a_response_cache_has_a_bound_for_its_seconds() -> None:
    for seconds in ("0", "99999999999", "9" * 50):
        with pytest.raises(ConfigurationError, match=r"INFERLANE_RESPONSE_CACHE=.* is not MODEL=SECONDS"):
            load_settings(response_cache=f"iris={seconds}")


def test_every_variable_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable's name is worked out twice, for reading and for passing on: they must agree."""
    for name, info in setting_fields().items():
        default = info.get_default(call_default_factory=True)
        if default is not None:
            monkeypatch.setenv(variable_of(name), str(default))
    settings = load_settings()
    chosen = settings.chosen()
    assert len(chosen) > 70
    assert settings.environment() == {variable_of(name): str(value) for name, value in sorted(chosen.items())}
    assert load_settings(**chosen) == settings


def test_the_settings_are_read_without_a_library_for_it() -> None:
    """Each command of the CLI reads them, and `pydantic_settings` alone costs it 40 ms of CPU."""
    source = "import sys, inferlane.runtime.config as c; c.load_settings(); print('pydantic_settings' in sys.modules)"
    seen = run([sys.executable, "-c", source], capture_output=True, text=True, check=True, env=os.environ | {})
    assert seen.stdout.strip() == "False"
