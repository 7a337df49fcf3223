/* The part of the BPF interface that the programs use: types, section and map macros, helpers by their numbers
 * (include/uapi/linux/bpf.h). It stands in for libbpf's headers, so that building needs clang alone. */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef int __s32;
typedef long long __s64;
typedef _Bool bool;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))

/* Maps as BTF describes them. */
#define __uint(name, val) int(*name)[val]
#define __type(name, val) typeof(val) *name

/* A partial definition of a kernel structure: the loader puts in the running kernel's offsets (CO-RE). */
#define KERNEL __attribute__((preserve_access_index))
/* Reads a field through a pointer that the verifier does not know to be valid; 0 on success. */
#define READ(dst, src) \
	bpf_probe_read_kernel(&(dst), sizeof(dst), (const void *)__builtin_preserve_access_index(&(src)))
/* Whether the running kernel's structure has the field. */
#define HAS(field) __builtin_preserve_field_info(field, 2)
/* The running kernel's value of an enumerator. */
#define ENUM_VALUE(type, value) __builtin_preserve_enum_value(*(typeof(type) *)value, 1)

enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_RINGBUF = 27,
};

enum { BPF_ANY = 0, BPF_NOEXIST = 1 };
enum { BPF_RB_NO_WAKEUP = 1 };

static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static __u32 (*bpf_get_smp_processor_id)(void) = (void *)8;
static __u64 (*bpf_get_current_pid_tgid)(void) = (void *)14;
static long (*bpf_get_stack)(void *ctx, void *buf, __u32 size, __u64 flags) = (void *)67;
static long (*bpf_probe_read_kernel)(void *dst, __u32 size, const void *src) = (void *)113;
static long (*bpf_probe_read_kernel_str)(void *dst, __u32 size, const void *src) = (void *)115;
static __u64 (*bpf_ktime_get_boot_ns)(void) = (void *)125;
static void *(*bpf_ringbuf_reserve)(void *ringbuf, __u64 size, __u64 flags) = (void *)131;
static void (*bpf_ringbuf_submit)(void *data, __u64 flags) = (void *)132;
static struct task_struct *(*bpf_get_current_task_btf)(void) = (void *)158;
static long (*bpf_task_pt_regs)(struct task_struct *t) = (void *)175;
static long (*bpf_loop)(__u32 times, void *callback, void *ctx, __u64 flags) = (void *)181;
