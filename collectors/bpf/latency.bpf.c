/* The kernel's own latencies: one object whose programs are loaded and attached each on its own.
 *
 *   sched.h   waits for a CPU, CPUs that do not schedule
 *   irq.h     softirqs, hard interrupts, interrupts off
 *   lock.h    waits for kernel locks
 *   memory.h  reclaim, compaction, lives of memory cgroups
 *
 * Built by build.sh; the object is checked in, so that building whystall needs no clang. */
#include "common.h"
#include "irq.h"
#include "lock.h"
#include "memory.h"
#include "sched.h"

char LICENSE[] SEC("license") = "Dual MIT/GPL";
