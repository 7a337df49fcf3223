//! Secrets: read from files or systemd credentials, never shown.

use std::borrow::Cow;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use whystall_event::text::{escape, shorten};

use super::{Fault, Wrong};

/// Larger files hold no secret.
const LARGEST: u64 = 64 << 10;
/// Shorter parts are not blotted out: they would take half of every message with them.
const SHORTEST: usize = 4;

/// A text that is shown nowhere; its `Debug` says only that it is there.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text into custody.
    pub fn new(text: impl Into<String>) -> Secret {
        Secret(text.into())
    }

    /// The text, for the peer it is meant for.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// The file that a setting names: a path, or `credential:NAME` for a credential that systemd passed to the service.
fn locate(setting: &Path) -> Result<PathBuf, Fault> {
    let Some(name) = setting.to_str().and_then(|s| s.strip_prefix("credential:")) else {
        return Ok(setting.to_path_buf());
    };
    if name.is_empty() || name.contains('/') || name.starts_with('.') {
        return Err(Fault::new(format!("`{name}` is no name of a credential"))
            .help("write credential:NAME as in LoadCredential=NAME:/path"));
    }
    match std::env::var_os("CREDENTIALS_DIRECTORY") {
        Some(dir) => Ok(Path::new(&dir).join(name)),
        None => Err(Fault {
            unknown_here: true,
            ..Fault::new(format!("there is no credential `{name}`: $CREDENTIALS_DIRECTORY is not set"))
                .help("only the service has it; its unit needs LoadCredential= with that name")
        }),
    }
}

/// A file's content, of bounded size.
pub(super) fn read_file(setting: &Path, key: &'static str) -> Result<Vec<u8>, Wrong> {
    let path = locate(setting).map_err(|f| f.at(key))?;
    let wrong = |why: String| Fault::new(format!("{}: {why}", escape(&path.display().to_string()))).at(key);
    let mut bytes = Vec::new();
    let file = std::fs::File::open(&path).map_err(|e| wrong(e.to_string()))?;
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(|e| wrong(e.to_string()))?;
    if bytes.len() as u64 > LARGEST {
        return Err(wrong("larger than 64 KiB".into()));
    }
    Ok(bytes)
}

/// A file's text without blanks and line ends around it.
pub(super) fn read(setting: &Path, key: &'static str) -> Result<Secret, Wrong> {
    let wrong = |why: &str| Fault::new(format!("{}: {why}", escape(&setting.display().to_string()))).at(key);
    let bytes = read_file(setting, key)?;
    let text = String::from_utf8(bytes).map_err(|_| wrong("is not UTF-8"))?;
    match text.trim() {
        "" => Err(wrong("is empty")),
        text => Ok(Secret::new(text)),
    }
}

/// As it stands in headers and in logins.
pub(super) fn base64(s: &str) -> String {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.encode(s)
}

/// `%41` as `A`; what is no such code stays.
fn decoded(s: &str) -> String {
    let mut out = Vec::new();
    let mut rest = s.as_bytes();
    while let Some((first, more)) = rest.split_first() {
        let code = more.get(..2).filter(|_| *first == b'%').and_then(|c| std::str::from_utf8(c).ok());
        match code.and_then(|c| u8::from_str_radix(c, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = more.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Takes secrets out of texts that come from peers and libraries, before anyone sees them.
#[derive(Clone, Default)]
pub(super) struct Redactor(Vec<String>);

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Redactor({})", self.0.len())
    }
}

impl Redactor {
    pub(super) fn hide(&mut self, secret: &str) {
        if secret.len() >= SHORTEST && !self.0.iter().any(|s| s == secret) {
            self.0.push(secret.to_string());
            // The whole before its parts.
            self.0.sort_by_key(|s| std::cmp::Reverse(s.len()));
        }
    }

    /// Hides everything of a URL but its scheme, host and port.
    pub(super) fn hide_url(&mut self, url: &reqwest::Url) {
        self.hide(url.as_str());
        let parts =
            [url.path().trim_start_matches('/'), url.query().unwrap_or(""), url.password().unwrap_or("")];
        parts.into_iter().for_each(|p| self.hide(p));
        if let Some(password) = url.password() {
            self.hide(&decoded(password));
            self.hide(&base64(&format!("{}:{}", decoded(url.username()), decoded(password))));
        }
        let long = |s: &&str| s.len() >= 8;
        url.path().split('/').filter(long).for_each(|s| self.hide(s));
        for (_, value) in url.query_pairs() {
            self.hide(&value);
        }
    }

    /// One line that is safe to show: without secrets, escaped, of bounded length.
    pub(super) fn line(&self, text: &str) -> String {
        let mut text = Cow::Borrowed(text);
        for secret in self.0.iter().filter(|s| !s.is_empty()) {
            if text.contains(secret.as_str()) {
                text = Cow::Owned(text.replace(secret.as_str(), "***"));
            }
        }
        // A text that was cut may end within a secret.
        let begun =
            |s: &String| (SHORTEST..s.len()).rev().find(|n| s.get(..*n).is_some_and(|b| text.ends_with(b)));
        if let Some(n) = self.0.iter().filter_map(begun).max() {
            text = Cow::Owned(format!("{}***", &text[..text.len() - n]));
        }
        shorten(&escape(text.trim()), 300).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let s = Secret::new("hunter2-hunter2");
        assert_eq!(format!("{s:?}"), "Secret(***)");
        let mut r = Redactor::default();
        r.hide(s.expose());
        r.hide_url(&"https://u:sesame@h.example/services/T000/verysecret?token=abcd1234".parse().unwrap());
        let line =
            r.line("hunter2-hunter2 at /services/T000/verysecret, verysecret: abcd1234 sesame\n\x1b[0m");
        assert_eq!(line, "*** at /***, ***: *** ***\\n\\x1b[0m");
        assert_eq!(r.line("it is hunter2-hun"), "it is ***", "a text that was cut");
        let mut coded = Redactor::default();
        coded.hide_url(&"http://u:p%40ss%zz@h/".parse().unwrap());
        assert_eq!(coded.line("p@ss%zz p%40ss%zz dTpwQHNzJXp6"), "*** *** ***");
        assert!(!format!("{r:?}").contains("sesame"));
        assert_eq!(r.line(&"x".repeat(1000)).chars().count(), 300);
    }

    #[test]
    fn files_without_a_secret_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let why = |path: &Path| read(path, "secret_file").unwrap_err();
        assert!(why(&path).1.why.contains("No such file"), "{:?}", why(&path));
        std::fs::write(&path, "\n").unwrap();
        assert!(why(&path).1.why.ends_with("is empty"));
        std::fs::write(&path, [0xff]).unwrap();
        assert!(why(&path).1.why.ends_with("is not UTF-8"));
        std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
        assert!(why(&path).1.why.ends_with("larger than 64 KiB"));
        std::fs::write(&path, " abc \n").unwrap();
        assert_eq!(read(&path, "secret_file").unwrap().expose(), "abc");
        for bad in ["credential:", "credential:../x", "credential:a/b"] {
            assert!(why(Path::new(bad)).1.why.contains("is no name of a credential"), "{bad}");
        }
    }
}
