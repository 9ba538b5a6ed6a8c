#!/usr/bin/env bash
# Gathers the wheels that a machine without a network lacks, of Python 3.12 on x86-64:
#
#   benchmarks/pack_wheels.sh FOLDER NAMES
#
# NAMES is a file with what `pip list --format=freeze` says there. On that machine,
# `pip install --no-index --no-deps --target SITE FOLDER/*.whl` installs them.
set -euo pipefail
mkdir -p "$1"
folder=$(realpath "$1") names=$(realpath "$2")
cd "$(dirname "$0")/.."

# It is published as source alone; its wheel is of every Python.
python3 -m pip wheel --quiet --no-deps --wheel-dir "$folder" promise

platforms=()
for glibc in 17 24 26 27 28 31 34 35 39; do
  platforms+=(--platform "manylinux_2_${glibc}_x86_64")
done
target=(--only-binary=:all: --python-version 3.12 --implementation cp
  "${platforms[@]}" --platform manylinux2014_x86_64 --platform manylinux1_x86_64)

# What the project and its tests ask for, but for tests of notebooks, types and style.
requirements() {
  python3 - <<'EOF'
import configparser, re

config = configparser.ConfigParser()
config.read("setup.cfg")
extras = config["options.extras_require"]
for line in (config["options"]["install_requires"] + extras["test"]).split("\n"):
    if re.match(r"\w", line) and not re.match("ipykernel|nbclient|nbformat|pyright|ruff", line):
        print(line)
EOF
}
resolved=$(requirements | python3 -m pip install --quiet --dry-run --ignore-installed \
  --report - --find-links "$folder" "${target[@]}" --target "$folder" \
  --requirement /dev/stdin)

# Names are compared as pip does, without case and with one kind of dash.
missing=$(python3 - "$names" 3<<<"$resolved" <<'EOF'
import json, re, sys

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

there = {plain(re.split(r"[=@ ]", line.strip())[0]) for line in open(sys.argv[1])}
there.add("promise")
for item in json.load(open(3))["install"]:
    found = item["metadata"]
    if plain(found["name"]) not in there:
        print(f"{found['name']}=={found['version']}")
EOF
)
python3 -m pip download --quiet --no-deps --dest "$folder" "${target[@]}" $missing
ls -l "$folder"
du -sh "$folder"
