#!/usr/bin/env bash
# Builds the BPF objects that are checked in beside their sources: `collectors/bpf/build.sh`.
# `--check` builds them elsewhere and compares byte for byte; the result does not depend on the directory.
# Wants clang-14 and llvm-strip-14 (Debian 12: apt-get install clang-14 llvm-14), and exactly those.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

objects=(latency inject)
for tool in clang-14 llvm-strip-14; do
  command -v "$tool" > /dev/null || { echo "build.sh: no $tool: apt-get install clang-14 llvm-14" >&2; exit 2; }
done

# build NAME OUT
build() {
  clang-14 -target bpfel -mcpu=v2 -g -O2 -std=gnu11 -Wall -Werror -Wno-unused-variable -Wno-unused-function \
    -ffile-prefix-map="$PWD"=. -fdebug-compilation-dir=. -c "$1.bpf.c" -o "$2"
  llvm-strip-14 -g "$2"
}

case ${1-} in
  '')
    for name in "${objects[@]}"; do
      build "$name" "$name.bpf.o"
    done
    ;;
  --check)
    dir=$(mktemp -d)
    trap 'rm -rf "$dir"' EXIT
    for name in "${objects[@]}"; do
      build "$name" "$dir/$name.bpf.o"
      cmp "$dir/$name.bpf.o" "$name.bpf.o" || { echo "build.sh: $name.bpf.o is not what its source gives" >&2; exit 1; }
    done
    echo "${#objects[@]} objects are what their sources give"
    ;;
  *)
    echo "usage: build.sh [--check]" >&2
    exit 2
    ;;
esac
