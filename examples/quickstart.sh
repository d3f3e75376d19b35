#!/usr/bin/env bash
# The main job on the embedded data: offline, in seconds. Run it with: make quickstart
#
# DATA is the data set to make; started again, finished stages are skipped (--update).
set -euo pipefail
DATA=${DATA:-runs/quickstart/data}

# 1,500 made-up users rate 800 made-up items. Taste is carried by words of the titles, and the true
# probability of every like is known, so the table below can say what the best score is.
rectool prep synthetic --out "$DATA" --update --quiet

# What it is: counts, splits, the best reachable AUC and UAUC, and where it came from.
rectool inspect "$DATA"
