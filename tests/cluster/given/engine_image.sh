#!/bin/bash
# Makes the image of an engine on a machine of what the machine has: no registry is asked, and nothing is copied to it.
#
#   engine_image.sh NAME CODE     CODE is the text of engine.py
set -eu
release=$(readlink -f /usr/local/bin/harmonicio)
release=${release%/bin/harmonicio}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/engine"
printf '%s' "$2" > "$folder/engine/engine.py"
# Of the release what an engine needs without HASTE.
tar -c --exclude='*/scipy*' --exclude='*/numpy*' --exclude='*/imagecodecs*' --exclude=__pycache__ -C / \
  bin lib lib64 etc/passwd etc/group usr/lib64 usr/lib/x86_64-linux-gnu usr/lib/python3 usr/lib/python3.11 \
  usr/bin/python3 usr/bin/python3.11 "${release#/}" -C "$folder" engine |
  docker import -c "ENTRYPOINT [\"$release/bin/python\", \"-m\", \"harmonicio.engine\"]" -c 'CMD ["/engine/engine.py"]' - "$1"
