/* Waits for kernel locks (kernel 5.19 and later). Off by default: how often locks are contended is up to the load. */
#pragma once
#include "common.h"
#include "memory.h"

#define LCB_F_SPIN 1	/* include/trace/events/lock.h */

SEC("tp_btf/contention_begin")
int lock_begin(__u64 *ctx)
{
	struct ws_cpu *cpu = this_cpu();
	__u32 flags = ctx[1];

	if (!cpu)
		return 0;
	/* Who spins stays on this CPU; an interrupt that spins as well hides the wait that it interrupts. */
	if (flags & LCB_F_SPIN) {
		cpu->spin_lock = ctx[0];
		cpu->spin_began = bpf_ktime_get_ns();
		return 0;
	}
	return begin(WS_LOCK, flags);
}

SEC("tp_btf/contention_end")
int lock_end(__u64 *ctx)
{
	struct inflight_key key = { .kind = WS_LOCK, .pid = bpf_get_current_pid_tgid() };
	struct ws_cpu *cpu = this_cpu();
	__u64 waited, flags = LCB_F_SPIN;
	struct inflight *began;

	if (!cpu)
		return 0;
	if (cpu->spin_lock == ctx[0]) {
		waited = bpf_ktime_get_ns() - cpu->spin_began;
		cpu->spin_lock = 0;
	} else {
		began = bpf_map_lookup_elem(&inflight, &key);
		if (!began)
			return 0;
		waited = bpf_ktime_get_ns() - began->began_ns;
		flags = began->aux;
		bpf_map_delete_elem(&inflight, &key);
	}
	if (waited >= lock_threshold_ns)
		send_stack(ctx, WS_LOCK, waited, flags, waited >= 4 * lock_threshold_ns);
	return 0;
}
