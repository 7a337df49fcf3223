//! Rule files: the built-in ones, and those found in directories. Reads text; what it means is the engine's business.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use whystall_engine::script::MAX_SOURCE;

/// Files, and directories, that are looked at.
const MAX_FILES: usize = 10_000;

/// Where a rule file comes from. A rule of a later layer replaces the one with its id of an earlier layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Layer {
    /// Ships with whystall.
    Builtin,
    /// The user's own.
    User,
    /// To be compared with the others.
    Trial,
}

/// A rule file's text.
#[derive(Debug, Clone)]
pub struct RuleFile {
    /// How it is named in diagnostics.
    pub file: String,
    /// Its text; bytes that are no UTF-8 are replaced, which the parser then complains about.
    pub text: Cow<'static, str>,
    /// Where it comes from.
    pub layer: Layer,
}

impl RuleFile {
    /// The name of the library that this file is, if it stands in a directory `lib`.
    pub fn library(&self) -> Option<&str> {
        let path = Path::new(&self.file);
        let within = path.parent().and_then(Path::file_name).is_some_and(|d| d == "lib");
        path.file_stem().filter(|_| within)?.to_str()
    }
}

/// The libraries beside the rule file at `path`: in `lib` there, or where the directories of rules are.
pub fn beside(path: &Path, layer: Layer) -> io::Result<Vec<RuleFile>> {
    let mut found = Vec::new();
    let here = path.parent().map(|d| if d.as_os_str().is_empty() { Path::new(".") } else { d });
    // Named as a search from above names them, so that none is read twice.
    let above = |d: &Path| match d.parent() {
        Some(p) if !p.as_os_str().is_empty() => p.join("lib"),
        _ => d.join("../lib"),
    };
    for dir in here.into_iter().flat_map(|d| [above(d), d.join("lib")]).filter(|d| d.is_dir()) {
        found.extend(read_dir(&dir, layer)?);
    }
    Ok(found)
}

/// The built-in rules.
pub fn builtin() -> Vec<RuleFile> {
    let file = |b: &whystall_rules::Builtin| RuleFile {
        file: format!("rules/{}", b.path),
        text: b.source.into(),
        layer: Layer::Builtin,
    };
    whystall_rules::ALL.iter().map(file).collect()
}

/// The rule file at `path`.
pub fn read(path: &Path, layer: Layer) -> io::Result<RuleFile> {
    let mut bytes = Vec::new();
    // One byte more than allowed, so that the loader sees that it is too long.
    File::open(path)?.take(MAX_SOURCE as u64 + 1).read_to_end(&mut bytes)?;
    let text = match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(e) => String::from_utf8_lossy(e.as_bytes()).into_owned(),
    };
    Ok(RuleFile { file: path.display().to_string(), text: text.into(), layer })
}

/// All `*.rhai` files in `dir` and below, in the order of their paths. Hidden directories and files are left out:
/// Kubernetes and editors keep copies in them.
pub fn find(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    walk(dir, &mut BTreeSet::new(), &mut found)?;
    found.sort();
    Ok(found)
}

fn walk(dir: &Path, seen: &mut BTreeSet<PathBuf>, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", dir.display()));
    // Links are followed, as they are used to switch sets of rules, but no directory is searched twice.
    if seen.len() >= MAX_FILES || !seen.insert(dir.canonicalize().map_err(named)?) {
        return Ok(());
    }
    for entry in std::fs::read_dir(dir).map_err(named)? {
        let entry = entry.map_err(named)?;
        if entry.file_name().as_encoded_bytes().starts_with(b".") {
            continue;
        }
        let path = entry.path();
        if path.is_dir() {
            walk(&path, seen, found)?;
        } else if path.extension().is_some_and(|e| e == "rhai") {
            if found.len() >= MAX_FILES {
                return Err(io::Error::other(format!("{}: more than {MAX_FILES} rule files", dir.display())));
            }
            found.push(path);
        }
    }
    Ok(())
}

/// The rule files of a run that goes on: the built-in ones if wanted, and those of `dirs`, of which any may be missing.
///
/// # Errors
/// If something is there and cannot be read; the message names it.
pub fn of_run(dirs: &[PathBuf], with_builtin: bool) -> io::Result<Vec<RuleFile>> {
    let mut files = if with_builtin { builtin() } else { Vec::new() };
    for dir in dirs {
        match dir.metadata() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            _ => files.extend(read_dir(dir, Layer::User)?),
        }
    }
    Ok(files)
}

/// The rule files in `dir` and below.
pub fn read_dir(dir: &Path, layer: Layer) -> io::Result<Vec<RuleFile>> {
    let one =
        |p: &PathBuf| read(p, layer).map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", p.display())));
    find(dir)?.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_are_searched_in_order_and_without_hidden_ones() {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in
            [("b.rhai", "B"), ("a/z.rhai", "Z"), ("..data/b.rhai", "no"), ("x.txt", "no"), (".c.rhai", "no")]
        {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::os::unix::fs::symlink(dir.path(), dir.path().join("a/loop")).unwrap();
        let texts: Vec<String> =
            read_dir(dir.path(), Layer::User).unwrap().into_iter().map(|f| f.text.into_owned()).collect();
        assert_eq!(texts, ["Z", "B"]);
        assert!(
            read_dir(&dir.path().join("missing"), Layer::User).unwrap_err().to_string().contains("missing")
        );
    }

    #[test]
    fn long_and_binary_files_are_read_as_what_the_loader_refuses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.rhai");
        std::fs::write(&path, vec![b'x'; MAX_SOURCE * 2]).unwrap();
        assert_eq!(read(&path, Layer::User).unwrap().text.len(), MAX_SOURCE + 1);
        std::fs::write(&path, b"\xff\xfe").unwrap();
        assert_eq!(read(&path, Layer::User).unwrap().text, "\u{fffd}\u{fffd}");
    }
}
