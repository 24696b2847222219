#!/usr/bin/env bash
# golden_check over trained models, whose golden files lie apart from the weights.
# usage: bench/golden_models.sh MODELS GOLDEN   (MODELS/NAME: a model; GOLDEN/NAME-*.safetensors: what transformers gave)
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for golden in "$2"/*.safetensors; do
  case=$(basename "$golden" .safetensors)
  model=$1/${case%%-digest-*}
  mkdir "$work/$case"
  cp "$model"/* "$work/$case/"  # a link out of a model's folder is not followed
  cp "$golden" "$work/$case/golden.safetensors"
done
build/golden_check --bound-bf16 2e-4 "$work"/*
