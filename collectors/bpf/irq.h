/* Softirqs and hard interrupts: how long they wait and run, and for how long interrupts were off. */
#pragma once
#include "common.h"
#include "sched.h"

INLINE bool four_times(__u64 ns, __u64 threshold)
{
	return ns >= 4 * threshold;
}

SEC("tp_btf/softirq_raise")
int softirq_raise(__u64 *ctx)
{
	struct ws_cpu *cpu = this_cpu();
	__u32 vector = ctx[0];

	if (cpu && vector < WS_VECTORS && !cpu->raised[vector])
		cpu->raised[vector] = bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/softirq_entry")
int softirq_entry(__u64 *ctx)
{
	struct ws_cpu *cpu = this_cpu();
	__u32 vector = ctx[0];
	__u64 now, raised, delay;

	if (!cpu || vector >= WS_VECTORS)
		return 0;
	now = bpf_ktime_get_ns();
	cpu->softirqs++;
	cpu->softirq_entry = now;
	raised = cpu->raised[vector];
	cpu->raised[vector] = 0;
	if (raised <= shared.softirq_epoch_ns)
		return 0;
	delay = now - raised;
	if (delay >= softirq_threshold_ns) {
		cpu->pending_seen &= ~(1u << vector);
		send_stack(ctx, WS_SOFTIRQ_DELAY, delay, vector, four_times(delay, softirq_threshold_ns));
	}
	return 0;
}

SEC("tp_btf/softirq_exit")
int softirq_exit(__u64 *ctx)
{
	struct ws_cpu *cpu = this_cpu();
	__u32 vector = ctx[0];
	__u64 run;

	if (!cpu || vector >= WS_VECTORS || cpu->softirq_entry <= shared.softirq_epoch_ns)
		return 0;
	run = bpf_ktime_get_ns() - cpu->softirq_entry;
	cpu->softirq_entry = 0;
	if (run >= softirq_threshold_ns)
		send_stack(ctx, WS_SOFTIRQ_RUN, run, vector, four_times(run, softirq_threshold_ns));
	return 0;
}

SEC("tp_btf/irq_handler_entry")
int irq_handler_entry(__u64 *ctx)
{
	struct ws_cpu *cpu = this_cpu();

	if (cpu)
		cpu->irq_entry = bpf_ktime_get_ns();
	return 0;
}

NOINLINE int send_irq(__u64 run, __u64 number, struct irqaction *action)
{
	struct ws_cpu *cpu = this_cpu();
	const char *name = 0;
	struct ws_irq *e;

	if (!cpu)
		return 0;
	e = reserve(cpu, WS_IRQ, four_times(run, irq_threshold_ns), limit_few, sizeof(*e));
	if (!e)
		return 0;
	fill_head(&e->head, WS_IRQ, run, number, bpf_get_current_task_btf());
	READ(name, action->name);
	if (bpf_probe_read_kernel_str(e->name, sizeof(e->name), name) < 0)
		e->name[0] = 0;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

SEC("tp_btf/irq_handler_exit")
int irq_handler_exit(__u64 *ctx)
{
	struct ws_cpu *cpu = this_cpu();
	__u64 run;

	if (!cpu || !cpu->irq_entry)
		return 0;
	run = bpf_ktime_get_ns() - cpu->irq_entry;
	cpu->irq_entry = 0;
	if (run >= irq_threshold_ns)
		send_irq(run, (__u32)ctx[0], (void *)ctx[1]);
	return 0;
}

INLINE void check_pending(void *ctx, struct ws_cpu *cpu, __u64 now)
{
#pragma clang loop unroll(disable)
	for (__u32 vector = 0; vector < WS_VECTORS; vector++) {
		__u64 raised = cpu->raised[vector];
		__s64 age = now - raised;

		if (raised <= shared.softirq_epoch_ns || age < (__s64)softirq_threshold_ns)
			continue;
		if (cpu->pending_seen & (1u << vector))
			continue;
		cpu->pending_seen |= 1u << vector;
		send_stack(ctx, WS_SOFTIRQ_PENDING, age, vector, four_times(age, softirq_threshold_ns));
	}
}

#define CLOCK_MONOTONIC 1
#define CHECK_EVERY_NS 3000000

/* Hard timers expire in interrupt context: one that comes late shows that interrupts were off, and each is an occasion
 * to look at what the CPU is doing. The scheduler's tick is one of them. */
SEC("tp_btf/hrtimer_expire_entry")
int hrtimer_expire_entry(__u64 *ctx)
{
	struct hrtimer *timer = (void *)ctx[0];
	struct ws_cpu *cpu = this_cpu();
	__u64 now;
	__s64 late;

	if (!cpu || timer->is_soft || timer->base->clockid != CLOCK_MONOTONIC)
		return 0;
	now = bpf_ktime_get_ns();
	late = now - timer->node.expires;
	/* Several timers that came late together are one stall. */
	if (late >= (__s64)irqoff_threshold_ns && now - late > cpu->irqoff_seen) {
		cpu->irqoff_seen = now;
		send_stack(ctx, WS_IRQOFF, late, 0, four_times(late, irqoff_threshold_ns));
	}
	if (now - cpu->checked < CHECK_EVERY_NS)
		return 0;
	cpu->checked = now;
	check_nosched(ctx, cpu);
	check_pending(ctx, cpu, now);
	return 0;
}
