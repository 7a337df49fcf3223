/* Direct reclaim, direct compaction, throttling in reclaim, and the lives of memory cgroups. */
#pragma once
#include "common.h"

/* When a task began what it is doing, by kind and pid. */
struct inflight_key {
	__u32 kind;
	__u32 pid;
};

struct inflight {
	__u64 began_ns;
	__u64 aux;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct inflight_key);
	__type(value, struct inflight);
} inflight SEC(".maps");

INLINE int begin(__u32 kind, __u64 aux)
{
	struct inflight_key key = { .kind = kind, .pid = bpf_get_current_pid_tgid() };
	struct inflight value = { .began_ns = bpf_ktime_get_ns(), .aux = aux };
	struct ws_cpu *cpu;

	if (bpf_map_update_elem(&inflight, &key, &value, BPF_ANY)) {
		cpu = this_cpu();
		if (cpu)
			rate_of(cpu, kind, 0)->lost++;
	}
	return 0;
}

NOINLINE int send_memory(__u32 kind, __u64 dur_ns, __u64 aux, __u64 mem_cgroup)
{
	struct ws_cpu *cpu = this_cpu();
	struct ws_head *e;

	if (!cpu)
		return 0;
	e = reserve(cpu, kind, dur_ns >= 10000000, limit_many, sizeof(*e));
	if (!e)
		return 0;
	fill_head(e, kind, dur_ns, aux, bpf_get_current_task_btf());
	e->mem_cgroup = mem_cgroup;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

INLINE int end(__u32 kind)
{
	struct inflight_key key = { .kind = kind, .pid = bpf_get_current_pid_tgid() };
	struct inflight *began = bpf_map_lookup_elem(&inflight, &key);
	__u64 dur, aux, cgroup;

	if (!began)
		return 0;
	dur = bpf_ktime_get_ns() - began->began_ns;
	aux = began->aux;
	bpf_map_delete_elem(&inflight, &key);
	cgroup = mem_cgroup_of(bpf_get_current_task_btf());
	hist_add_cgroup(cgroup, kind, dur);
	if (dur >= reclaim_threshold_ns)
		send_memory(kind, dur, aux, cgroup);
	return 0;
}

SEC("tp_btf/mm_vmscan_direct_reclaim_begin")
int direct_reclaim_begin(__u64 *ctx)
{
	return begin(WS_RECLAIM, 0);
}

SEC("tp_btf/mm_vmscan_direct_reclaim_end")
int direct_reclaim_end(__u64 *ctx)
{
	return end(WS_RECLAIM);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_begin")
int memcg_reclaim_begin(__u64 *ctx)
{
	return begin(WS_MEMCG_RECLAIM, 0);
}

SEC("tp_btf/mm_vmscan_memcg_reclaim_end")
int memcg_reclaim_end(__u64 *ctx)
{
	return end(WS_MEMCG_RECLAIM);
}

/* kcompactd compacts in the background: nobody waits for it. */
SEC("tp_btf/mm_compaction_begin")
int compaction_begin(__u64 *ctx)
{
	struct compact_control *cc = (void *)ctx[0];
	int order = 0;

	if (bpf_get_current_task_btf()->flags & PF_KTHREAD)
		return 0;
	/* Older kernels pass a page number here: then the read fails. */
	return begin(WS_COMPACTION, READ(order, cc->order) ? ~0ULL : order);
}

SEC("tp_btf/mm_compaction_end")
int compaction_end(__u64 *ctx)
{
	return end(WS_COMPACTION);
}

SEC("tp_btf/mm_vmscan_throttled")
int vmscan_throttled(__u64 *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();
	__u64 slept = (__u64)(__u32)ctx[2] * 1000;

	if (t->flags & PF_KTHREAD)
		return 0;
	return send_memory(WS_THROTTLED, slept, (__u32)ctx[3], mem_cgroup_of(t));
}

INLINE int life(__u32 kind, __u64 *ctx)
{
	struct cgroup *cgroup = (void *)ctx[0];
	__u64 index = ENUM_VALUE(enum cgroup_subsys_id, memory_cgrp_id), parent = 0;
	struct cgroup_subsys_state *css = 0, *own = 0;
	struct cgroup *above = 0;
	struct kernfs_node *kn = 0;
	struct ws_cpu *cpu = this_cpu();
	struct ws_life *e;

	/* Only the hierarchy that has the memory controller. */
	if (!cpu || !(cgroup->root->subsys_mask >> (index & 31) & 1))
		return 0;
	e = reserve(cpu, kind, 0, limit_many, sizeof(*e));
	if (!e)
		return 0;
	fill_head(&e->head, kind, 0, cgroup->kn->id, bpf_get_current_task_btf());
	READ(css, cgroup->self.parent);
	READ(above, css->cgroup);
	READ(kn, above->kn);
	READ(parent, kn->id);
	e->head.mem_cgroup = parent;
	e->charged = 0;
	if (kind == WS_CGROUP_RMDIR) {
		bpf_probe_read_kernel(&own, sizeof(own),
				      (char *)__builtin_preserve_access_index(&cgroup->subsys[0]) + index * sizeof(own));
		READ(e->charged, ((struct mem_cgroup *)own)->memory.usage.counter);
	}
	if (bpf_probe_read_kernel_str(e->path, sizeof(e->path), (const void *)ctx[1]) < 0)
		e->path[0] = 0;
	bpf_ringbuf_submit(e, 0);
	return 0;
}

SEC("tp_btf/cgroup_mkdir")
int cgroup_mkdir(__u64 *ctx)
{
	return life(WS_CGROUP_MKDIR, ctx);
}

SEC("tp_btf/cgroup_rmdir")
int cgroup_rmdir(__u64 *ctx)
{
	return life(WS_CGROUP_RMDIR, ctx);
}

SEC("tp_btf/cgroup_release")
int cgroup_release(__u64 *ctx)
{
	return life(WS_CGROUP_RELEASE, ctx);
}
