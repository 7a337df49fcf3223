//! For tests: control groups on this machine's kernel, removed again whatever happens, and trees of plain directories.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use whystall_event::{Batch, RowRef, SEC, Stamp, Subject};

use super::mounts::{Hierarchies, Hierarchy};
use crate::{Pass, Polled, Roots};

/// Held by tests that make a real-time hog: two at once would each be the other's culprit.
static REAL_TIME: std::sync::Mutex<()> = std::sync::Mutex::new(());

/// Waits until no other test makes a real-time hog. One that failed meanwhile makes none any more.
pub(crate) fn alone_in_real_time() -> std::sync::MutexGuard<'static, ()> {
    REAL_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// A control group made for a test, with all below it.
pub(crate) struct Group {
    pub(crate) dir: PathBuf,
    /// Its path within the hierarchy.
    pub(crate) path: String,
}

impl Group {
    /// A new group of `controller` at the root of its hierarchy; `None`, saying why, where that cannot be.
    pub(crate) fn new(controller: &str) -> Option<Group> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let hierarchies = Hierarchies::find(&Roots::default()).ok()?;
        let hierarchy: &Hierarchy = match hierarchies.of(controller) {
            Ok(h) => h,
            Err(e) => {
                println!("skipped: {e}");
                return None;
            }
        };
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("whystall-test-{}-{n}", std::process::id());
        let dir = hierarchy.dir.join(&name);
        match fs::create_dir(&dir) {
            Ok(()) => {
                let path = format!("{}/{name}", hierarchy.prefix.trim_end_matches('/'));
                Some(Group { dir, path })
            }
            Err(e) => {
                println!("skipped: {}: {e}", dir.display());
                None
            }
        }
    }

    /// A group below this one.
    pub(crate) fn child(&self, name: impl AsRef<Path>) -> PathBuf {
        let dir = self.dir.join(name);
        fs::create_dir(&dir).unwrap();
        dir
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        remove_tree(&self.dir);
    }
}

/// Removes a control group and all below it: rmdir from the leaves up, as its files cannot be unlinked.
fn remove_tree(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    // A group whose last task is just leaving is busy for a moment.
    for _ in 0..200 {
        match fs::remove_dir(dir) {
            Err(e) if e.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            _ => return,
        }
    }
}

/// The real clock.
pub(crate) fn clock() -> Stamp {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the struct is valid for writing.
    unsafe { libc::clock_gettime(libc::CLOCK_BOOTTIME, &mut t) };
    Stamp { boot_ns: t.tv_sec as u64 * SEC + t.tv_nsec as u64, wall_ns: 0 }
}

/// One pass with plenty of time.
pub(crate) fn pass(collector: &mut dyn Polled) -> Vec<Batch> {
    pass_at(collector, clock())
}

/// One pass said to be at `at`, with plenty of time.
pub(crate) fn pass_at(collector: &mut dyn Polled, at: Stamp) -> Vec<Batch> {
    let mut pass = Pass::new(at, clock, u64::MAX);
    collector.collect(&mut pass).unwrap();
    pass.batches
}

/// The number in `field` (its last part) of the latest row about `subject` in `stream` that has it.
pub(crate) fn value(batches: &[Batch], stream: &str, subject: &str, field: &str) -> Option<f64> {
    find(batches, stream, subject, field, |row, i| row.number(i))
}

/// The text in `field` of the latest row about `subject` in `stream` that has it.
pub(crate) fn shown(batches: &[Batch], stream: &str, subject: &str, field: &str) -> Option<String> {
    find(batches, stream, subject, field, |row, i| row.text(i).map(|t| t.to_string()))
}

fn find<V>(
    batches: &[Batch],
    stream: &str,
    subject: &str,
    field: &str,
    get: impl Fn(RowRef<'_>, usize) -> Option<V>,
) -> Option<V> {
    let subject: Subject = subject.parse().unwrap();
    let of_stream = batches.iter().filter(|b| b.stream.name == stream);
    of_stream
        .flat_map(|b| b.rows())
        .filter(|r| *r.subject == subject)
        .filter_map(|r| {
            let stream = &batches.iter().find(|b| b.stream.name == stream)?.stream;
            let i = stream.field_index(field).unwrap_or_else(|| panic!("no field {field}"));
            get(r, i)
        })
        .last()
}

/// All batches as text, a line a value, for golden tests.
pub(crate) fn dump(batches: &[Batch]) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for batch in batches {
        for row in batch.rows() {
            for (i, field) in batch.stream.fields.iter().enumerate() {
                let value = match (row.number(i), row.text(i)) {
                    (Some(n), _) => n.to_string(),
                    (_, Some(t)) => format!("{:?}", t.as_ref()),
                    _ => continue,
                };
                let subject = whystall_event::text::escape(&row.subject.to_string()).into_owned();
                writeln!(out, "{}.{}{{{subject}}} {value}", batch.stream.name, field.name).unwrap();
            }
        }
        for gone in &batch.gone {
            writeln!(out, "{} gone {gone}", batch.stream.name).unwrap();
        }
    }
    out
}

/// Holds `collector`'s output against a golden file; `WHYSTALL_BLESS=1` writes it anew.
pub(crate) fn golden(batches: &[Batch], file: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(file);
    let got = dump(batches);
    if std::env::var_os("WHYSTALL_BLESS").is_some() {
        fs::write(&path, &got).unwrap();
    }
    let want = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(got, want, "{} (WHYSTALL_BLESS=1 writes it anew)", path.display());
}

/// The roots of a fixture directory.
pub(crate) fn fixture(name: &str) -> Roots {
    Roots::under(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures").join(name))
}
