//! Patterns with `*` (any text, also `/`) and `?` (one character).

/// A pattern that a whole text must match.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob(String);

impl Glob {
    /// Every text is a pattern.
    pub fn new(pattern: impl Into<String>) -> Glob {
        Glob(pattern.into())
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the whole of `text` matches. Takes at most the product of both lengths in steps.
    pub fn matches(&self, text: &str) -> bool {
        let (mut pattern, mut rest) = (self.0.chars(), text.chars());
        // Where to go on when what follows the last star does not match: the star takes one more character.
        let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
        loop {
            let before = rest.clone();
            match pattern.next() {
                Some('*') => {
                    retry = Some((pattern.clone(), before));
                    continue;
                }
                None if before.as_str().is_empty() => return true,
                Some(p) if rest.next().is_some_and(|c| p == '?' || p == c) => continue,
                _ => {}
            }
            let Some((after_star, from)) = &mut retry else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            pattern = after_star.clone();
            rest = from.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn globs() {
        let check = |pattern: &str, yes: &[&str], no: &[&str]| {
            let glob = Glob::new(pattern);
            yes.iter().for_each(|t| assert!(glob.matches(t), "{pattern} {t}"));
            no.iter().for_each(|t| assert!(!glob.matches(t), "{pattern} {t}"));
        };
        check("/batch/*", &["/batch/", "/batch/a/b"], &["/batch", "x/batch/a"]);
        check("*", &["", "a"], &[]);
        check("", &[""], &["a"]);
        check("a?c", &["abc", "aüc"], &["ac", "abbc"]);
        check("*a*b", &["ab", "xaab", "aabab"], &["aba", "b"]);
        check("**.service", &["x.service"], &["x.servic"]);
    }

    proptest! {
        #[test]
        fn agrees_with_the_plain_definition(p in "[ab*?]{0,8}", t in "[ab]{0,8}") {
            fn plain(p: &[u8], t: &[u8]) -> bool {
                match p.split_first() {
                    None => t.is_empty(),
                    Some((b'*', rest)) => (0..=t.len()).any(|i| plain(rest, &t[i..])),
                    Some((c, rest)) => t.split_first().is_some_and(|(d, t)| (*c == b'?' || c == d) && plain(rest, t)),
                }
            }
            prop_assert_eq!(Glob::new(p.clone()).matches(&t), plain(p.as_bytes(), t.as_bytes()));
        }
    }
}
