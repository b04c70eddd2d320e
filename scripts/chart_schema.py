"""Writes the settings into the schema of the chart's values: `chart_schema.py deploy/chart/values.schema.json`.

The rest of the schema is written by hand.
"""

import json
import sys
from pathlib import Path
from typing import Any

from sandbox_server.settings import Settings


def settings() -> dict[str, Any]:
    """Returns the schema of each setting by its name in kebab case, with its help text."""
    fields = Settings.model_json_schema()["properties"]
    hidden = {"default", "title", "format", "writeOnly"}
    return {
        name.replace("_", "-"): {key: value for key, value in field.items() if key not in hidden}
        for name, field in fields.items()
        if not Settings.model_fields[name].exclude
    }


def written(schema: str) -> str:
    """Returns the text of the schema with the settings of today."""
    content = json.loads(schema)
    content["properties"]["settings"]["properties"] = settings()
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    target = Path(sys.argv[1])
    target.write_text(written(target.read_text()))
