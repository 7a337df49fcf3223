#!/usr/bin/env bash
# What the probes in the kernel cost the work that they watch: interleaved pairs of a load without and with a running
# whystall (default settings). Run as root on a machine that is otherwise quiet.
#
#   benches/probes.sh [-n PAIRS] [-b PROGRAM] [-u LOOPBACK] [pipe|messaging|udp]...
#
# -n  pairs of each load (12)
# -b  the program (target/release/whystall below CARGO_TARGET_DIR or the repository)
# -u  the program of the load `udp`; without it `cargo bench --bench loopback --no-run` builds one
#
# pipe       perf bench sched pipe: two tasks that wake each other; CPU time of both, as the kernel accounts it
# messaging  perf bench sched messaging: 400 tasks that send to one another; wall time
# udp        packets a second over loopback, one softirq a packet, for 8 s: at first, and once the probes stepped down
#
# For each load the median of the pairs' ratios and their quartiles; for udp each second's. Needs bash 5, awk, and perf
# (Debian: linux-perf) for the first two.
set -euo pipefail
export LC_ALL=C

pairs=12 udp=
here=$(cd "$(dirname "$0")/.." && pwd)
program=${CARGO_TARGET_DIR:-$here/target}/release/whystall
while getopts n:b:u: option; do
  case $option in
    n) pairs=$OPTARG ;;
    b) program=$OPTARG ;;
    u) udp=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
if (($# > 0)); then loads=("$@"); else loads=(pipe messaging udp); fi
[[ -x $program ]] || { echo "no program $program: cargo build --release" >&2; exit 2; }
((EUID == 0)) || { echo "only root can load the probes" >&2; exit 2; }

work=$(mktemp -d)
pid=
stop() {
  if [[ $pid ]]; then kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; fi
  pid=
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

start() {
  STATE_DIRECTORY=$work "$program" run --output json > "$work/out" 2> "$work/err" &
  pid=$!
  for _ in {1..100}; do
    if grep -q watching "$work/err"; then sleep 2; return; fi
    sleep 0.1
  done
  echo "whystall did not start: $(tail -n 3 "$work/err")" >&2
  exit 1
}

# CPU seconds of a command and its children, user and system.
cpu() {
  local TIMEFORMAT='%U %S'
  { time "$@" > /dev/null 2>&1; } 2>&1 | awk '{print $1 + $2}'
}

one() {
  case $1 in
    pipe) cpu perf bench sched pipe -l 300000 ;;
    messaging) perf bench -f simple sched messaging -l 400 2>/dev/null ;;
  esac
}

# Reads numbers; prints median and quartiles of them less 1, in percent.
summary() {
  sort -g | awk '{x[NR] = 100 * ($1 - 1)} function q(p,  i) {i = 1 + p * (NR - 1); return x[int(i)] + (i - int(i)) * (x[int(i) + (i > int(i))] - x[int(i)])}
    END {printf "median %+.1f %%, quartiles %+.1f to %+.1f %%, %d pairs\n", q(0.5), q(0.25), q(0.75), NR}'
}

for load in "${loads[@]}"; do
  case $load in
    pipe | messaging)
      command -v perf > /dev/null || { echo "$load: skipped: no perf (Debian: apt-get install linux-perf)"; continue; }
      one "$load" > /dev/null
      for ((i = 0; i < pairs; i++)); do
        without=$(one "$load")
        start
        with=$(one "$load")
        stop
        awk -v a="$without" -v b="$with" 'BEGIN {print b / a}'
      done | summary | sed "s/^/$load: /"
      ;;
    udp)
      if [[ ! $udp ]]; then
        udp=$(cd "$here" && cargo bench --bench loopback --no-run --message-format short 2>&1 | sed -n 's/.*(\(.*loopback-[0-9a-f]*\)).*/\1/p' | tail -n 1)
        [[ $udp == /* ]] || udp=$here/$udp
      fi
      for ((i = 0; i < pairs; i++)); do
        "$udp" 8 > "$work/without"
        start
        "$udp" 8 > "$work/with"
        stop
        paste "$work/without" "$work/with" | awk '{print NR, $2 / $1, $1}'
      done > "$work/udp"
      for second in 1 2 3 4 5 6 7 8; do
        awk -v s="$second" '$1 == s {print $2}' "$work/udp" | summary | sed "s/^/udp, second $second: /"
      done
      awk '{sum += $3} END {printf "udp: %.0f packets/s without\n", sum / NR}' "$work/udp"
      ;;
    *) echo "no load $load" >&2; exit 2 ;;
  esac
done
