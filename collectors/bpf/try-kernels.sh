#!/usr/bin/env bash
# Boots other kernels under qemu (no KVM needed) with cgroup v2 alone and checks there, on each:
# - the probes: all load by BPF, and tell a real-time hog and a reclaim at a memory limit;
# - whystall itself, by faults of the lab: `memory.max`, `memory.high`, and removed cgroups that page cache keeps.
# `collectors/bpf/try-kernels.sh [PACKAGE]...`, for example linux-image-6.12-cloud-amd64; without one, the newest signed
# cloud kernels of 6.1 and 6.12. They run side by side, which takes three minutes on two quiet CPUs.
# KERNELS_LAB=0 leaves the lab out; KERNELS_KEEP=DIR keeps the packages and the consoles' logs there.
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
release=${CARGO_TARGET_DIR:-target}/release
programs=("$release/examples/latency")
faults=()
if [[ ${KERNELS_LAB:-1} != 0 ]]; then
  faults=(memcg_limit_nested memcg_high zombie_growth)
  cargo build --release --locked --bin whystall
  lab=$(cargo test --release --locked --test lab --no-run 2>&1 | sed -n 's/.*Executable .*(\(.*\))$/\1/p')
  [[ -x $lab ]] || { echo "the lab was not built" >&2; exit 1; }
  programs+=("$release/whystall")
fi

root=$dir/root
rm -rf "$root"
mkdir -p "$root"/{bin,proc,sys,dev,tmp,run,lib64,var/tmp}
cp "${programs[@]}" "$(command -v busybox)" "$(command -v chrt)" "$root/bin"
((${#faults[@]})) && cp "$lab" "$root/bin/lab"
for applet in sh mount taskset sleep cat mkdir rmdir poweroff grep uname dd timeout kill; do
  ln -s busybox "$root/bin/$applet"
done
for library in $(ldd "$root/bin/"{latency,chrt} $( ((${#faults[@]})) && echo "$root/bin/"{whystall,lab}) |
  grep -o '/[^ :]*' | grep '\.so' | sort -u); do
  mkdir -p "$root$(dirname "$library")"
  cp -L "$library" "$root$library"
done
cat > "$root/init" <<INIT
#!/bin/sh
export PATH=/bin LAB_QUICK=1 LAB_DIR=/var/tmp LAB_WHYSTALL=/bin/whystall RUST_BACKTRACE=1
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs none /tmp
mount -t ext4 /dev/nvme0n1 /var/tmp
mount -t cgroup2 none /sys/fs/cgroup
cd /sys/fs/cgroup
echo "+memory +cpu" > cgroup.subtree_control
latency 20 > /tmp/out 2>&1 &
probes=\$!
until grep -q ^probes /tmp/out; do sleep 1; done
# A busy victim, and a FIFO hog that takes its CPU.
mkdir victim limited
sh -c 'echo \$\$ > victim/cgroup.procs; exec taskset 2 sh -c "while :; do :; done"' &
victim=\$!
sleep 1
timeout 1 chrt -f 50 taskset 2 sh -c 'while :; do :; done'
kill \$victim
# A writer at its memory limit.
echo 16M > limited/memory.max
sh -c 'echo \$\$ > limited/cgroup.procs; exec timeout 5 dd if=/dev/zero of=/tmp/big bs=1M count=64' 2> /dev/null
wait \$probes
cat /tmp/out
for fault in ${faults[*]}; do lab --exact \$fault; done
echo END
poweroff -f
INIT
chmod +x "$root/init"
(cd "$root" && find . | cpio --quiet -o -H newc | gzip -1) > "$dir/initrd"

boot() {
  local package=$1
  rm -f "$dir/$package.disk"
  truncate -s 3G "$dir/$package.disk"
  mkfs.ext4 -q -F -E lazy_itable_init=1,lazy_journal_init=1 "$dir/$package.disk"
  timeout 330 qemu-system-x86_64 -accel tcg -cpu max -smp 2 -m 2048 -nographic -no-reboot -nic none \
    -kernel "$dir/$package"/boot/vmlinuz-* -initrd "$dir/initrd" -append "console=ttyS0 quiet panic=1 psi=1" \
    -drive "file=$dir/$package.disk,format=raw,if=none,id=disk,cache=unsafe" -device nvme,drive=disk,serial=lab \
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
  for fault in "${faults[@]}"; do
    grep -Eaq "^test $fault +\.\.\. ok" "$log" || problems+=("the lab's $fault did not pass")
  done
  grep -aq '^END' "$log" || problems+=("it did not come to its end")
  if ((${#problems[@]})); then
    failed=1
    printf '%s: FAILED: %s\n' "$package" "${problems[*]}"
    tail -n 80 "$log"
  else
    echo "$package: $loaded probes, hog and reclaim told"
    grep -a '^| `' "$log"
  fi
done
exit "$failed"
