"""What a panel shows where one quiet stack would not tell: two routers, a process of two versions, forked services."""

import subprocess
from pathlib import Path

import pytest
import yaml

from dashboards.generator.page_files import pages

RULES = Path(__file__).parents[2] / "dashboards" / "prometheus" / "rules" / "recording.yml"
SERIES = {
    # Every router sees the whole deployment.
    'inferlane_pool_lag_records{model="iris", version="v1", lane="requests", instance="r1"}': "50x10",
    'inferlane_pool_lag_records{model="iris", version="v1", lane="requests", instance="r2"}': "50x10",
    'inferlane_pool_lag_records{model="iris", version="v1", lane="bulk", instance="r1"}': "7x10",
    # One process serves two versions, another one of them too.
    'inferlane_worker_model_size_bytes{model="iris", version="v1", instance="w1"}': "300x10",
    'inferlane_worker_model_size_bytes{model="iris", version="v2", instance="w1"}': "400x10",
    'inferlane_worker_model_size_bytes{model="iris", version="v2", instance="w2"}': "400x10",
    'process_resident_memory_bytes{instance="w1"}': "1000x10",
    'process_resident_memory_bytes{instance="w2"}': "200x10",
    'process_resident_memory_bytes{instance="a1"}': "5x10",
    'process_cpu_seconds_total{instance="w1"}': "0+30x10",
    'process_cpu_seconds_total{instance="w2"}': "0+60x10",
    # A forked service exports every family that has no labels.
    'inferlane_api_waiting_requests{component="api", process="api"}': "3x10",
    'inferlane_api_waiting_requests{component="router", process="router"}': "0x10",
}
OF_IRIS = '{model="iris", version="%s"}'
SHOWN = {
    ("inferlane-overview", "Waiting records"): {"{}": 57},
    ("inferlane-versions", "Memory"): {OF_IRIS % "v1": 1000, OF_IRIS % "v2": 1200},
    ("inferlane-versions", "CPU"): {OF_IRIS % "v1": 0.5, OF_IRIS % "v2": 1.5},
    ("inferlane-api", "Clients that wait"): {'{process="api"}': 3},
}


@pytest.mark.parametrize(("page", "title"), SHOWN, ids=lambda name: name)
def test_a_panel_shows_each_thing_once(page: str, title: str, tmp_path: Path) -> None:
    (panel,) = (each for one in pages() if one.uid == page for each in one.panels if each.title == title)
    asked = {
        "expr": panel.queries[0].expr.replace("$__rate_interval", "2m").replace("$model", ".*"),
        "eval_time": "9m",
        "exp_samples": [{"labels": labels, "value": value} for labels, value in SHOWN[page, title].items()],
    }
    series = [{"series": name, "values": values} for name, values in SERIES.items()]
    test = {"interval": "1m", "input_series": series, "promql_expr_test": [asked]}
    case = tmp_path / "case.yml"
    case.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": [test]}))

    ran = subprocess.run(["promtool", "test", "rules", case], capture_output=True, text=True, check=False)

    assert ran.returncode == 0, ran.stdout + ran.stderr
