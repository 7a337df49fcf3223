//! The kernel side of the `latency` collector: loading the BPF object, reading what it writes, and giving names to what
//! it found (cgroups by id, functions by address). It knows nothing of streams; `latency` makes rows of what it gives.

pub(crate) mod cgroups;
pub(crate) mod classify;
mod hist;
pub(crate) mod kallsyms;
pub(crate) mod object;
pub(crate) mod perf;
pub(crate) mod wire;

#[cfg(test)]
pub(crate) mod inject;
