"""Write the alert rules as a PrometheusRule for the Prometheus operator: `python -m deploy.prometheus.generate`.

`make docs` runs this. The rules themselves are in `rules.yml`, and stand in the object as they stand there.
"""

from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
OBJECT: Final = HERE.parent / "kubernetes" / "monitoring" / "rules.yaml"

HEAD: Final = """\
# Made by `make docs` from deploy/prometheus/rules.yml, which says more of these rules. Change them there.
# A Prometheus that selects rules by a label wants it here: patch it in your overlay.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: whatsms-events
  labels: {app.kubernetes.io/name: whatsms-events}
spec:
"""


def rule_object() -> str:
    """Return the text of the object: all groups of `rules.yml`, deeper by one step, without what stands above them."""
    groups = (HERE / "rules.yml").read_text(encoding="utf-8").partition("\ngroups:\n")[2]
    lines = ["groups:", *groups.splitlines()]
    return HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines)


if __name__ == "__main__":
    OBJECT.write_text(rule_object(), encoding="utf-8")
