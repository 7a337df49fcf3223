#!/usr/bin/env bash
# Boots other kernels under qemu (no KVM needed) with cgroup v2 alone, runs the probes there, makes a real-time hog and
# hits a memory limit, and checks that every probe loads by BPF and that the faults are told:
# `collectors/bpf/try-kernels.sh [PACKAGE]...`, for example linux-image-6.12-cloud-amd64.
# Wants Debian with qemu-system-x86, busybox-static, cpio and util-linux, and network to its package archive.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

for tool in qemu-system-x86_64 cpio busybox chrt dpkg-deb; do
  command -v "$tool" > /dev/null || { echo "skipped: no $tool" >&2; exit 0; }
done
if (($# == 0)); then
  # The newest signed cloud kernel of each series.
  mapfile -t packages < <(for series in 6.1 6.12; do
    apt-cache search --names-only "^linux-image-${series//./\\.}\\.[0-9].*-cloud-amd64$" | cut -d' ' -f1 | sort -V | tail -1
  done)
else
  packages=("$@")
fi

cargo build --release -p whystall-collectors --example latency
program=${CARGO_TARGET_DIR:-target}/release/examples/latency
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
root=$dir/root
mkdir -p "$root"/{bin,proc,sys,dev,tmp,lib64}
cp "$program" "$(command -v busybox)" "$(command -v chrt)" "$root/bin"
for applet in sh mount taskset sleep cat mkdir rmdir poweroff grep uname dd timeout kill; do
  ln -s busybox "$root/bin/$applet"
done
for library in $(ldd "$program" "$(command -v chrt)" | grep -o '/[^ :]*' | grep '\.so' | sort -u); do
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
echo END
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$dir/initrd"

failed=0
for package in "${packages[@]}"; do
  (cd "$dir" && apt-get download "$package" > /dev/null && dpkg-deb -x "$package"_*.deb "$dir/$package")
  log=$dir/$package.log
  timeout 300 qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 1024 -nographic -no-reboot \
    -kernel "$dir/$package"/boot/vmlinuz-* -initrd "$dir/initrd" -append "console=ttyS0 quiet panic=1" \
    < /dev/null > "$log" 2>&1 || true
  loaded=$(grep -a '^probes .* level=2 ' "$log" | cut -d' ' -f2 | sort -u | wc -l)
  problems=()
  ((loaded == 10)) || problems+=("$loaded of 10 probes loaded")
  grep -aq '^runq cgroup:/victim .*culprit_rt=1' "$log" || problems+=("the hog was not told")
  grep -aq '^nosched .*rt=1' "$log" || problems+=("the CPU that did not schedule was not told")
  grep -aq '^reclaim.memcg cgroup:/limited ' "$log" || problems+=("the reclaim was not told")
  if ((${#problems[@]})); then
    failed=1
    printf '%s: FAILED: %s\n' "$package" "${problems[*]}"
    tail -n 40 "$log"
  else
    echo "$package: $loaded probes, hog and reclaim told"
  fi
done
exit "$failed"
