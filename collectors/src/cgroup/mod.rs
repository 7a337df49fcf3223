//! Control groups, shared by the collectors that read them: where the hierarchies are mounted ([`mounts`]), the tree of
//! directories with its kept file descriptors ([`tree`], [`files`]), the formats of the files ([`parse`]), the kernel's
//! own count ([`census`]) and exact notice of directories that come and go ([`watch`]).
//!
//! Nothing here writes to a control group, and nothing keeps a removed one alive: an open file or directory of cgroupfs
//! holds no reference to the group's memory controller.

mod census;
#[cfg(test)]
mod costs;
pub(crate) mod files;
pub(crate) mod mounts;
pub(crate) mod parse;
#[cfg(test)]
pub(crate) mod testing;
pub(crate) mod tree;
pub(crate) mod watch;

use whystall_event::{Field, FieldKind, Row};

use crate::{CollectError, Pass, Roots, Settings, Unavailable};

/// Declares a stream's fields as a list together with the index of each, which then cannot disagree.
macro_rules! fields {
    ($list:ident, $index:ident: $($name:ident = $field:expr;)*) => {
        /// Indices of the fields.
        pub(crate) mod $index {
            #[allow(clippy::upper_case_acronyms, non_camel_case_types)]
            enum Index { $($name),* }
            $(pub(crate) const $name: usize = Index::$name as usize;)*
        }
        pub(crate) const $list: &[whystall_event::Field] = &[$($field),*];
    };
}
pub(crate) use fields;

/// Sets a number read from the kernel, whatever the field's kind.
pub(crate) fn put(row: &mut Row<'_>, fields: &[Field], index: usize, value: u64) {
    if fields.get(index).is_some_and(|f| f.kind == FieldKind::Gauge) {
        row.gauge(index, value as f64);
    } else {
        row.int(index, value);
    }
}

/// Half of a pass's time: for following the tree, so that there is time left for reading.
pub(crate) fn half_time(pass: &Pass) -> u64 {
    pass.at.boot_ns + pass.deadline_ns.saturating_sub(pass.at.boot_ns) / 2
}

/// The descriptors that a part may keep, in hundredths of the process's limit. All parts together stay under 75, so that
/// the rest of the process never runs out: memcg 30 and 2, cpu_cgroup 10, 10 and 2, zombie_memcg 6, schedstat 14.
pub(crate) fn fd_share(percent: u64) -> usize {
    usize::try_from(files::raise_nofile().saturating_mul(percent) / 100).unwrap_or(usize::MAX).min(200_000)
}

/// Directories that long had no children are asked every so many passes while no cgroup seems to be made.
const LEAVES_EVERY: u32 = 4;

/// A tree that may keep `percent` of the process's descriptors, with the error naming its root.
pub(crate) fn open_tree<T: Default>(
    roots: &Roots,
    hierarchy: &mounts::Hierarchy,
    specs: &'static [tree::FileSpec],
    cgroups: usize,
    percent: u64,
) -> Result<tree::Tree<T>, Unavailable> {
    let limits = tree::Limits { cgroups, fds: fd_share(percent) };
    let mut tree = tree::Tree::new(hierarchy, specs, limits)
        .map_err(|e| Unavailable::because(CollectError::read(&hierarchy.dir, e).to_string()))?;
    tree.rest_leaves_unless(census::Census::of(hierarchy, roots), LEAVES_EVERY);
    Ok(tree)
}

/// The setting `max_cgroups`: directories followed at most.
pub(crate) fn max_cgroups(settings: &Settings) -> Result<usize, Unavailable> {
    setting(settings, "max_cgroups", 20_000, 1..=1_000_000).map(|n| n as usize)
}

/// Whether something that may wait is due for cgroup `id`: every `every`-th pass, more rarely from thousands of cgroups
/// on, and not for all in the same pass.
pub(crate) fn turn(passes: u32, id: u32, every: u32, cgroups: usize) -> bool {
    let every = every.max(u32::try_from(cgroups / 100).unwrap_or(u32::MAX).min(60));
    passes.wrapping_add(id).is_multiple_of(every)
}

/// Reads a whole-number setting, or its default, and holds it within a range.
pub(crate) fn setting(
    settings: &Settings,
    key: &str,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> Result<u64, Unavailable> {
    let Some(value) = settings.get(key) else {
        return Ok(default);
    };
    value.as_integer().and_then(|v| u64::try_from(v).ok()).filter(|v| range.contains(v)).ok_or_else(|| {
        Unavailable::settings(format!(
            "{key} must be a whole number from {} to {}, not {}",
            range.start(),
            range.end(),
            whystall_event::text::escape(&value.to_string())
        ))
    })
}
