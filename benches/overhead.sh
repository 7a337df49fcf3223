#!/usr/bin/env bash
# What `whystall run` costs the host: CPU-seconds a minute and memory with 10, 500 and 2000 more cgroups, and how long it
# takes to start. Run as root; it makes cgroups below one scratch group and removes them again.
#
#   benches/overhead.sh [-s SECONDS] [-w WARM-UP] [-r ROUNDS] [-t] [-b PROGRAM] [CGROUPS]...
#
# -s  measure this long (60)           -w  before that, let it run this long (20)
# -r  measure this often (1)           -t  a sleeping process in each cgroup as well
# -b  the program (target/release/whystall below CARGO_TARGET_DIR or the repository)
#
# CPU time is what the kernel accounts to the threads (schedstat, to the nanosecond), and beside it utime + stime, which
# has ticks of 10 ms. Memory is the proportional set size. Needs bash 5 and coreutils, nothing else.
set -euo pipefail
export LC_ALL=C

seconds=60 warm=20 rounds=1 tasks=
here=$(cd "$(dirname "$0")/.." && pwd)
program=${CARGO_TARGET_DIR:-$here/target}/release/whystall
while getopts s:w:r:tb: option; do
  case $option in
    s) seconds=$OPTARG ;;
    w) warm=$OPTARG ;;
    r) rounds=$OPTARG ;;
    t) tasks=yes ;;
    b) program=$OPTARG ;;
    *) exit 2 ;;
  esac
done
shift $((OPTIND - 1))
if (($# > 0)); then counts=("$@"); else counts=(10 500 2000); fi
[[ -x $program ]] || { echo "no program $program: cargo build --release" >&2; exit 2; }
((EUID == 0)) || { echo "only root can make cgroups" >&2; exit 2; }

name=whystall-overhead-$$
work=$(mktemp -d)
pid=
sleepers=()

# The scratch group in each hierarchy that whystall reads: the one of v2, or those of v1.
parents=()
if [[ -e /sys/fs/cgroup/cgroup.controllers ]]; then
  parents+=("/sys/fs/cgroup/$name")
else
  for controller in memory cpu cpuacct; do
    dir=$(readlink -f "/sys/fs/cgroup/$controller")
    [[ -d $dir && " ${parents[*]-} " != *" $dir/$name "* ]] && parents+=("$dir/$name")
  done
fi

remove_cgroups() {
  if ((${#sleepers[@]} > 0)); then
    kill "${sleepers[@]}" 2>/dev/null || true
    wait "${sleepers[@]}" 2>/dev/null || true
    sleepers=()
  fi
  for parent in "${parents[@]}"; do
    # cgroup directories are removed one by one; their files go with them.
    if [[ -d $parent ]]; then find "$parent" -depth -type d -exec rmdir {} + || true; fi
  done
}

stop() {
  if [[ -n $pid ]]; then
    kill "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    pid=
  fi
}

clean() {
  stop
  remove_cgroups
  rm -rf "$work"
}
trap clean EXIT
trap 'exit 130' INT TERM

make_cgroups() {
  local parent i
  for parent in "${parents[@]}"; do
    mkdir "$parent"
    if [[ -e $parent/cgroup.controllers ]]; then
      echo "+memory +cpu" >"${parent%/*}/cgroup.subtree_control"
      echo "+memory +cpu" >"$parent/cgroup.subtree_control"
    fi
    for ((i = 0; i < $1; i++)); do echo "$parent/c$i"; done | xargs -r mkdir
  done
  [[ -n $tasks ]] || return 0
  for ((i = 0; i < $1; i++)); do
    sleep 86400 &
    sleepers+=($!)
    for parent in "${parents[@]}"; do echo $! >"$parent/c$i/cgroup.procs"; done
  done
}

# The threads of $1: one that ended meanwhile takes its account with it.
threads() { echo "/proc/$1"/task/*; }

# Nanoseconds that all threads of $1 ran.
run_ns() { cat "/proc/$1"/task/*/schedstat | { sum=0; while read -r ran _; do sum=$((sum + ran)); done; echo "$sum"; }; }

# utime + stime of $1, in ticks.
ticks() {
  local stat
  read -r stat <"/proc/$1/stat"
  # The name may have spaces; the fields after it are counted from its end.
  set -- ${stat##*) }
  echo $((${12} + ${13}))
}

pss_kib() { while read -r key value _; do if [[ $key == Pss: ]]; then echo "$value"; fi; done <"/proc/$1/smaps_rollup"; }

# Processes and threads started since boot: how idle the host is.
forks() { while read -r key value _; do if [[ $key == processes ]]; then echo "$value"; fi; done </proc/stat; }

# All memory cgroups of the host: others' count, too.
all_cgroups() { find "${parents[0]%/*}" -type d 2>/dev/null | wc -l || true; }

now_us() { echo $((${EPOCHREALTIME/./})); }

# Milliseconds from exec to the line that says that it watches, ten times, in order.
starts() {
  local i begun ended
  mkfifo "$work/said"
  for ((i = 0; i < 10; i++)); do
    begun=$(now_us)
    "$program" run --output json --for 10s >/dev/null 2>"$work/said" &
    pid=$!
    exec 3<"$work/said"
    while read -r line <&3; do
      [[ $line == *watching* ]] && break
    done
    ended=$(now_us)
    stop
    exec 3<&-
    echo $((ended - begun))
  done | sort -n | { mapfile -t all; printf 'start to watching: median %d.%d ms (%d.%d to %d.%d), 10 starts\n' \
    $((all[5] / 1000)) $((all[5] / 100 % 10)) $((all[0] / 1000)) $((all[0] / 100 % 10)) \
    $((all[9] / 1000)) $((all[9] / 100 % 10)); }
}

clk=$(getconf CLK_TCK)
echo "$(uname -r), $(nproc) CPUs, load $(cut -d' ' -f1 /proc/loadavg), $(ls -d /proc/[0-9]* | wc -l) processes, $program"
starts
printf '%8s %6s  %14s %14s %10s %8s %8s %8s\n' cgroups tasks 'CPU-s/min' '(by ticks)' 'PSS MiB' threads forks/s 'all cg.'
for count in "${counts[@]}"; do
  make_cgroups "$count"
  for ((round = 0; round < rounds; round++)); do
    "$program" run --output json --for $((warm + seconds + 60))s >"$work/out" 2>"$work/err" &
    pid=$!
    sleep "$warm"
    cpu=$(run_ns $pid) tick=$(ticks $pid) begun=$(now_us) forked=$(forks) before=$(threads $pid) all=$(all_cgroups)
    sleep "$seconds"
    forked=$((($(forks) - forked) / seconds))
    cpu=$(($(run_ns $pid) - cpu)) tick=$(($(ticks $pid) - tick)) took=$(($(now_us) - begun))
    count_threads=$(ls "/proc/$pid/task" | wc -l)
    notes=
    if [[ $(threads $pid) != "$before" ]]; then notes+='  threads changed: see by ticks'; fi
    if (($(all_cgroups) != all)); then notes+='  others made or removed cgroups'; fi
    pss=$(pss_kib $pid)
    # Microseconds of CPU a minute.
    by_run=$((cpu / 1000 * 60000000 / took)) by_ticks=$((tick * 1000000 / clk * 60000000 / took))
    printf '%8d %6d  %10d.%03d %10d.%03d %8d.%d %8d %8d %8d%s\n' "$count" "${#sleepers[@]}" \
      $((by_run / 1000000)) $((by_run / 1000 % 1000)) $((by_ticks / 1000000)) $((by_ticks / 1000 % 1000)) \
      $((pss / 1024)) $((pss % 1024 * 10 / 1024)) "$count_threads" "$forked" "$all" "$notes"
    stop
    if [[ -s $work/out ]]; then echo "  $(wc -l <"$work/out") verdicts, the first: $(head -c 200 "$work/out")"; fi
  done
  remove_cgroups
done
