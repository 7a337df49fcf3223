//! Commands to be copied into a shell, whatever names from the kernel they carry.

use whystall_event::text::escape;

/// One argument as a shell reads it back. Plain words stay; others stand in single quotes; what a terminal must not see
/// (control characters, direction overrides) becomes octal escapes in `$'…'`, which POSIX.1-2024 shells understand.
pub fn quote(arg: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_@%+=:,./-".contains(c);
    if !arg.is_empty() && arg.chars().all(plain) {
        return arg.to_string();
    }
    // What `escape` would change must not reach the terminal.
    if escape(arg) == arg {
        return format!("'{}'", arg.replace('\'', r"'\''"));
    }
    let mut out = String::from("$'");
    for c in arg.chars() {
        let mut buffer = [0; 4];
        let text: &str = c.encode_utf8(&mut buffer);
        if c == '\'' || c == '\\' {
            out.push('\\');
            out.push(c);
        } else if escape(text) == text {
            out.push(c);
        } else {
            for b in text.bytes() {
                out.push_str(&format!("\\{b:03o}"));
            }
        }
    }
    out.push('\'');
    out
}

/// An argument vector as a line for a shell.
pub fn command(argv: &[String]) -> String {
    let words: Vec<String> = argv.iter().map(|a| quote(a)).collect();
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoting() {
        for (arg, quoted) in [
            ("MemoryMax=1G", "MemoryMax=1G"),
            ("", "''"),
            ("a b", "'a b'"),
            ("it's", r"'it'\''s'"),
            ("$(reboot)", "'$(reboot)'"),
            ("-x;~", "'-x;~'"),
            ("a\nb", r"$'a\012b'"),
            ("\\'\x1b", r"$'\\\'\033'"),
            ("\u{202e}1", r"$'\342\200\2561'"),
        ] {
            assert_eq!(quote(arg), quoted, "{arg:?}");
        }
    }

    /// A real shell must give back what was quoted.
    #[test]
    fn a_shell_reads_back_what_was_quoted() {
        let args: Vec<String> = (1..=127u8)
            .map(|b| format!("x{}y", b as char))
            .chain(
                ["", "\u{202e}\u{9b}", "!!", "a\\012", "'\n'", "*", "~root", "#", "{a,b}"].map(String::from),
            )
            .collect();
        let script = format!("printf '%s\\0' {}", command(&args));
        let out = match std::process::Command::new("bash").arg("-c").arg(script).output() {
            Ok(out) => out,
            Err(e) => {
                eprintln!("skipped: no bash: {e}");
                return;
            }
        };
        let back: Vec<&[u8]> = out.stdout.split(|b| *b == 0).collect();
        for (given, got) in args.iter().zip(&back) {
            assert_eq!(given.as_bytes(), *got);
        }
        assert_eq!(back.len(), args.len() + 1);
    }
}
