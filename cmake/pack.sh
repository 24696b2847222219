#!/usr/bin/env bash
# usage: pack.sh BUILD FOLDER [SUFFIX]. Packs the command of a build with what it needs into
# FOLDER/longhaul-VERSION-SYSTEM[SUFFIX].tar.gz, which runs wherever there is a C library as new as this machine's.
set -euo pipefail
build=$1 folder=$2
name=longhaul-$("$build/longhaul" --version | awk '{ print $NF }')-$(uname -sm | tr 'A-Z ' 'a-z-')${3:-}
stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
cmake --install "$build" --strip --prefix "$stage/$name" > /dev/null
for library in "$stage/$name"/lib*/longhaul/*; do  # each with its licence
  owner=$(dpkg -S "*/$(basename "$library")" | head -1 | cut -d: -f1)
  cp -L "/usr/share/doc/$owner/copyright" "$stage/$name/share/doc/longhaul/LICENSE.$owner"
done
tar -C "$stage" -czf "$folder/$name.tar.gz" "$name"
echo "$name.tar.gz: $(du -h "$folder/$name.tar.gz" | cut -f1)"
