#!/usr/bin/env bash
# Wheels for a machine without network that has torch and transformers: everything else that
# bench/gpu.py needs, with a Ray small enough to carry (about 45 MB: enough for Ray Data).
#
#   bench/slim_ray.sh FOLDER [PYTHON_VERSION]
set -euo pipefail
folder=${1:?usage: bench/slim_ray.sh FOLDER [PYTHON_VERSION]}
version=${2:-3.12}
root=$(cd "$(dirname "$0")/.." && pwd)
pip=("${PIP_PYTHON:-python3}" -m pip --disable-pip-version-check)

mkdir -p "$folder"
platforms=()
for tag in manylinux_2_39 manylinux_2_35 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 \
  manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done
# Exact versions, from the lock file; torch, transformers and what they bring are there.
names='^(ray|pyarrow|soundfile|cffi|pycparser|soxr|fsspec|s3fs|aiobotocore|botocore|jmespath|aiohttp|aiohappyeyeballs|aiosignal|aioitertools|attrs|frozenlist|multidict|propcache|yarl|wrapt|python-dateutil|six|urllib3|cyclopts|rich|rich-rst|docstring_parser|docutils|markdown-it-py|mdurl|Pygments|filelock|tenacity|jiwer|RapidFuzz|rapidfuzz|click|msgpack|protobuf|jsonschema|jsonschema-specifications|referencing|rpds-py|pandas|psutil)=='
mapfile -t wanted < <(grep -iE "$names" "$root/requirements.lock")
"${pip[@]}" download -q --no-deps --only-binary=:all: --python-version "$version" \
  --implementation cp "${platforms[@]}" -d "$folder" "${wanted[@]}"

"${PIP_PYTHON:-python3}" - "$folder" <<'PY'
"""Leave out of Ray's wheel what Ray Data does not need."""
import sys
import zipfile
from pathlib import Path

CUT = ("ray/jars/", "ray/rllib/", "ray/tune/", "ray/serve/", "ray/llm/", "ray/dashboard/client/")
for wheel in Path(sys.argv[1]).glob("ray-*.whl"):
    slim = wheel.with_suffix(".slim")
    with zipfile.ZipFile(wheel) as old, zipfile.ZipFile(slim, "w", zipfile.ZIP_DEFLATED) as new:
        for entry in old.infolist():
            if not entry.filename.startswith(CUT):
                new.writestr(entry, old.read(entry), compress_type=zipfile.ZIP_DEFLATED)
    slim.replace(wheel)
PY
du -sh "$folder"
