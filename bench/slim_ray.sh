#!/usr/bin/env bash
# Wheels for a machine without network that has torch and transformers: everything else that
# bench/gpu.py needs, with a Ray small enough to carry (41 MB of 70: enough for Ray Data).
# Packages that are there already can be named, to carry less.
#
#   bench/slim_ray.sh FOLDER [PYTHON_VERSION [PACKAGE_THERE ...]]
set -euo pipefail
folder=${1:?usage: bench/slim_ray.sh FOLDER [PYTHON_VERSION [PACKAGE_THERE ...]]}
version=${2:-3.12}
shift $(($# < 2 ? $# : 2))
root=$(cd "$(dirname "$0")/.." && pwd)
pip=("${PIP_PYTHON:-python3}" -m pip --disable-pip-version-check)

mkdir -p "$folder"
platforms=()
for tag in manylinux_2_39 manylinux_2_35 manylinux_2_34 manylinux_2_31 manylinux_2_28 manylinux_2_27 \
  manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
  platforms+=(--platform "${tag}_x86_64")
done
# Exact versions, from the lock file, of what the job imports for local files beside torch,
# transformers and what those bring.
names='^(ray|pyarrow|pandas|python-dateutil|six|soundfile|cffi|pycparser|soxr|fsspec|filelock|tenacity|jiwer|rapidfuzz|click|cyclopts|rich|rich-rst|docstring_parser|docutils|attrs|markdown-it-py|mdurl|pygments|msgpack|protobuf|jsonschema|jsonschema-specifications|referencing|rpds-py|psutil|aiohttp|aiohappyeyeballs|aiosignal|frozenlist|multidict|propcache|yarl)=='
wanted=()
while read -r line; do
  [[ " $* " == *" ${line%%==*} "* ]] || wanted+=("$line")
done < <(grep -iE "$names" "$root/requirements.lock")
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
