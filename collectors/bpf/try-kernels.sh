#!/usr/bin/env bash
# Boots other kernels under qemu (no KVM needed) with cgroup v2 alone and checks there, on each:
# - the probes: all load by BPF, and tell a real-time hog and a reclaim at a memory limit;
# - whystall itself: its verdicts about a burst at `memory.max`, one at `memory.high`, and removed cgroups that page cache
#   keeps. Emulated CPUs are slow, so it is waited for what must be told, and nothing is said about how soon.
# `collectors/bpf/try-kernels.sh [PACKAGE]...`, for example linux-image-6.12-cloud-amd64; without one, the newest signed
# cloud kernels of 6.1 and 6.12, side by side. One took two minutes, with unoptimised programs beside builds.
# KERNELS_KEEP=DIR keeps the packages and the consoles' logs there; KERNELS_WHYSTALL=FILE is tried instead of a release build.
# Wants Debian with qemu-system-x86, busybox-static, cpio, e2fsprogs and util-linux, and network to its package archive.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

skip() { echo "skipped: $1"; exit 0; }

PATH=$PATH:/usr/sbin:/sbin
for tool in qemu-system-x86_64 cpio busybox chrt dpkg-deb apt-get mkfs.ext4; do
  command -v "$tool" > /dev/null || skip "no $tool"
done
if (($# == 0)); then
  mapfile -t packages < <(for series in 6.1 6.12; do
    apt-cache search --names-only "^linux-image-${series//./\\.}\\.[0-9].*-cloud-amd64$" | cut -d' ' -f1 | sort -V | tail -1
  done)
else
  packages=("$@")
fi
((${#packages[@]})) || skip "the package lists name no cloud kernel of 6.1 or 6.12 (apt-get update, bookworm-backports)"

if [[ -n ${KERNELS_KEEP:-} ]]; then
  dir=$(realpath "$KERNELS_KEEP")
else
  dir=$(mktemp -d)
  trap 'rm -rf "$dir"' EXIT
fi
for package in "${packages[@]}"; do
  [[ -e $dir/$package ]] && continue
  (cd "$dir" && timeout 120 apt-get -q download "$package") || skip "$package cannot be downloaded"
  mkdir "$dir/$package.new"
  dpkg-deb -x "$dir/$package"_*.deb "$dir/$package.new"
  mv "$dir/$package.new" "$dir/$package"
done

cargo build --release --locked -p whystall-collectors --example latency
[[ -n ${KERNELS_WHYSTALL:-} ]] || cargo build --release --locked --bin whystall
built=${CARGO_TARGET_DIR:-target}/release
whystall=${KERNELS_WHYSTALL:-$built/whystall}
programs=("$built/examples/latency" "$whystall" "$(command -v busybox)" "$(command -v chrt)")

root=$dir/root
rm -rf "$root"
mkdir -p "$root"/{bin,proc,sys,dev,tmp,disk,lib64}
cp "${programs[@]}" "$root/bin"
for applet in sh mount taskset sleep cat mkdir rmdir poweroff grep uname dd timeout kill sync; do
  ln -s busybox "$root/bin/$applet"
done
for library in $(ldd "$built/examples/latency" "$whystall" "$(command -v chrt)" | grep -o '/[^ :]*' | grep '\.so' | sort -u); do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
cat > "$root/init" <<'INIT'
#!/bin/sh
export PATH=/bin
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
mount -t ext4 /dev/nvme0n1 /disk
mount -t cgroup2 none /sys/fs/cgroup
cd /sys/fs/cgroup
echo "+memory +cpu" > cgroup.subtree_control
latency 20 > /tmp/out 2>&1 &
probes=$!
until grep -q ^probes /tmp/out; do sleep 1; done
# A busy victim, and a FIFO hog that takes its CPU.
mkdir victim limited
sh -c 'echo $$ > victim/cgroup.procs; exec taskset 2 sh -c "while :; do :; done"' &
victim=$!
sleep 1
timeout 1 chrt -f 50 taskset 2 sh -c 'while :; do :; done'
kill $victim
# A writer at its memory limit.
echo 16M > limited/memory.max
sh -c 'echo $$ > limited/cgroup.procs; exec timeout 5 dd if=/dev/zero of=/tmp/big bs=1M count=64' 2> /dev/null
wait $probes
cat /tmp/out

# The faults for whystall itself, each until it is told or 60 s are over.
dd if=/dev/zero of=/disk/big bs=1M count=64 2> /dev/null
i=0; while [ $i -lt 48 ]; do dd if=/dev/zero of=/disk/log$i bs=16k count=1 2> /dev/null; i=$((i + 1)); done
sync
echo 3 > /proc/sys/vm/drop_caches
whystall run --output json > /tmp/verdicts 2> /tmp/log &
daemon=$!
until grep -q watching /tmp/log; do sleep 1; done
sleep 5
told() { # NAME RULE CAUSE SUBJECT
  i=0
  until grep "\"rule\":\"$2\",\"cause\":\"$3\"" /tmp/verdicts | grep -q "\"subject\":\"$4\""; do
    i=$((i + 1))
    [ $i -gt 60 ] && { echo "not told $1"; return; }
    sleep 1
  done
  echo "told $1"
}
at_limit() { # FILE of the limit
  mkdir at-$1
  echo 16M > at-$1/memory.$1
  sh -c "echo \$\$ > at-$1/cgroup.procs; while :; do dd if=/disk/big of=/dev/null bs=1M; done" 2> /dev/null &
  told memory.$1 memory.direct_reclaim_burst $2 cgroup:/at-$1
  for pid in $(cat at-$1/cgroup.procs); do kill -9 $pid; done
  echo "kernel: $(cat at-$1/memory.events)"
}
at_limit max memcg.limit
at_limit high memcg.high
mkdir jobs
echo "+memory" > jobs/cgroup.subtree_control
i=0
while [ $i -lt 48 ]; do
  mkdir jobs/job-$i
  sh -c "echo \$\$ > jobs/job-$i/cgroup.procs; exec cat /disk/log$i" > /dev/null
  rmdir jobs/job-$i
  i=$((i + 1))
done
told zombies memory.zombie_memcg_growth memcg.leak.page_cache host
grep memory.zombie_memcg_growth /tmp/verdicts | grep -q "below /jobs" && echo "told parent"
echo "kernel: $(cat jobs/cgroup.stat)"
kill $daemon
wait $daemon
cat /tmp/verdicts /tmp/log
echo END
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$dir/initrd"

boot() {
  local package=$1
  rm -f "$dir/$package.disk"
  truncate -s 256M "$dir/$package.disk"
  mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 "$dir/$package.disk"
  timeout 300 qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 1024 -nographic -no-reboot -nic none \
    -kernel "$dir/$package"/boot/vmlinuz-* -initrd "$dir/initrd" -append "console=ttyS0 quiet panic=1 psi=1 no_timer_check" \
    -drive "file=$dir/$package.disk,format=raw,if=none,id=disk,cache=unsafe" -device nvme,drive=disk,serial=disk \
    < /dev/null > "$dir/$package.log" 2>&1 || true
  rm -f "$dir/$package.disk"
}
for package in "${packages[@]}"; do boot "$package" & done
wait

failed=0
for package in "${packages[@]}"; do
  log=$dir/$package.log
  loaded=$(grep -a '^probes .* level=2 ' "$log" | cut -d' ' -f2 | sort -u | wc -l)
  problems=()
  ((loaded == 10)) || problems+=("$loaded of 10 probes loaded")
  grep -aq '^runq cgroup:/victim .*culprit_rt=1' "$log" || problems+=("the hog was not told")
  grep -aq '^nosched .*rt=1' "$log" || problems+=("the CPU that did not schedule was not told")
  grep -aq '^reclaim.memcg cgroup:/limited ' "$log" || problems+=("the reclaim was not told")
  for what in memory.max memory.high zombies parent; do
    grep -Eaq "^told $what" "$log" || problems+=("no right verdict about $what")
  done
  grep -aq '^END' "$log" || problems+=("it did not come to its end")
  if ((${#problems[@]})); then
    failed=1
    printf '%s: FAILED: %s\n' "$package" "${problems[*]}"
    tail -n 80 "$log"
  else
    echo "$package: $loaded probes, hog, reclaim, memory.max, memory.high and zombies told"
  fi
done
exit "$failed"
